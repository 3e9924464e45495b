package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// spellCredentials has a line for each: place, user, and where the login is kept.
func spellCredentials(list []Credential) []string {
	var out []string
	for _, c := range list {
		text := fmt.Sprintf("%s %s/%s", c.Name, c.Host, c.Repository)
		for _, part := range []struct{ name, value string }{
			{"user", c.Username}, {"password", c.Password.Reveal()}, {"password_file", c.PasswordFile}, {"token_file", c.TokenFile},
			{"helper", c.Helper}, {"config_file", c.ConfigFile},
		} {
			if part.value != "" {
				text += " " + part.name + "=" + part.value
			}
		}
		out = append(out, text)
	}
	return out
}

func withSecrets(m machine) machine {
	for _, path := range []string{"p", "etc/secrets/a", "usr/bin/docker-credential-x"} {
		m[path] = aFile
	}
	m["config.json"] = &fstest.MapFile{Data: []byte(`{"auths": {}}`)}
	return m
}

func TestCredentialsOfTheFile(t *testing.T) {
	t.Parallel()
	m := withSecrets(yamlFileOf(`credentials:
  - {registry: Quay.IO.:443, username: robot, password_file: /p}
  - {registry: quay.io, repository: acme/team, username: team, password_file: secrets/a}
  - {registry: quay.io, repository: "acme/*", username: acme, password_file: /p}
  - {registry: example.azurecr.io, token_file: /p}
  - {registry: t.test, username: u, token_file: /p}
  - {registry: ecr.test, helper: ecr-login}
  - {registry: x.test, helper: /usr/bin/docker-credential-x}
  - {registry: "http://plain.test:5000", username: u, password_file: /p}
  - {registry: only.test, config_file: /config.json}
  - {config_file: ../config.json}
`))
	cfg := mustLoad(t, m, "AUTH_CONFIG_FILE=/config.json")
	want := []string{
		"credentials[0] quay.io/ user=robot password_file=/p",
		"credentials[1] quay.io/acme/team user=team password_file=/etc/secrets/a",
		"credentials[2] quay.io/acme user=acme password_file=/p",
		"credentials[3] example.azurecr.io/ token_file=/p",
		"credentials[4] t.test/ user=u token_file=/p",
		"credentials[5] ecr.test/ helper=ecr-login",
		"credentials[6] x.test/ helper=/usr/bin/docker-credential-x",
		"credentials[7] http://plain.test:5000/ user=u password_file=/p",
		"credentials[8] only.test/ config_file=/config.json",
		"credentials[9] / config_file=/config.json",
		"AUTH_CONFIG_FILE / config_file=/config.json",
	}
	if diff := cmp.Diff(want, spellCredentials(cfg.Credentials)); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	if !cfg.Registries.Match("ecr.test:443") || !cfg.Registries.MatchPlain("plain.test:5000") || !cfg.Named("plain.test") {
		t.Error("a registry with credentials is not intercepted")
	}
	notices := strings.Join(cfg.Notices, "\n")
	for _, want := range []string{"plain.test:5000: its credentials travel in plain HTTP", "example.azurecr.io t.test ecr.test x.test plain.test:5000 only.test: named in credentials and not in REGISTRIES"} {
		if !strings.Contains(notices, want) {
			t.Errorf("notices %q, want one with %q", notices, want)
		}
	}
}

func TestTheEnvironmentWinsForARegistry(t *testing.T) {
	t.Parallel()
	m := withSecrets(yamlFileOf(`auth_registries: [{host: replaced.test, username: u, password_file: /p}]
credentials:
  - {registry: index.docker.io, username: file, password_file: /p}
  - {registry: docker.io, repository: acme, username: acme, password_file: /p}
  - {registry: ghcr.io, username: file, password_file: /p}
`))
	cfg := mustLoad(t, m, "AUTH_REGISTRIES=docker.io:env:pw")
	want := []string{
		"AUTH_REGISTRIES, entry 1 docker.io/ user=env password=pw",
		"credentials[1] docker.io/acme user=acme password_file=/p",
		"credentials[2] ghcr.io/ user=file password_file=/p",
	}
	if diff := cmp.Diff(want, spellCredentials(cfg.Credentials)); diff != "" {
		t.Errorf("credentials (-want +got):\n%s", diff)
	}
	if notices := strings.Join(cfg.Notices, "\n"); !strings.Contains(notices, "index.docker.io: AUTH_REGISTRIES wins over credentials in the file") {
		t.Errorf("notices %q", notices)
	}
}

func TestBadCredentialsOfTheFile(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, content string
		want          []string // in the one problem
	}{
		{"text", "credentials: quay.io\n", []string{":1: credentials: want a list of credentials", "password_file:"}},
		{"an entry of text", "credentials:\n- quay.io\n", []string{":2: credentials[0]: want a list of credentials"}},
		{"a password", "credentials:\n- registry: quay.io\n  username: u\n  password: canary\n", []string{":4: password: no secret belongs into this file: want password_file or token_file"}},
		{"a token", "credentials: [{registry: quay.io, token: canary}]\n", []string{":1: token: no secret belongs into this file"}},
		{"an unknown field", "credentials: [{host: quay.io}]\n", []string{":1: host: unknown field: want registry, repository, username, and one of password_file"}},
		{"a field twice", "credentials:\n- registry: quay.io\n  registry: ghcr.io\n", []string{":3: registry: is there twice"}},
		{"a list for a value", "credentials: [{registry: [quay.io]}]\n", []string{":1: registry: want one value"}},
		{"no source", "credentials: [{registry: quay.io, username: u}]\n", []string{"credentials[0]: want one of password_file, token_file, helper and config_file"}},
		{"two sources", "credentials: [{registry: quay.io, helper: x, token_file: /p}]\n", []string{"credentials[0]: want one of"}},
		{"no registry", "credentials: [{username: u, password_file: /p}]\n", []string{"credentials[0]: no registry: want host[:port]"}},
		{"no registry, a repository", "credentials: [{repository: a, config_file: /config.json}]\n", []string{"credentials[0]: no registry"}},
		{"a URL", "credentials: [{registry: 'https://quay.io', helper: x}]\n", []string{"credentials[0]: registry: https://quay.io: want the host alone, such as quay.io"}},
		{"a path", "credentials: [{registry: quay.io/acme, helper: x}]\n", []string{"registry: quay.io/acme: want the registry alone, without a repository, such as quay.io"}},
		{"a wildcard", "credentials: [{registry: '*.quay.io', helper: x}]\n", []string{"registry: *.quay.io: want host[:port]"}},
		{"a bad repository", "credentials: [{registry: quay.io, repository: Acme, helper: x}]\n", []string{"credentials[0]: repository: ", "lower-case"}},
		{"a tag", "credentials: [{registry: quay.io, repository: 'acme/app:1', helper: x}]\n", []string{"credentials[0]: repository: "}},
		{"a password without a user", "credentials: [{registry: quay.io, password_file: /p}]\n", []string{"credentials[0]: no username"}},
		{"a user for a helper", "credentials: [{registry: quay.io, username: u, helper: x}]\n", []string{"credentials[0]: username: a helper and a config.json bring their own"}},
		{"a colon in the user", "credentials: [{registry: quay.io, username: 'a:b', password_file: /p}]\n", []string{"credentials[0]: the user name has a colon"}},
		{"a missing password file", "credentials: [{registry: quay.io, username: u, password_file: /gone}]\n", []string{"credentials[0]: password_file /gone: file does not exist"}},
		{"an empty token file", "credentials: [{registry: quay.io, token_file: /empty}]\n", []string{"credentials[0]: token_file /empty: is empty"}},
		{"a missing config file", "credentials: [{config_file: /gone}]\n", []string{"credentials[0]: config_file /gone: file does not exist: want the path of a config.json"}},
		{"a config file of something else", "credentials: [{config_file: /canary}]\n", []string{"credentials[0]: config_file /canary: is not the JSON of a config.json"}},
		{"a helper with a path in it", "credentials: [{registry: quay.io, helper: ../x}]\n", []string{"credentials[0]: helper ../x: want the end of a helper's name, such as ecr-login"}},
		{"a helper with an argument", "credentials: [{registry: quay.io, helper: 'x get'}]\n", []string{"credentials[0]: helper \"x get\": want"}},
		{"a helper that is missing", "credentials: [{registry: quay.io, helper: /gone}]\n", []string{"credentials[0]: helper /gone: file does not exist"}},
		{"two for one place", "credentials: [{registry: docker.io, repository: a, helper: x}, {registry: index.docker.io, repository: a, helper: y}]\n",
			[]string{"credentials[1]: index.docker.io/a has two different credentials"}},
		{"a field of another name", "Credentials: []\n", []string{"want credentials"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := withSecrets(yamlFileOf(tt.content))
			m["empty"], m["canary"] = &fstest.MapFile{Data: []byte("\n")}, &fstest.MapFile{Data: []byte("canary of a file")}
			_, err := loadAt(m)
			problems := problemsOf(t, err)
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1: %q", len(problems), problems)
			}
			for _, want := range tt.want {
				if !strings.Contains(problems[0], want) {
					t.Errorf("problem %q does not contain %q", problems[0], want)
				}
			}
			if strings.Contains(strings.ReplaceAll(problems[0], "/canary", ""), "canary") {
				t.Errorf("problem %q shows a secret", problems[0])
			}
		})
	}
}

func TestConfigFileOfTheEnvironment(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{"/gone": "AUTH_CONFIG_FILE: /gone: file does not exist", "/p": "AUTH_CONFIG_FILE: /p: is not the JSON of a config.json"} {
		_, err := loadAt(withSecrets(machine{}), "AUTH_CONFIG_FILE="+path)
		if problems := problemsOf(t, err); len(problems) != 1 || !strings.HasPrefix(problems[0], want) {
			t.Errorf("%s: problems %q, want %q", path, problems, want)
		}
	}
	if cfg := mustLoad(t, machine{}, "AUTH_CONFIG_FILE= "); len(cfg.Credentials) != 0 {
		t.Errorf("with an empty variable: %v", cfg.Credentials)
	}
}

func TestTheManualsCredentialsLoad(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(content), "```yaml\ncredentials:\n")
	example, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("no example")
	}
	m := yamlFileOf("credentials:\n" + example)
	for _, path := range []string{"run/secrets/quay", "run/secrets/quay-acme", "etc/secrets/acr", "etc/secrets/lan"} {
		m[path] = aFile
	}
	m["run/secrets/config.json"] = &fstest.MapFile{Data: []byte(`{}`)}
	if cfg := mustLoad(t, m); len(cfg.Credentials) != 6 {
		t.Errorf("the example gives %q", spellCredentials(cfg.Credentials))
	}
}
