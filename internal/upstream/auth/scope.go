package auth

// Scope names what a token is for, in the words of the token specification: "repository:library/alpine:pull". The empty
// scope asks for no particular right, as the ping does.
type Scope string

// PullScope is the right to pull a repository.
func PullScope(repository string) Scope { return Scope("repository:" + repository + ":pull") }
