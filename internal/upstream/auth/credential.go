package auth

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// Credential is a login.
type Credential struct {
	Username string
	Password secret.String
}

// basic is the Authorization header that carries the login (RFC 7617).
func (c Credential) basic() secret.String {
	pair := c.Username + ":" + c.Password.Reveal()
	return secret.New("Basic " + base64.StdEncoding.EncodeToString([]byte(pair)))
}

// key tells logins apart without revealing them. The name is quoted so that no two logins spell the same.
func (c Credential) key() secret.Key {
	return secret.New(strconv.Quote(c.Username) + ":" + c.Password.Reveal()).Key()
}

// Entry is a configured login: for a registry, or for the token host that serves it.
type Entry struct {
	// Host is the registry's or the token host's host[:port], as configured. "http://host[:port]" is a registry that
	// speaks plain HTTP.
	Host string
	Credential
}

// entry is an Entry whose host was understood.
type entry struct {
	// authority is host[:port] without a default port, "docker.io" for Docker Hub.
	authority string
	Credential
}

func parseEntry(e Entry) (entry, error) {
	host := strings.TrimPrefix(e.Host, "https://")
	parse := oci.ParseRegistry
	if rest, plain := strings.CutPrefix(host, "http://"); plain {
		host, parse = rest, oci.ParsePlainRegistry
	}
	host, _, _ = strings.Cut(host, "/") // Docker's own spelling is https://index.docker.io/v1/
	reg, err := parse(host)
	if err != nil {
		return entry{}, fmt.Errorf("login of %q: %w", e.Host, err)
	}
	return entry{authority: bare(reg), Credential: e.Credential}, nil
}

// bare is a registry's name without its scheme.
func bare(reg oci.Registry) string { return strings.TrimPrefix(string(reg), "http://") }

// plainHub is how Docker Hub would be asked without TLS: never with its login, which goes by the same name.
const plainHub = "http://" + oci.DockerHub

// ownCredential is the login configured for the registry itself. A login names no scheme: it serves a registry in plain
// HTTP too, which is asked only where the operator configured it so.
func (a *Authorizer) ownCredential(reg oci.Registry) (Credential, bool) {
	if reg == plainHub {
		return Credential{}, false
	}
	for _, e := range a.entries {
		if e.authority == bare(reg) {
			return e.Credential, true
		}
	}
	return Credential{}, false
}

// realmCredential is the login to present at a realm for a registry: the registry's own, or the realm host's, and none
// unless the two are paired.
func (a *Authorizer) realmCredential(reg oci.Registry, r realm) (Credential, bool) {
	if reg == plainHub || !a.paired(reg, r.host) {
		return Credential{}, false
	}
	if c, ok := a.ownCredential(reg); ok {
		return c, true
	}
	for _, e := range a.entries {
		if e.authority == r.authority {
			return e.Credential, true
		}
	}
	return Credential{}, false
}
