// Package credential finds the login that the operator has for a repository of a registry, wherever it is kept: in the
// configuration, in a file of its own, in Docker's config.json, or behind a credential helper. Its invariants: a login is
// returned for the host and the repositories that it is kept for, and for no other; files and helpers are asked again
// without a restart; one that fails is left alone for a while and takes no other with it; nothing that a source says
// reaches a log or an error.
//
// It sends nothing anywhere: where a login may go is package auth's to know.
package credential

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// ErrNone means that no login is kept for what was asked for.
var ErrNone = errors.New("no login is configured")

// Kind says how a login is presented.
type Kind int

// The kinds of logins.
const (
	// Password is a user name and a password.
	Password Kind = iota
	// Identity is an identity token: a token service gives tokens for it, and takes it for nothing else. Registries call
	// it a refresh token too.
	Identity
	// Ready is a token that the registry takes as it is.
	Ready
)

// identityUser is the user name that says that the password is an identity token, by Docker's convention.
const identityUser = "<token>"

// Login is what a registry or its token service is shown. It is comparable.
type Login struct {
	Kind     Kind
	Username string // of a Password; may be empty otherwise
	Secret   secret.String
	// Source names where it comes from, for messages. It has no part in what the login is.
	Source string
}

// newLogin is the login of a user name and a password, by Docker's convention.
func newLogin(username, password, source string) Login {
	l := Login{Username: username, Secret: secret.New(password), Source: source}
	if username == identityUser {
		l.Kind = Identity
	}
	return l
}

// Same reports whether two logins are one, wherever they come from.
func (l Login) Same(other Login) bool {
	l.Source, other.Source = "", ""
	return l == other
}

// Basic is the Authorization header that carries the login as user name and password (RFC 7617).
func (l Login) Basic() secret.String {
	pair := l.Username + ":" + l.Secret.Reveal()
	return secret.New("Basic " + base64.StdEncoding.EncodeToString([]byte(pair)))
}

// Key tells logins apart without revealing them. The name is quoted so that no two logins spell the same.
func (l Login) Key() secret.Key {
	return secret.New(strconv.Itoa(int(l.Kind)) + strconv.Quote(l.Username) + ":" + l.Secret.Reveal()).Key()
}

// Entry says where a login is kept: one of Password, PasswordFile, TokenFile, Helper and ConfigFile. Where there is a
// PasswordFile, Password is what it held at the start and does not count.
type Entry struct {
	// Host is the registry's or the token service's, host or host:port. "http://host:port" is a registry that is asked in
	// plain HTTP. Empty means every host that ConfigFile has a login for.
	Host string
	// Repository is the one that the login is for, with all below it: "acme" is acme and acme/app, not acme2. Empty means
	// every repository. Where several entries fit, the longest counts, and of two alike the first.
	Repository string
	Username   string
	Password   secret.String
	// PasswordFile holds the password, and TokenFile an identity token. A line end at the end is no part of them.
	PasswordFile, TokenFile string
	// Helper is a program that follows Docker's helper protocol: the end of its name, docker-credential-…, or its path.
	Helper string
	// ConfigFile is a config.json of Docker's.
	ConfigFile string
	// Name is what messages call the entry.
	Name string
}

// ParseHost returns the host of an entry as the registry that it is. It takes Docker's own spelling of its registry,
// "https://index.docker.io/v1/", too.
func ParseHost(host string) (oci.Registry, error) {
	if rest, plain := strings.CutPrefix(host, "http://"); plain {
		return oci.ParsePlainRegistry(rest)
	}
	host, _, _ = strings.Cut(strings.TrimPrefix(host, "https://"), "/")
	return oci.ParseRegistry(host)
}

// Within reports whether a repository is that of the prefix, or below it.
func Within(repository, prefix string) bool {
	return prefix == "" || repository == prefix || strings.HasPrefix(repository, prefix+"/")
}

// check says what is wrong with an entry, or nothing.
func (e Entry) check() error {
	sources := 0
	for _, given := range []bool{!e.Password.Empty() || e.PasswordFile != "", e.TokenFile != "", e.Helper != "", e.ConfigFile != ""} {
		if given {
			sources++
		}
	}
	switch {
	case sources != 1:
		return errors.New("want one of a password, a token file, a helper and a config file")
	case e.Host == "" && e.ConfigFile == "":
		return errors.New("no host")
	case e.Repository != "":
		return oci.ValidRepository(e.Repository)
	}
	return nil
}

// label is what messages call the entry.
func (e Entry) label() string {
	if e.Name != "" {
		return e.Name
	}
	return fmt.Sprintf("login for %s", e.Host)
}
