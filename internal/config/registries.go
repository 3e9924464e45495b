package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/secret"
)

// maxParallel is over how many connections a blob may be fetched at most: more than that many never made one faster.
const maxParallel = 16

// readRegistries takes the registries: names, as in REGISTRIES, and entries that say more of one.
//
//	registries:
//	  - quay.io
//	  - host: registry.example.com:5000
//	    ca_file: example-ca.crt
func (f *yamlFile) readRegistries(key, n *yaml.Node) {
	if n = target(n); n.Kind != yaml.SequenceNode {
		f.readValue(key, n, true)
		return
	}
	v := value{label: f.label(key, key.Value), set: true}
	var hosts []string
	for i, item := range n.Content {
		name := fmt.Sprintf("registries[%d]", i)
		switch {
		case target(item).Kind == yaml.ScalarNode:
			hosts = append(hosts, target(item).Value)
		case item.Kind == yaml.MappingNode:
			if u, ok := f.readUpstream(item, f.label(item, name)); ok {
				hosts = append(hosts, string(u.Registry))
				f.file.upstreams = append(f.file.upstreams, u)
			}
		default:
			f.refuse(f.label(item, name), errors.New("want a host, or fields and values, such as {host: quay.io, parallel_downloads: 4}"))
		}
	}
	v.text = strings.Join(hosts, " ")
	f.file.values[key.Value] = v
}

// upstreamFields are the fields of an entry, each with what takes its value. Their errors show a right value.
func (f *yamlFile) upstreamFields(u *Upstream, login *parentLogin) map[string]func(v string) error {
	path := func(to *string) func(string) error {
		return func(v string) error { *to = f.beside(v); return nil }
	}
	flag := func(to *bool) func(string) error {
		return func(v string) (err error) { *to, err = parseBool(v); return err }
	}
	wait := func(to *time.Duration) func(string) error {
		return func(v string) (err error) {
			if *to, err = ParseTime(v); err == nil && *to == 0 {
				return fmt.Errorf("%s would end at once: want more than that, such as 60s", show(v))
			}
			return err
		}
	}
	return map[string]func(v string) error{
		"host":                 func(v string) (err error) { u.Registry, err = exactRegistry(v); return err },
		"parallel_downloads":   func(v string) (err error) { u.ParallelDownloads, err = parseCount(v, maxParallel, "4"); return err },
		"upstream_concurrency": func(v string) (err error) { u.Concurrency, err = parseCount(v, math.MaxInt32, "64"); return err },
		"upstream_rate":        func(v string) (err error) { u.Rate, err = parseRate(v); return err },
		"ca_file":              path(&u.CAFile),
		"insecure":             flag(&u.Insecure),
		"plain_http":           flag(&u.PlainHTTP),
		"client_certificate":   path(&u.ClientCertificate),
		"client_key":           path(&u.ClientKey),
		"proxy":                func(v string) (err error) { u.Parent, err = parseParent(v); return err },
		"proxy_username":       func(v string) error { login.user = v; return nil },
		"proxy_password_file":  path(&login.file),
		"connect_timeout":      wait(&u.ConnectTimeout),
		"read_timeout":         wait(&u.ReadTimeout),
	}
}

// parentLogin is the login of a parent proxy, as the file has it.
type parentLogin struct{ user, file string }

// readUpstream takes one entry, and reports whether it can be used.
func (f *yamlFile) readUpstream(item *yaml.Node, label string) (u Upstream, ok bool) {
	before := len(f.problems)
	var login parentLogin
	fields := f.upstreamFields(&u, &login)
	for key, n := range f.fields(item, label) {
		n = target(n)
		if key.Value == "fallback" {
			f.refuse(f.label(key, key.Value), readFallbacks(&u, n))
			continue
		}
		take, known := fields[key.Value]
		switch {
		case !known:
			f.refuse(f.label(key, show(key.Value)), unknownUpstreamField(fields))
		case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
			f.refuse(f.label(key, key.Value), errors.New("want one value"))
		default:
			f.refuse(f.label(key, key.Value), take(strings.TrimFunc(n.Value, isSpace)))
		}
	}
	if len(f.problems) == before {
		f.refuse(label, errors.Join(f.checkUpstream(&u), f.takeLogin(&u, login)))
	}
	return u, len(f.problems) == before
}

func unknownUpstreamField(fields map[string]func(string) error) error {
	names := []string{"fallback"}
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return fmt.Errorf("unknown field: want one of %s", strings.Join(names, ", "))
}

// readFallbacks takes one host, or a list of them.
func readFallbacks(u *Upstream, n *yaml.Node) error {
	list, ok := scalars(n)
	if !ok || len(list) == 0 {
		return errors.New("want a list of registries, such as [mirror.gcr.io]")
	}
	var errs []error
	for _, host := range list {
		reg, err := exactRegistry(host)
		errs = append(errs, err)
		if err == nil && slices.Contains(u.Fallbacks, reg) {
			errs = append(errs, fmt.Errorf("%s is there twice: want it once", reg))
		}
		u.Fallbacks = append(u.Fallbacks, reg)
	}
	return errors.Join(errs...)
}

// checkUpstream says what is wrong with an entry as a whole.
func (f *yamlFile) checkUpstream(u *Upstream) error {
	switch {
	case u.Registry == "":
		return errors.New("no host: want host: with one registry, such as quay.io")
	case slices.ContainsFunc(f.file.upstreams, func(o Upstream) bool { return o.Registry == u.Registry }):
		return fmt.Errorf("%s has two entries: want one", u.Registry)
	case slices.Contains(u.Fallbacks, u.Registry):
		return fmt.Errorf("fallback: %s is the registry itself: want another, such as mirror.gcr.io", u.Registry)
	case u.PlainHTTP && (u.Insecure || u.CAFile != "" || u.ClientCertificate != "" || u.ClientKey != ""):
		return errors.New("plain_http: there are no certificates without TLS: want it without insecure, ca_file and client_certificate")
	case u.Insecure && u.CAFile != "":
		return errors.New("insecure: with it ca_file is without effect: want one of the two")
	case (u.ClientCertificate == "") != (u.ClientKey == ""):
		return errors.New("want client_certificate and client_key, the paths of two PEM files, or neither")
	case u.CAFile != "":
		if err := f.checkFile("ca_file", u.CAFile); err != nil {
			return err
		}
		if !f.mayHoldCertificate(u.CAFile) {
			return fmt.Errorf("ca_file %s holds no certificate: want a PEM file with -----BEGIN CERTIFICATE----- in it", show(u.CAFile))
		}
	}
	return f.checkPair(u.ClientCertificate, u.ClientKey)
}

// checkPair says what is wrong with a certificate and its key. One that may not be read yet is not wrong.
func (f *yamlFile) checkPair(certificate, key string) error {
	if certificate == "" {
		return nil
	}
	if err := errors.Join(f.checkFile("client_certificate", certificate), f.checkFile("client_key", key)); err != nil {
		return err
	}
	certificatePEM, err := f.sys.readFile(certificate)
	keyPEM, keyErr := f.sys.readFile(key)
	if err != nil || keyErr != nil {
		return nil
	}
	if _, err := tls.X509KeyPair(certificatePEM, keyPEM); err != nil {
		return fmt.Errorf("client_certificate %s, client_key %s: %w: want a certificate and the key that belongs to it, PEM", show(certificate), show(key), err)
	}
	return nil
}

// takeLogin puts the login of the file into the entry's parent.
func (f *yamlFile) takeLogin(u *Upstream, login parentLogin) error {
	switch {
	case login == parentLogin{}:
		return nil
	case u.Parent.URL == "":
		return errors.New("proxy_username: want proxy too, such as http://proxy.example.com:8080")
	case !u.Parent.Login.Empty():
		return errors.New("proxy has a login already: want it there, or in proxy_username and proxy_password_file")
	case login.user == "" || login.file == "":
		return errors.New("want proxy_username and proxy_password_file, or neither")
	case strings.Contains(login.user, ":"):
		return errors.New("proxy_username has a colon, which HTTP Basic cannot carry")
	}
	if err := f.checkSecret("proxy_password_file", login.file); err != nil {
		return err
	}
	password, err := f.sys.readFile(login.file)
	if err != nil {
		return fmt.Errorf("proxy_password_file %s: %s", show(login.file), cause(err))
	}
	u.Parent.Login = secret.New(login.user + ":" + strings.TrimRight(string(password), "\r\n"))
	return nil
}

// exactRegistry takes one host[:port], no wildcard.
func exactRegistry(v string) (oci.Registry, error) {
	reg, err := oci.ParseRegistry(v)
	switch {
	case err == nil:
		return reg, nil
	case strings.Contains(v, "*") || strings.HasPrefix(v, "."):
		return "", fmt.Errorf("%s: a wildcard has no settings of its own: want host[:port] of one registry, such as quay.io", show(v))
	}
	return "", explainHost(v)
}

// parseCount takes a whole number from 1 to most.
func parseCount(v string, most int, example string) (int, error) {
	n, err := strconv.Atoi(v)
	if err != nil || !isDigits(v) || n < 1 || n > most {
		return 0, fmt.Errorf("%s: want a whole number from 1 to %d, such as %s", show(v), most, example)
	}
	return n, nil
}

// parseRate takes requests a second; none at all would be no use.
func parseRate(v string) (float64, error) {
	rate, err := strconv.ParseFloat(v, 64)
	if err != nil || !(rate > 0 && rate <= 1e6) || strings.Trim(v, "0123456789.") != "" {
		return 0, fmt.Errorf("%s: want how many requests may begin in a second, such as 20 or 0.5", show(v))
	}
	return rate, nil
}

// parseFinish takes what becomes of downloads that nobody waits for.
func parseFinish(v string) (share float64, err error) {
	switch v {
	case "finish":
		return 0, nil
	case "stop":
		return 2, nil
	}
	digits, percent := strings.CutSuffix(v, "%")
	n, err := strconv.Atoi(digits)
	if !percent || err != nil || !isDigits(digits) || n < 1 || n > 100 {
		return 0, fmt.Errorf("%s: want finish, stop, or finish from a share on, such as 50%%", show(v))
	}
	return float64(n) / 100, nil
}
