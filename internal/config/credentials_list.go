package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/credential"
	"container-registry-proxy/internal/oci"
)

// credentials takes those of the environment, or else auth_registries of the file; then credentials of the file, which
// can say more of each; then Docker's config.json. It has the hosts that they name intercepted.
func (l *loader) credentials() {
	l.cfg.TokenServices = l.file.tokenServices
	list := l.file.credentials
	fromEnvironment := strings.TrimFunc(l.env[envCredentials], isSpace) != ""
	if fromEnvironment {
		var problems []string
		list, problems = parseCredentials(l.env[envCredentials], l.delimiter(envEntryDelimiter, defaultEntryDelimiter), l.delimiter(envPartDelimiter, defaultPartDelimiter))
		l.problems = append(l.problems, problems...)
	}
	l.listed = l.cfg.Registries.clone()
	seen := map[string]Credential{}
	add := func(c Credential, label string, yields bool) {
		key := oneName(c.Host) + "/" + c.Repository
		before, twice := seen[key]
		before.Name = c.Name
		switch {
		case c.Host != "" && twice && yields:
			l.replaced = append(l.replaced, c.Host)
			return
		case c.Host != "" && twice && before != c:
			l.refuse(label, fmt.Errorf("%s has two different credentials: want one", show(strings.TrimSuffix(c.Host+"/"+c.Repository, "/"))))
		}
		seen[key] = c
		l.cfg.Credentials = append(l.cfg.Credentials, c)
		if c.Host != "" {
			l.refuse(label, l.cfg.Registries.add(strings.TrimPrefix(c.Host, "http://")))
		}
	}
	for _, c := range list {
		add(c, envCredentials, false)
	}
	for _, c := range l.file.logins {
		if slices.Contains(l.file.pushes, c.Name) {
			l.cfg.PushCentral = append(l.cfg.PushCentral, c)
		}
		add(c, c.Name, fromEnvironment && c.Repository == "" && slices.ContainsFunc(list, func(env Credential) bool { return oneName(env.Host) == oneName(c.Host) }))
	}
	if path := strings.TrimSpace(l.env[envAuthConfigFile]); path != "" {
		l.refuse(envAuthConfigFile, l.checkConfigFile(path))
		l.cfg.Credentials = append(l.cfg.Credentials, Credential{ConfigFile: path, Name: envAuthConfigFile})
	}
}

// oneName spells a host of a credential in one way: Docker Hub has several.
func oneName(host string) string {
	if reg, err := credential.ParseHost(host); err == nil {
		return string(reg)
	}
	return host
}

func (l *loader) delimiter(name, fallback string) string {
	if d := l.env[name]; d != "" {
		return d
	}
	return fallback
}

// checkConfigFile says what is wrong with a config.json of Docker's, or nothing.
func (l *loader) checkConfigFile(path string) error {
	content, err := l.sys.readFile(path)
	if err != nil {
		return fmt.Errorf("%s: %s: want the path of a config.json of Docker's", show(path), cause(err))
	}
	if err := credential.CheckConfigFile(content); err != nil {
		return fmt.Errorf("%s: %w", show(path), err)
	}
	return nil
}

func (l *loader) noticeCredentials() {
	for _, c := range l.cfg.PushCentral {
		place := strings.TrimSuffix(c.Host+"/"+c.Repository, "/")
		if l.cfg.AllowPush {
			l.say("%s: every client of the proxy may push to %s, with the operator's login (push: central)", c.Name, place)
		} else {
			l.say("%s: push: central is without effect for %s while ALLOW_PUSH is not true", c.Name, place)
		}
	}
	for _, c := range l.cfg.Credentials {
		if host, plain := strings.CutPrefix(c.Host, "http://"); plain {
			l.say("%s: its credentials travel in plain HTTP: whoever is between here and there can read them", host)
		}
	}
	if len(l.replaced) > 0 {
		l.say("%s: AUTH_REGISTRIES wins over credentials in the file", strings.Join(l.replaced, " "))
	}
}

// readLogins takes the sequence of credentials.
func (f *yamlFile) readLogins(n *yaml.Node) {
	const want = "want a list of credentials, such as [{registry: quay.io, repository: acme, username: robot, password_file: /run/secrets/quay}]"
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		f.refuse(f.label(n, "credentials"), errors.New(want))
		return
	}
	for i, item := range n.Content {
		name := fmt.Sprintf("credentials[%d]", i)
		label := f.label(item, name)
		if item.Kind != yaml.MappingNode {
			f.refuse(label, errors.New(want))
			continue
		}
		c := Credential{Name: name}
		before := len(f.problems)
		f.readLogin(item, label, &c)
		if len(f.problems) == before {
			f.refuse(label, errors.Join(f.checkPlace(&c), f.checkSource(&c)))
		}
		if len(f.problems) == before {
			f.file.logins = append(f.file.logins, c)
		}
	}
}

// readLogin takes the fields of one credential.
func (f *yamlFile) readLogin(item *yaml.Node, label string, c *Credential) {
	parts := map[string]*string{
		"registry": &c.Host, "repository": &c.Repository, "username": &c.Username,
		"password_file": &c.PasswordFile, "token_file": &c.TokenFile, "config_file": &c.ConfigFile, "helper": &c.Helper,
	}
	for key, n := range f.fields(item, label) {
		part, known := parts[key.Value]
		n = target(n)
		switch {
		case key.Value == "push" && n.Kind == yaml.ScalarNode && n.Value == "central":
			f.file.pushes = append(f.file.pushes, c.Name)
		case key.Value == "push":
			f.refuse(f.label(key, "push"), errors.New("want central, to lend this login to pushes that bring none, or no such field"))
		case key.Value == "password", key.Value == "token", key.Value == "secret":
			f.refuse(f.label(key, key.Value), errors.New("no secret belongs into this file: want password_file or token_file with the path of a file that holds it"))
		case !known:
			f.refuse(f.label(key, show(key.Value)), errors.New("unknown field: want registry, repository, username, and one of password_file, token_file, helper and config_file"))
		case n.Kind != yaml.ScalarNode:
			f.refuse(f.label(key, key.Value), errors.New("want one value"))
		default:
			*part = n.Value
		}
	}
	for _, path := range []*string{&c.PasswordFile, &c.TokenFile, &c.ConfigFile} {
		if *path != "" {
			*path = f.beside(*path)
		}
	}
}

// checkPlace says what is wrong with what a credential is for, and spells its registry in one way.
func (f *yamlFile) checkPlace(c *Credential) error {
	if c.Repository != "" {
		c.Repository = strings.TrimSuffix(strings.TrimSuffix(c.Repository, "/*"), "/")
		if err := oci.ValidRepository(c.Repository); err != nil {
			return fmt.Errorf("repository: %w", err)
		}
	}
	if c.Host == "" {
		if c.ConfigFile != "" && c.Repository == "" {
			return nil
		}
		return errors.New("no registry: want host[:port], such as quay.io, or http://host[:port] for one in plain HTTP")
	}
	scheme := ""
	host, plain := strings.CutPrefix(c.Host, "http://")
	if plain {
		scheme = "http://"
	}
	name, port, err := splitAuthority(host)
	if err != nil {
		return fmt.Errorf("registry: %w", explainHost(host))
	}
	if !plain && port == "443" || plain && port == "80" {
		port = ""
	}
	c.Host = scheme + hostPort{name, port}.String()
	return nil
}

// checkSource says what is wrong with where the login of a credential is kept.
func (f *yamlFile) checkSource(c *Credential) error {
	given := 0
	for _, source := range []string{c.PasswordFile, c.TokenFile, c.ConfigFile, c.Helper} {
		if source != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("want one of password_file, token_file, helper and config_file")
	case strings.Contains(c.Username, ":"):
		return errors.New("the user name has a colon, which HTTP Basic cannot carry")
	case c.PasswordFile != "" && c.Username == "":
		return errors.New("no username: want the one that belongs to password_file")
	case c.Username != "" && (c.Helper != "" || c.ConfigFile != ""):
		return errors.New("username: a helper and a config.json bring their own")
	case c.ConfigFile != "":
		if err := f.checkConfigFile(c.ConfigFile); err != nil {
			return fmt.Errorf("config_file %w", err)
		}
	case c.Helper != "":
		if err := credential.CheckHelper(c.Helper); err != nil {
			return fmt.Errorf("helper %s: %w", show(c.Helper), err)
		}
		if filepath.IsAbs(c.Helper) {
			return f.checkFile("helper", c.Helper)
		}
	case c.PasswordFile != "":
		return f.checkSecret("password_file", c.PasswordFile)
	default:
		return f.checkSecret("token_file", c.TokenFile)
	}
	return nil
}

func (f *yamlFile) checkFile(field, path string) error {
	if _, err := f.sys.stat(path); err != nil {
		return fmt.Errorf("%s %s: %s: want the path of a file that is there", field, show(path), cause(err))
	}
	return nil
}

func (f *yamlFile) checkSecret(field, path string) error {
	content, err := f.sys.readFile(path)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %s: want the path of a file that can be read", field, show(path), cause(err))
	case strings.TrimRight(string(content), "\r\n") == "":
		return fmt.Errorf("%s %s: is empty", field, show(path))
	}
	return nil
}
