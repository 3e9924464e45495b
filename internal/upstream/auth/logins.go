package auth

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// Logins finds the operator's logins. It is package credential. Hosts are registries and token services alike; where the
// login of one may be sent is decided here.
type Logins interface {
	// Hosts are those that the operator named together with a login.
	Hosts() []oci.Registry
	// Has reports whether there is a login for the repository at the host, though its source may fail at present.
	Has(ctx context.Context, host oci.Registry, repository string) bool
	// Login returns it. The error is [credential.ErrNone], or that its source fails, or the cause of ctx.
	Login(ctx context.Context, host oci.Registry, repository string) (credential.Login, error)
	// Renew asks for a login again that was refused, and reports whether there is another one now.
	Renew(ctx context.Context, host oci.Registry, repository string, refused credential.Login) (credential.Login, bool)
}

// Entry is a login that does not change, for all repositories of a registry, or of the registries that a token host
// serves.
type Entry struct {
	// Host is the registry's or the token host's, as [credential.Entry] has it.
	Host string
	Credential
}

// Credential is a user name and a password.
type Credential struct {
	Username string
	Password secret.String
}

func entries(list []Entry) []credential.Entry {
	out := make([]credential.Entry, 0, len(list))
	for _, e := range list {
		out = append(out, credential.Entry{Host: e.Host, Username: e.Username, Password: e.Password})
	}
	return out
}

// held is a login, and the host that it is kept for.
type held struct {
	credential.Login
	host oci.Registry
}

// plainHub is how Docker Hub would be asked without TLS: never with its login.
const plainHub = "http://" + oci.DockerHub

// spellings are the names under which the login of a host may be kept. A login is for TLS unless it was configured for
// "http://…"; only where the operator switched verification off for the host does it go over plain HTTP all the same.
func (a *Authorizer) spellings(host oci.Registry) iter.Seq[oci.Registry] {
	return func(yield func(oci.Registry) bool) {
		if !yield(host) || !host.Plain() || host == plainHub || !a.insecure(hostOf(host.Authority())) {
			return
		}
		yield(oci.Registry(strings.TrimPrefix(string(host), "http://")))
	}
}

// find returns the login kept for the first of hosts that has one. An error that is not [credential.ErrNone] ends the
// search: the operator chose that login.
func (a *Authorizer) find(ctx context.Context, hosts iter.Seq[oci.Registry], repository string) (held, error) {
	for host := range hosts {
		login, err := a.logins.Login(ctx, host, repository)
		if err == nil {
			return held{login, host}, nil
		}
		if !errors.Is(err, credential.ErrNone) {
			return held{}, err
		}
	}
	return held{}, credential.ErrNone
}

// loginAt is the login to present at a realm for a registry: the registry's own, or the realm host's, and none unless
// the two are paired.
func (a *Authorizer) loginAt(ctx context.Context, q question, r realm) (held, error) {
	if q.registry == plainHub {
		return held{}, credential.ErrNone
	}
	login, err := a.find(ctx, a.spellings(q.registry), q.scope.repository())
	if err == nil && !a.paired(q.registry, r.host) {
		return held{}, fmt.Errorf("realm %s is not paired with the registry (token_services)", r.authority)
	}
	if errors.Is(err, credential.ErrNone) && a.paired(q.registry, r.host) {
		return a.find(ctx, a.spellings(r.registry), q.scope.repository())
	}
	return login, err
}

// hosts are those whose logins may serve a registry: its own name, and what issues its tokens. Which host that is, is
// known for certain only once the registry has challenged; until then it is every paired host on the usual port that
// the operator named with a login.
func (a *Authorizer) hosts(reg oci.Registry) iter.Seq[oci.Registry] {
	return func(yield func(oci.Registry) bool) {
		for host := range a.spellings(reg) {
			if !yield(host) {
				return
			}
		}
		if reg == plainHub {
			return
		}
		challenges, known := a.challenged.get(reg)
		for _, c := range challenges {
			r, err := parseRealm(c.parameters["realm"])
			if c.scheme != "bearer" || err != nil || !a.protected(reg, r) || !a.paired(reg, r.host) {
				continue
			}
			for host := range a.spellings(r.registry) {
				if !yield(host) {
					return
				}
			}
		}
		if known {
			return
		}
		for _, host := range a.logins.Hosts() {
			if string(host) == hostOf(string(host)) && a.paired(reg, string(host)) && !yield(host) {
				return
			}
		}
	}
}
