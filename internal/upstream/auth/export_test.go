package auth

// Pulls is pulls.
func Pulls(scopes []string) []string { return pulls(scopes) }
