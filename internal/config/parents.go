package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"

	"container-registry-proxy/internal/secret"
)

// Parent is a proxy that we go through ourselves.
type Parent struct {
	// URL is scheme://host:port, without a login; the scheme is http, https or socks5. Empty means none is named.
	URL string
	// Login is "user:password", if the parent wants one.
	Login secret.String
	// None means to go without any.
	None bool
}

// Parents are the proxies for all registries that have none of their own. The zero value is none.
type Parents struct {
	HTTP, HTTPS Parent // for what is asked in plain HTTP, and over TLS
	except      []exception
}

// exception is what NO_PROXY names.
type exception struct {
	network netip.Prefix // of hosts that are addresses
	domain  string       // of names; empty means all
	below   bool         // but not the domain itself
	port    string       // empty means any
}

// For is the parent for a URL, whose zero value means none: what NO_PROXY names is asked directly, and so is this
// machine.
func (p Parents) For(u *url.URL) Parent {
	parent, port := p.HTTPS, "443"
	if u.Scheme == "http" {
		parent, port = p.HTTP, "80"
	}
	if parent.URL == "" {
		return Parent{}
	}
	if u.Port() != "" {
		port = u.Port()
	}
	host := strings.TrimSuffix(strings.ToLower(u.Hostname()), ".")
	addr, err := netip.ParseAddr(host)
	if host == "localhost" || err == nil && addr.Unmap().IsLoopback() {
		return Parent{}
	}
	for _, e := range p.except {
		if e.port != "" && e.port != port {
			continue
		}
		if e.network.IsValid() {
			if err == nil && e.network.Contains(addr.Unmap()) {
				return Parent{}
			}
			continue
		}
		if e.domain == "" || !e.below && host == e.domain || err != nil && strings.HasSuffix(host, "."+e.domain) {
			return Parent{}
		}
	}
	return parent
}

// parseExceptions takes NO_PROXY as curl and Go do: names, which stand for what is below them too, .names, *.names,
// addresses and networks, some with a port; a star is everything.
func parseExceptions(v string) ([]exception, error) {
	var list []exception
	var errs []error
	for _, field := range fields(v) {
		if field == "*" {
			list = append(list, exception{})
			continue
		}
		if strings.Contains(field, "/") {
			networks, err := parseNetworks(field)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			list = append(list, exception{network: networks[0]})
			continue
		}
		name, below := strings.CutPrefix(field, "*")
		name, dot := strings.CutPrefix(name, ".")
		if addr, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil {
			list = append(list, exception{network: netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen())})
			continue
		}
		host, port, err := splitAuthority(name)
		if err != nil || below && !dot {
			errs = append(errs, fmt.Errorf("%s: want hosts, domains, addresses and networks, such as localhost,.example.com,10.0.0.0/8", show(field)))
			continue
		}
		e := exception{domain: host, below: below || dot, port: port}
		if addr, err := netip.ParseAddr(host); err == nil {
			e = exception{network: netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()), port: port}
		}
		list = append(list, e)
	}
	return list, errors.Join(errs...)
}

// parseParent takes the URL of a proxy that we go through, or "none". Its errors show no login.
func parseParent(v string) (Parent, error) {
	if v == "none" {
		return Parent{None: true}, nil
	}
	const want = "want http://host:port, https://host:port or socks5://host:port, such as http://proxy.example.com:8080, or none"
	if !strings.Contains(v, "://") {
		v = "http://" + v // as curl and Go take it
	}
	u, err := url.Parse(v)
	if err != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return Parent{}, errors.New("is not the URL of a proxy: " + want)
	}
	ports := map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}
	port, known := ports[u.Scheme]
	if !known {
		return Parent{}, fmt.Errorf("%s is no kind of proxy: %s", show(u.Scheme), want)
	}
	host, explicit, err := splitAuthority(u.Host)
	if err != nil {
		return Parent{}, errors.New("has no host: " + want)
	}
	if explicit != "" {
		port = explicit
	}
	scheme := strings.TrimSuffix(u.Scheme, "h") // names are the parent's to look up, with SOCKS too
	p := Parent{URL: scheme + "://" + net.JoinHostPort(host, port)}
	if u.User != nil {
		password, _ := u.User.Password()
		p.Login = secret.New(u.User.Username() + ":" + password)
	}
	return p, nil
}
