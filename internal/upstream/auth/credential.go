package auth

import "container-registry-proxy/internal/secret"

// Credential is a login.
type Credential struct {
	Username string
	Password secret.String
}

// Entry is a configured login: for a registry, or for the token host that serves it.
type Entry struct {
	// Host is the registry's or the token host's host[:port], as configured.
	Host string
	Credential
}
