package config

import (
	"strings"
	"testing"
	"testing/fstest"
)

const hashed = "ci:$2y$05$abcdefghijklmnopqrstuu5W4ZkYQyQdlYLIu4cs9dwqLJBtCbVgW"

func TestClients(t *testing.T) {
	t.Parallel()
	m := yamlFileOf(`
clients:
  - {users: [ci], networks: [10.0.0.0/8, "::1"], registries: docker.io, repositories: []}
  - registries: ["*"]
client_users_file: /run/users
client_networks: [10.0.0.0/8]
`)
	m["run/users"] = &fstest.MapFile{Data: []byte(hashed)}
	cfg := mustLoad(t, m)
	rules := cfg.Clients.Rules
	if len(rules) != 2 || len(rules[0].Networks) != 2 || rules[0].Registries[0] != "docker.io" || rules[0].Repositories == nil || rules[1].Repositories != nil {
		t.Errorf("rules %+v", rules)
	}
	if cfg.Clients.Users == nil || len(cfg.Clients.Networks) != 1 || cfg.Clients.Certificates {
		t.Errorf("clients %+v", cfg.Clients)
	}
}

func TestBadClients(t *testing.T) {
	t.Parallel()
	for text, word := range map[string]string{
		"clients: 1":                                              "want a list of rules",
		"clients: [1]":                                            "want a list of rules",
		"clients: [{user: [x]}]":                                  "unknown field: want networks",
		"clients: [{registries: {a: b}}]":                         "want a list of values",
		"clients: [{networks: [nowhere]}]":                        "nowhere is no network",
		"clients: [{users: [x]}]":                                 "CLIENT_USERS_FILE",
		"clients: [{certificates: [x]}]":                          "CLIENT_CA_FILE",
		"client_users_file: /missing":                             "htpasswd",
		"client_users_file: /run/plain":                           "bcrypt",
		"client_ca_file: /run/plain":                              "no certificate",
		"client_networks: [10.0.0.1/8]":                           "bits behind the network",
		"credentials: [{registry: a.b, helper: x, push: always}]": "want central",
	} {
		m := yamlFileOf(text)
		m["run/plain"] = &fstest.MapFile{Data: []byte("ci:{SHA}x")}
		if _, err := loadAt(m); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want %q", text, err, word)
		}
	}
}
