package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"container-registry-proxy/internal/dial"
	"container-registry-proxy/internal/oci"
)

// Host says how one host is asked, where that is unlike the others. All of it goes for what the host leads to as well,
// its redirects and its token service, unless those have entries of their own; but for Plain and Certificate, which are
// for this very host.
type Host struct {
	// Roots are trusted instead of those of Config.TLS.
	Roots *x509.CertPool
	// Insecure leaves certificates unverified.
	Insecure bool
	// Plain asks in plain HTTP what is asked for over HTTPS.
	Plain bool
	// Certificate returns what the host is shown of who we are; nil means nothing.
	Certificate func() (*tls.Certificate, error)
	// Parent is the proxy to go through; nil means what Config.Parent says, unless Direct is set.
	Parent *Parent
	Direct bool
	// Dialer opens the sockets; nil means Config.Dialer.
	Dialer *dial.Dialer
	// ReadTimeout stands for Config.ReadTimeout; 0 means that.
	ReadTimeout time.Duration
	// Replaceable says that the caller knows others who may answer for the registry: it is not waited for as long as
	// others, and rests after it was down.
	Replaceable bool
}

// Parent is a proxy that we go through ourselves.
type Parent struct {
	// URL has the scheme http, https or socks5, a host with a port, and the login if the parent wants one.
	URL *url.URL
	// Dialer opens the sockets to it.
	Dialer *dial.Dialer
}

// way is how a request travels: what has to be equal for two of them to share connections.
type way struct {
	host     string // whose entry of Config.Hosts counts; empty means none
	shown    string // the host whose client certificate is shown; empty means none
	insecure bool
	parent   *Parent
}

// authority is the host[:port] of a URL as Config.Hosts spells it.
func authority(u *url.URL) string {
	reg, err := registryOf(u)
	if err != nil {
		return ""
	}
	return reg.Authority()
}

// way finds out how to ask at u, for a registry or what it has led to.
func (t *transports) way(ctx context.Context, u *url.URL, insecure bool) way {
	at := authority(u)
	w := way{host: at, insecure: insecure}
	own, listed := t.cfg.Hosts[at]
	if listed && own.Certificate != nil {
		w.shown = at
	}
	if !listed {
		w.host = ""
		if reg, ok := oci.RegistryFrom(ctx); ok {
			if _, listed = t.cfg.Hosts[reg.Authority()]; listed {
				w.host = reg.Authority()
			}
		}
	}
	settings := t.cfg.Hosts[w.host]
	w.insecure = w.insecure || settings.Insecure || t.cfg.Insecure != nil && t.cfg.Insecure(oci.CanonicalHost(u.Hostname()))
	switch {
	case settings.Parent != nil:
		w.parent = settings.Parent
	case !settings.Direct && t.cfg.Parent != nil:
		w.parent = t.cfg.Parent(u)
	}
	return w
}

// readTimeout is how long a request for a registry waits for the next byte.
func (t *transports) readTimeout(ctx context.Context) time.Duration {
	if reg, ok := oci.RegistryFrom(ctx); ok {
		if own := t.cfg.Hosts[reg.Authority()].ReadTimeout; own > 0 {
			return own
		}
	}
	return t.cfg.ReadTimeout
}

// plain spells a URL in plain HTTP where its host is asked so.
func (t *transports) plain(u *url.URL) *url.URL {
	if u.Scheme != "https" || !t.cfg.Hosts[authority(u)].Plain {
		return u
	}
	spelled := *u
	spelled.Scheme = "http"
	return &spelled
}

// tls is the configuration of a way.
func (w way) tls(cfg Config) *tls.Config {
	config := &tls.Config{}
	if cfg.TLS != nil {
		config = cfg.TLS.Clone()
	}
	if roots := cfg.Hosts[w.host].Roots; roots != nil {
		config.RootCAs = roots
	}
	if w.shown != "" {
		certificate := cfg.Hosts[w.shown].Certificate
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate() }
	}
	config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
	config.InsecureSkipVerify = w.insecure
	config.NextProtos = nil
	config.ClientSessionCache = tls.NewLRUClientSessionCache(256)
	return config
}

// dial opens a connection: to the host itself, or to the way's parent.
func (w way) dial(cfg Config) func(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := cfg.Dialer
	if own := cfg.Hosts[w.host].Dialer; own != nil {
		dialer = own
	}
	if w.parent != nil {
		dialer = w.parent.Dialer
	}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil && w.parent != nil {
			return nil, &parentError{w.parent, err}
		}
		if err != nil {
			return nil, err
		}
		return &sendConn{Conn: conn, timeout: cfg.SendTimeout}, nil
	}
}

// through has a transport go through the way's parent, if there is one.
func (w way) through(t *http.Transport) {
	if w.parent == nil {
		return
	}
	t.Proxy = http.ProxyURL(w.parent.URL)
	t.ProxyConnectHeader = http.Header{"User-Agent": {"container-registry-proxy"}}
	t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, resp *http.Response) error {
		if resp.StatusCode != http.StatusOK {
			return &parentError{w.parent, safeError(fmt.Sprintf("answers CONNECT with %d", resp.StatusCode))}
		}
		return nil
	}
}

// vet refuses what a parent must not be asked to reach for us: it looks names up by itself, so addresses alone can be
// judged here, and names that mean the parent's own machine.
func (w way) vet(cfg Config, u *url.URL) error {
	if w.parent == nil {
		return nil
	}
	return cfg.Dialer.CheckAddress(hostPort(u))
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// parentError says that it is the parent where things went wrong.
type parentError struct {
	parent *Parent
	err    error
}

func (e *parentError) Error() string {
	return fmt.Sprintf("parent proxy %s: %s", e.parent.URL.Host, causeText(e.err))
}

func (e *parentError) Unwrap() error { return e.err }

// parentTrouble recognises what a parent, not the registry, has answered to a request in plain HTTP.
func (w way) parentTrouble(u *url.URL, resp *http.Response) error {
	if w.parent == nil || u.Scheme != "http" || strings.HasPrefix(w.parent.URL.Scheme, "socks") || resp.StatusCode != http.StatusProxyAuthRequired {
		return nil
	}
	return &parentError{w.parent, safeError("answers 407: it wants another login")}
}
