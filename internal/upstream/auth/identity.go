package auth

import "container-registry-proxy/internal/secret"

// Identity says as whom a registry is asked. The zero value is nobody in particular: no credential but an anonymous
// token. Identities are comparable through [Identity.Key].
type Identity struct {
	central bool
	own     secret.String
}

// Anonymous carries no credentials.
var Anonymous = Identity{}

// Central uses the credentials that the operator configured for the registry.
var Central = Identity{central: true}

// Own sends a client's own Authorization header as it came, and answers no challenge in its name.
func Own(authorization secret.String) Identity { return Identity{own: authorization} }

// IsCentral reports whether the identity is the operator's.
func (id Identity) IsCentral() bool { return id.central }

// IsOwn reports whether the identity is a client's own.
func (id Identity) IsOwn() bool { return !id.own.Empty() }

// Key tells identities apart without revealing them.
func (id Identity) Key() secret.Key {
	if id.central {
		return secret.Key{1}
	}
	if id.own.Empty() {
		return secret.Key{}
	}
	return id.own.Key()
}
