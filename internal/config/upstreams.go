package config

import (
	"time"

	"container-registry-proxy/internal/oci"
)

// Upstream says how one registry is asked, where that is unlike the others: an entry of registries in the YAML file that
// is more than a name. What is zero is as for all.
type Upstream struct {
	// Registry is the host[:port] that the entry is for (host).
	Registry oci.Registry

	// ParallelDownloads is over how many connections a large blob may be fetched (parallel_downloads); 1 means one.
	ParallelDownloads int

	// Concurrency is how many requests may be in progress (upstream_concurrency), and Rate how many may begin in a
	// second (upstream_rate).
	Concurrency int
	Rate        float64

	// CAFile holds PEM certificates that are trusted beside the others, for this registry and what it leads to (ca_file).
	CAFile string

	// Insecure leaves certificates unchecked, for this registry and what it leads to (insecure). PlainHTTP asks it without
	// TLS (plain_http). Either way its login can be stolen by whoever is in between.
	Insecure, PlainHTTP bool

	// ClientCertificate and ClientKey are what we show who we are with, PEM (client_certificate, client_key): to this
	// very host alone. Both are empty, or neither is.
	ClientCertificate, ClientKey string

	// Parent is the proxy to go through, for this registry and what it leads to (proxy). The zero value means the one
	// that HTTPS_PROXY and HTTP_PROXY name, if they do.
	Parent Parent

	// ConnectTimeout and ReadTimeout stand for those of all (connect_timeout, read_timeout).
	ConnectTimeout, ReadTimeout time.Duration

	// Fallbacks are asked, in this order, while the registry is down or has had too many requests (fallback).
	Fallbacks []oci.Registry
}

// upstreams has the registries intercepted that have entries of their own.
func (l *loader) upstreams() {
	l.cfg.Upstreams = l.file.upstreams
	for _, u := range l.cfg.Upstreams {
		name := string(u.Registry)
		if !l.cfg.Registries.Match(name) {
			l.unlisted = append(l.unlisted, name)
		}
		l.refuse("registries", l.cfg.Registries.add(name))
	}
}

// noticeUpstreams says at every start which registries are asked without protection.
func (l *loader) noticeUpstreams() {
	for _, name := range l.unlisted {
		l.say("%s: has an entry in registries of the file and is not in REGISTRIES: intercepted too", name)
	}
	for _, u := range l.cfg.Upstreams {
		switch {
		case u.PlainHTTP:
			l.say("%s: plain_http: true: whoever is between here and there can read its credentials and change what is pulled by tag", u.Registry)
		case u.Insecure:
			l.say("%s: insecure: true: whoever is between here and there can read its credentials and change what is pulled by tag; a registry's own authority belongs into ca_file instead", u.Registry)
		}
	}
}

// Upstream returns the entry of a registry, if it has one.
func (c *Config) Upstream(reg oci.Registry) (Upstream, bool) {
	for _, u := range c.Upstreams {
		if u.Registry.Authority() == reg.Authority() {
			return u, true
		}
	}
	return Upstream{}, false
}
