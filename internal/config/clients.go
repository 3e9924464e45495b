package config

import (
	"crypto/x509"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/client"
)

const (
	envClientUsers = "CLIENT_USERS_FILE"
	envClientCA    = "CLIENT_CA_FILE"
)

// clients reads what says who may use the proxy.
func (l *loader) clients() {
	l.cfg.Clients.Rules = l.file.clients
	if v := l.origin[envClientUsers]; v.set {
		content, err := l.sys.readFile(v.text)
		if err != nil {
			l.refuse(v.label, fmt.Errorf("%s: %s: want the path of a file that htpasswd -B has written", show(v.text), cause(err)))
		} else if l.cfg.Clients.Users, err = client.ParseUsers(content); err != nil {
			l.refuse(v.label, fmt.Errorf("%s: %w", show(v.text), err))
		}
	}
	if v := l.origin[envClientCA]; v.set {
		content, err := l.sys.readFile(v.text)
		switch {
		case err != nil:
			l.refuse(v.label, fmt.Errorf("%s: %s: want the path of a PEM file that is there", show(v.text), cause(err)))
		case !x509.NewCertPool().AppendCertsFromPEM(content):
			l.refuse(v.label, fmt.Errorf("%s holds no certificate: want a PEM file with -----BEGIN CERTIFICATE----- in it", show(v.text)))
		default:
			l.cfg.ClientCA, l.cfg.Clients.Certificates = content, true
		}
	}
	for i, rule := range l.cfg.Clients.Rules {
		switch name := fmt.Sprintf("clients[%d]", i); {
		case len(rule.Users) > 0 && l.cfg.Clients.Users == nil && !l.origin[envClientUsers].set:
			l.refuse(name, errors.New("users: nobody can log in without CLIENT_USERS_FILE"))
		case len(rule.Certificates) > 0 && !l.origin[envClientCA].set:
			l.refuse(name, errors.New("certificates: none are asked for without CLIENT_CA_FILE"))
		}
	}
}

// readClients takes the sequence of rules.
func (f *yamlFile) readClients(n *yaml.Node) {
	const want = "want a list of rules, such as [{networks: [10.0.0.0/8], registries: [docker.io], repositories: [library/*]}]"
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		f.refuse(f.label(n, "clients"), errors.New(want))
		return
	}
	for i, item := range n.Content {
		label := f.label(item, fmt.Sprintf("clients[%d]", i))
		if item.Kind != yaml.MappingNode {
			f.refuse(label, errors.New(want))
			continue
		}
		f.file.clients = append(f.file.clients, f.readClient(item, label))
	}
}

func (f *yamlFile) readClient(item *yaml.Node, label string) (rule client.Rule) {
	parts := map[string]*[]string{
		"users": &rule.Users, "certificates": &rule.Certificates, "registries": &rule.Registries, "repositories": &rule.Repositories,
	}
	for key, n := range f.fields(item, label) {
		list, ok := scalars(target(n))
		part, known := parts[key.Value]
		switch {
		case key.Value != "networks" && !known:
			f.refuse(f.label(key, show(key.Value)), errors.New("unknown field: want networks, users, certificates, registries and repositories"))
		case !ok:
			f.refuse(f.label(key, key.Value), errors.New("want a list of values, such as [a, b]"))
		case known:
			*part = append([]string{}, list...) // an empty list is not none
		default:
			for _, text := range list {
				networks, err := parseNetworks(text)
				f.refuse(f.label(key, key.Value), err)
				rule.Networks = append(rule.Networks, networks...)
			}
		}
	}
	return rule
}
