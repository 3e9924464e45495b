// Package doctor finds out what keeps a machine from pulling images through the proxy, and says it in one line for each
// thing that can be wrong. Its invariant: it changes nothing, and one thing that is wrong turns one line red: a check that
// needs what another has found missing says so and is neither right nor wrong.
//
// It looks at a client of the proxy, at the machine that the proxy runs on, or at both in one. It asks the proxy, reads
// files and the environment of running daemons, and knows nothing of the proxy's inside.
package doctor

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"container-registry-proxy/internal/oci"
)

// Config says where to look. The zero value of every field but Proxy and Dial works.
type Config struct {
	// Proxy is the proxy's address for clients, host:port.
	Proxy string
	// Admin is the operator's listener, host:port, if it can be reached from here; empty leaves out what only it knows.
	Admin string
	// Image is what is asked of a registry through the proxy, without being pulled; zero means
	// docker.io/library/hello-world:latest.
	Image oci.Reference
	// Root is where this machine's files are, /proc among them; empty means "/".
	Root string
	// Dial connects to the proxy and to Admin.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// LookupHost resolves the proxy's name; nil means as this machine does.
	LookupHost func(ctx context.Context, host string) ([]string, error)
	// Now is this machine's clock; nil means the real one.
	Now func() time.Time
}

// State is how a check came out.
type State string

// The states.
const (
	Good    State = "ok"
	Warning State = "warn" // works, and will not for long, or not for all
	Bad     State = "fail"
	Unknown State = "-" // cannot be told from here
)

// Finding is one line.
type Finding struct {
	Check string
	State State
	Text  string
}

// timeout bounds each question to the proxy. One that has to ask a slow registry takes its time.
const timeout = 20 * time.Second

// Examine makes all checks, in an order in which the first thing that is wrong is the first thing to mend.
func Examine(ctx context.Context, cfg Config) []Finding {
	if cfg.Image == (oci.Reference{}) {
		cfg.Image = oci.Reference{Registry: oci.DockerHub, Repository: "library/hello-world", Tag: "latest"}
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.LookupHost == nil {
		cfg.LookupHost = net.DefaultResolver.LookupHost
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	e := &examination{cfg: cfg}
	var found []Finding
	for _, c := range []struct {
		name  string
		check func(context.Context) Finding
	}{
		{"dns", e.dns},
		{"port", e.port},
		{"clock", e.clock},
		{"certificate", e.certificate},
		{"trust", e.trust},
		{"upstream", e.upstream},
		{"rate limit", e.rateLimit},
		{"disk", e.disk},
	} {
		f := c.check(ctx)
		f.Check = c.name
		found = append(found, f)
	}
	return append(found, e.daemons()...)
}

// Print writes the findings, a line each, and reports whether none is bad.
func Print(w io.Writer, found []Finding) bool {
	healthy := true
	for _, f := range found {
		fmt.Fprintf(w, "%-4s  %-12s %s\n", f.State, f.Check, f.Text)
		healthy = healthy && f.State != Bad
	}
	return healthy
}

// examination is what the checks have found out for each other.
type examination struct {
	cfg       Config
	resolves  bool
	answers   bool
	date      time.Time         // the proxy's, when it answered
	asked     time.Time         // ours, then
	authority *x509.Certificate // the proxy's
}

func finding(state State, format string, args ...any) Finding {
	return Finding{State: state, Text: fmt.Sprintf(format, args...)}
}

// dns finds out whether the proxy's name leads anywhere.
func (e *examination) dns(ctx context.Context) Finding {
	host, _, err := net.SplitHostPort(e.cfg.Proxy)
	if err != nil {
		return finding(Bad, "%s is no address of a proxy: want host:port, such as 192.168.66.72:3128", e.cfg.Proxy)
	}
	if net.ParseIP(host) != nil {
		e.resolves = true
		return finding(Good, "the proxy is named by its address, %s", host)
	}
	addresses, err := e.cfg.LookupHost(ctx, host)
	if err != nil || len(addresses) == 0 {
		return finding(Bad, "%s does not resolve on this machine: name the proxy by its address, or add the name", host)
	}
	e.resolves = true
	return finding(Good, "%s is %s", host, addresses[0])
}

// port finds out whether the proxy answers.
func (e *examination) port(ctx context.Context) Finding {
	if !e.resolves {
		return finding(Unknown, "needs the proxy's name")
	}
	resp, err := e.get(ctx, e.cfg.Proxy, "/healthz")
	if err != nil {
		return finding(Bad, "%s: %s: is the proxy running, does LISTEN have that port, does a firewall stand in between?", e.cfg.Proxy, short(err))
	}
	_ = resp.Body.Close()
	e.asked = e.cfg.Now()
	e.date, _ = http.ParseTime(resp.Header.Get("Date"))
	if resp.StatusCode != http.StatusOK {
		return finding(Bad, "%s answers %s: it is not well, or something else listens there", e.cfg.Proxy, resp.Status)
	}
	e.answers = true
	return finding(Good, "the proxy answers on %s", e.cfg.Proxy)
}

// skew is how far two clocks may differ: certificates are dated a day back, tokens live for minutes.
const skew = 2 * time.Minute

// clock compares the proxy's clock with this machine's.
func (e *examination) clock(context.Context) Finding {
	if e.date.IsZero() {
		return finding(Unknown, "needs an answer of the proxy")
	}
	off := e.asked.Sub(e.date).Round(time.Second)
	if off > skew || off < -skew {
		return finding(Bad, "this machine's clock and the proxy's differ by %s: certificates and tokens are taken for expired or not yet valid; set both by NTP", off.Abs())
	}
	return finding(Good, "this machine's clock and the proxy's agree")
}

// get asks a plain HTTP server, not through any proxy.
func (e *examination) get(ctx context.Context, address, path string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "http", Host: address, Path: path}).String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	resp, err := (&http.Transport{DialContext: e.cfg.Dial, DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &cancelling{resp.Body, cancel}
	return resp, nil
}

// cancelling ends a request with its body.
type cancelling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}
