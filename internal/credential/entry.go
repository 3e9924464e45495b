package credential

import (
	"fmt"
	"strings"

	"container-registry-proxy/internal/oci"
)

// entry is an Entry that was understood. At most one of secret, config and helper is set; without any, fixed counts.
type entry struct {
	host       oci.Registry // empty for all
	repository string
	username   string
	identity   bool // what is in the secret's file is an identity token
	label      string
	fixed      Login
	secret     *watched[string]
	config     *watched[*config]
	helper     string
}

func newEntry(e Entry, report *reporter) (*entry, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	x := &entry{repository: e.Repository, username: e.Username, label: e.label(), helper: e.Helper}
	if e.Host != "" {
		host, err := ParseHost(e.Host)
		if err != nil {
			return nil, fmt.Errorf("login of %q: %w", e.Host, err)
		}
		x.host = host
	}
	switch {
	case e.PasswordFile != "":
		x.secret = newWatched(e.PasswordFile, parseSecret, x.label, report)
	case e.TokenFile != "":
		x.identity, x.secret = true, newWatched(e.TokenFile, parseSecret, x.label, report)
	case e.ConfigFile != "":
		x.config = newWatched(e.ConfigFile, func(content []byte) (*config, error) {
			cfg, err := parseConfig(content)
			if err == nil {
				report.skipped(x.label, cfg.skipped)
			}
			return cfg, err
		}, x.label, report)
	default:
		x.fixed = newLogin(e.Username, e.Password.Reveal(), x.label)
	}
	return x, nil
}

// reread looks whether the entry's file has changed.
func (x *entry) reread() {
	if x.secret != nil {
		x.secret.look(true)
	}
	if x.config != nil {
		x.config.look(true)
	}
}

func (x *entry) covers(host oci.Registry, repository string) bool {
	return (x.host == "" || x.host == host) && Within(repository, x.repository)
}

// candidates appends the entry's places for a login of a repository that it covers.
func (x *entry) candidates(found []candidate, host oci.Registry, repository string) []candidate {
	c := candidate{prefix: len(x.repository), declared: true, login: x.fixed}
	switch {
	case x.config != nil:
		return x.fromConfig(found, host, repository)
	case x.secret != nil:
		c.login, c.err = x.fromSecret()
	case x.helper != "":
		c.call = helperCall{program: x.helper, server: serverOf(host), label: x.label, required: true}
	}
	return append(found, c)
}

// fromSecret is the login whose secret is in the file.
func (x *entry) fromSecret() (Login, error) {
	secret, err := x.secret.get()
	if err != nil {
		return Login{}, err
	}
	login := newLogin(x.username, secret, x.label)
	if x.identity {
		login.Kind = Identity
	}
	return login, nil
}

// fromConfig appends what a config.json says. Where the entry names the host, its login is there, or the entry fails.
// Where it does not, logins are for registries over TLS alone, since a config.json knows no schemes.
func (x *entry) fromConfig(found []candidate, host oci.Registry, repository string) []candidate {
	named := x.host != ""
	if !named && host.Plain() {
		return found
	}
	before := len(found)
	cfg, err := x.config.get()
	if err == nil {
		found = cfg.candidates(found, bare(host), repository, x.label)
	}
	if !named {
		return found
	}
	for i := range found[before:] {
		c := &found[before+i]
		c.prefix, c.declared = max(c.prefix, len(x.repository)), true
	}
	if err == nil {
		err = fmt.Errorf("%s: holds no login for %s", x.label, host)
	}
	return append(found, candidate{prefix: len(x.repository), declared: true, err: err})
}

// bare is the registry of the same name that speaks TLS.
func bare(host oci.Registry) oci.Registry {
	return oci.Registry(strings.TrimPrefix(string(host), "http://"))
}

// serverOf is how helpers know a host.
func serverOf(host oci.Registry) string {
	if host == oci.DockerHub {
		return "https://index.docker.io/v1/"
	}
	return strings.TrimPrefix(string(host), "http://")
}
