package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/client"
	"container-registry-proxy/internal/oci"
)

// maxFile bounds the configuration file, and each file of a password. Service account keys have 2 KiB.
const maxFile = 1 << 20

// file is what the YAML file says.
type file struct {
	values        map[string]value // by field
	credentials   []Credential     // of auth_registries
	logins        []Credential     // of credentials
	tokenServices map[oci.Registry][]string
	clients       []client.Rule
	pushes        []string   // the names of logins that are lent to pushes
	upstreams     []Upstream // of registries
	tags          []tagRule
	pins          []oci.Reference
	warm          []WarmList
}

// readConfigFile reads the file that CONFIG_FILE names. It walks the tree of the YAML parser instead of decoding it:
// so every problem has its line, and an alias, which is followed for one value and never for a tree, cannot multiply.
func (l *loader) readConfigFile(path string) {
	content, err := l.sys.readFile(path)
	if err != nil {
		l.refuse(envConfigFile, fmt.Errorf("%s: %s: want the path of a YAML file that can be read", show(path), cause(err)))
		return
	}
	root, err := parseYAML(content)
	if err != nil {
		l.refuse(envConfigFile, fmt.Errorf("%s: %w", show(path), err))
		return
	}
	f := &yamlFile{loader: l, path: path, lists: map[string]bool{}, file: file{values: map[string]value{}}}
	for _, s := range settings() {
		f.lists[s.field()] = s.list
	}
	if root != nil {
		f.readRoot(root)
	}
	l.file = f.file
}

// parseYAML returns the one document's tree, or nil where there is nothing but comments.
func parseYAML(content []byte) (*yaml.Node, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	var doc, second yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, oneLine(err)
	}
	if err := decoder.Decode(&second); err == nil {
		return nil, fmt.Errorf("line %d: a second document: want one", second.Line)
	} else if !errors.Is(err, io.EOF) {
		return nil, oneLine(err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil, nil
	}
	return doc.Content[0], nil
}

func oneLine(err error) error {
	return errors.New(strings.Join(strings.Fields(err.Error()), " "))
}

// yamlFile is one run of readConfigFile.
type yamlFile struct {
	*loader
	path  string
	lists map[string]bool // the fields of settings, and whether they take a sequence
	file  file
}

func (f *yamlFile) label(n *yaml.Node, field string) string {
	return fmt.Sprintf("%s:%d: %s", f.path, n.Line, field)
}

func (f *yamlFile) readRoot(root *yaml.Node) {
	for key, n := range f.fields(root, "the file") {
		isList, known := f.lists[key.Value]
		switch {
		case key.Value == "auth_registries":
			f.readCredentials(n)
		case key.Value == "credentials":
			f.readLogins(n)
		case key.Value == "token_services":
			f.readTokenServices(n)
		case key.Value == "clients":
			f.readClients(n)
		case key.Value == "registries":
			f.readRegistries(key, n)
		case key.Value == "tags":
			f.readTags(n)
		case key.Value == "pins":
			f.file.pins = f.readImages(key, n)
		case key.Value == "warm":
			f.readWarm(n)
		case !known:
			f.refuse(f.label(key, show(key.Value)), f.unknown(key.Value))
		default:
			f.readValue(key, n, isList)
		}
	}
}

// fields yields the keys and values of a mapping, in order and each key once.
func (f *yamlFile) fields(n *yaml.Node, name string) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			f.refuse(f.label(n, name), errors.New("want fields and values, such as cache_max_size: 32g"))
			return
		}
		seen := map[string]bool{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i]
			if seen[key.Value] {
				f.refuse(f.label(key, show(key.Value)), errors.New("is there twice: want it once"))
				continue
			}
			seen[key.Value] = true
			if !yield(key, n.Content[i+1]) {
				return
			}
		}
	}
}

// unknown says what may have been meant.
func (f *yamlFile) unknown(field string) error {
	guess := strings.ReplaceAll(strings.ToLower(field), "-", "_")
	_, known := f.lists[guess]
	if known || slices.Contains([]string{"auth_registries", "credentials", "token_services", "clients", "tags", "pins", "warm"}, guess) {
		return fmt.Errorf("unknown field: want %s", guess)
	}
	return errors.New("unknown field: docs/configuration.md lists those there are")
}

// readValue takes one value, or a sequence where the setting is a list.
func (f *yamlFile) readValue(key, n *yaml.Node, isList bool) {
	v := value{label: f.label(key, key.Value), set: true}
	if n = target(n); n.Kind == yaml.ScalarNode {
		if v.text = strings.TrimFunc(n.Value, isSpace); n.Tag != "!!null" {
			f.file.values[key.Value] = v
		}
		return
	}
	elements, ok := scalars(n)
	if !isList || !ok {
		want := map[bool]string{false: "want one value", true: "want a list of values, such as [a, b]"}[isList]
		f.refuse(v.label, errors.New(want))
		return
	}
	v.text = strings.Join(elements, " ")
	f.file.values[key.Value] = v
}

// readCredentials takes a sequence of host, username and password_file.
func (f *yamlFile) readCredentials(n *yaml.Node) {
	const want = "want a list of credentials, such as [{host: quay.io, username: robot, password_file: /run/secrets/quay}]"
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		f.refuse(f.label(n, "auth_registries"), errors.New(want))
		return
	}
	for i, entry := range n.Content {
		label := f.label(entry, fmt.Sprintf("auth_registries[%d]", i))
		if entry.Kind != yaml.MappingNode {
			f.refuse(label, errors.New(want))
			continue
		}
		if c, err := f.credential(entry, label); err != nil {
			f.refuse(label, err)
		} else if c.Host != "" {
			c.Name = fmt.Sprintf("auth_registries[%d]", i)
			f.file.credentials = append(f.file.credentials, c)
		}
	}
}

// credential takes one credential. It returns neither one nor an error where a field was refused already.
func (f *yamlFile) credential(entry *yaml.Node, label string) (Credential, error) {
	var host, username, passwordFile string
	parts := map[string]*string{"host": &host, "username": &username, "password_file": &passwordFile}
	before := len(f.problems)
	for key, n := range f.fields(entry, label) {
		part, known := parts[key.Value]
		n = target(n)
		switch {
		case key.Value == "password":
			f.refuse(f.label(key, "password"), errors.New("no secret belongs into this file: want password_file with the path of a file that holds it"))
		case !known:
			f.refuse(f.label(key, show(key.Value)), errors.New("unknown field: want host, username and password_file"))
		case n.Kind != yaml.ScalarNode:
			f.refuse(f.label(key, key.Value), errors.New("want one value"))
		default:
			*part = n.Value
		}
	}
	if len(f.problems) > before {
		return Credential{}, nil
	}
	if passwordFile == "" {
		return Credential{}, errors.New("no password_file: want the path of a file that holds the password")
	}
	password, err := f.password(passwordFile)
	if err != nil {
		return Credential{}, err
	}
	c, err := newCredential(host, username, password)
	c.PasswordFile = f.beside(passwordFile)
	return c, err
}

// password reads a password out of its file. A relative path begins where the configuration file is; one line end at
// the end is none of the password's.
func (f *yamlFile) password(path string) (string, error) {
	content, err := f.sys.readFile(f.beside(path))
	if err != nil {
		return "", fmt.Errorf("password_file %s: %s: want the path of a file that can be read", show(path), cause(err))
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r"), nil
}

// beside is the path of a file that this one names.
func (f *yamlFile) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.path), path)
}

// readTokenServices takes a mapping of registries to one or more hosts.
func (f *yamlFile) readTokenServices(n *yaml.Node) {
	if n.Tag == "!!null" {
		return
	}
	f.file.tokenServices = map[oci.Registry][]string{}
	for key, hosts := range f.fields(n, "token_services") {
		label := f.label(key, "token_services")
		reg, err := oci.ParseRegistry(key.Value)
		if err != nil {
			f.refuse(label, explainHost(key.Value))
			continue
		}
		list, ok := scalars(target(hosts))
		if !ok {
			f.refuse(label, fmt.Errorf("%s: want a list of hosts, such as [auth.example.com]", show(key.Value)))
			continue
		}
		for _, host := range list {
			name, port, err := splitAuthority(host)
			if err != nil || port != "" {
				f.refuse(label, fmt.Errorf("%s: want a host without a port, such as auth.example.com", show(host)))
				continue
			}
			f.file.tokenServices[reg] = append(f.file.tokenServices[reg], name)
		}
	}
}

// target is what an alias stands for.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// scalars are the values of a sequence of values, or of a single one. Anything deeper is refused, not followed.
func scalars(n *yaml.Node) ([]string, bool) {
	if n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return []string{n.Value}, true
	}
	if n.Kind != yaml.SequenceNode {
		return nil, false
	}
	var values []string
	for _, element := range n.Content {
		if element = target(element); element.Kind != yaml.ScalarNode {
			return nil, false
		}
		values = append(values, element.Value)
	}
	return values, true
}

// readBounded reads all of r, and refuses more than maxFile bytes.
func readBounded(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(content) > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	return content, err
}
