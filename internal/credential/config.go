package credential

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// config is what Docker's config.json says of logins, for example
//
//	{
//	  "auths": {
//	    "https://index.docker.io/v1/": {"auth": "dXNlcjpwYXNzd29yZA=="},
//	    "quay.io/acme": {"username": "robot", "password": "…"},
//	    "example.azurecr.io": {"identitytoken": "…"}
//	  },
//	  "credHelpers": {"gcr.io": "gcloud"},
//	  "credsStore": "ecr-login"
//	}
//
// A key with a path, which podman and its kin write, is for that repository and those below it, and never for the whole
// host.
type config struct {
	logins  map[oci.Registry][]scoped // the longest prefix first
	helpers map[oci.Registry]string
	store   string                // asked for every host that has no helper of its own
	listed  map[oci.Registry]bool // the hosts among the keys of auths
	skipped int                   // what was not understood
}

// scoped is the login of a repository and those below it.
type scoped struct {
	repository string
	login      Login
}

// CheckConfigFile says what is wrong with the content of a config.json as a whole, or nothing. It quotes none of it.
func CheckConfigFile(content []byte) error {
	_, err := parseConfig(content)
	return err
}

func parseConfig(content []byte) (*config, error) {
	var doc struct {
		Auths   map[string]json.RawMessage `json:"auths"`
		Helpers map[string]string          `json:"credHelpers"`
		Store   string                     `json:"credsStore"`
	}
	if json.Unmarshal(content, &doc) != nil { // the decoder's own words may quote a secret
		return nil, errors.New("is not the JSON of a config.json of Docker's")
	}
	c := &config{logins: map[oci.Registry][]scoped{}, helpers: map[oci.Registry]string{}, listed: map[oci.Registry]bool{}}
	for key, raw := range doc.Auths {
		host, repository, ok := parseKey(key)
		login, err := parseAuth(raw)
		if ok && repository == "" {
			c.listed[host] = true
		}
		switch {
		case !ok || err != nil:
			c.skipped++
		case !login.Secret.Empty(): // Docker leaves empty ones where a helper has the login
			c.logins[host] = append(c.logins[host], scoped{repository, login})
		}
	}
	for key, program := range doc.Helpers {
		host, repository, ok := parseKey(key)
		if !ok || repository != "" || !validProgram(program) {
			c.skipped++
			continue
		}
		c.helpers[host] = program
	}
	if doc.Store != "" && validProgram(doc.Store) {
		c.store = doc.Store
	} else if doc.Store != "" {
		c.skipped++
	}
	for host, list := range c.logins {
		// Of two spellings of one host the one that sorts first counts: a map has no order to go by.
		slices.SortFunc(list, func(a, b scoped) int {
			if n := len(b.repository) - len(a.repository); n != 0 {
				return n
			}
			return strings.Compare(a.login.Username+a.login.Secret.Reveal(), b.login.Username+b.login.Secret.Reveal())
		})
		c.logins[host] = list
	}
	return c, nil
}

// parseKey takes a key of auths apart: "quay.io", "https://index.docker.io/v1/", "quay.io/acme/app".
func parseKey(key string) (host oci.Registry, repository string, ok bool) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	name, path, _ := strings.Cut(key, "/")
	host, err := oci.ParseRegistry(name)
	if err != nil {
		return "", "", false
	}
	switch path = strings.Trim(path, "/"); path {
	case "", "v1", "v2":
		return host, "", true
	}
	return host, path, oci.ValidRepository(path) == nil
}

// parseAuth takes the value of a key of auths. A login without a secret is none.
func parseAuth(raw json.RawMessage) (Login, error) {
	var a struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	}
	if json.Unmarshal(raw, &a) != nil {
		return Login{}, errors.New("is not an object")
	}
	if a.Auth != "" {
		decoded, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			decoded, err = base64.RawStdEncoding.DecodeString(a.Auth)
		}
		user, password, found := strings.Cut(string(decoded), ":")
		if err != nil || !found {
			return Login{}, errors.New("auth is not user:password in base64")
		}
		a.Username, a.Password = user, strings.Trim(password, "\x00")
	}
	switch {
	case strings.Contains(a.Username, ":"):
		return Login{}, errors.New("the user name has a colon")
	case a.IdentityToken != "":
		return Login{Kind: Identity, Username: a.Username, Secret: secret.New(a.IdentityToken)}, nil
	case a.RegistryToken != "":
		return Login{Kind: Ready, Secret: secret.New(a.RegistryToken)}, nil
	}
	return newLogin(a.Username, a.Password, ""), nil
}

// candidates appends the places that the file names for a login, as Docker looks for them: the host's own helper, or
// else the store, or else what is in the file itself.
func (c *config) candidates(found []candidate, host oci.Registry, repository, label string) []candidate {
	if program := c.helpers[host]; program != "" {
		return append(found, candidate{declared: true, call: helperCall{program: program, server: serverOf(host), label: label}})
	}
	if c.store != "" {
		found = append(found, candidate{declared: c.listed[host], call: helperCall{program: c.store, server: serverOf(host), label: label}})
	}
	for _, s := range c.logins[host] {
		if Within(repository, s.repository) {
			login := s.login
			login.Source = label
			found = append(found, candidate{prefix: len(s.repository), declared: true, login: login})
			break
		}
	}
	return found
}
