package doctor

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// upstream asks a registry for a manifest's description through the proxy, which costs no pull, and has the proxy ask
// anew.
func (e *examination) upstream(ctx context.Context) Finding {
	if e.authority == nil {
		return finding(Unknown, "needs the proxy's authority")
	}
	host := e.cfg.Image.Registry.Authority()
	resp, err := e.through(ctx, host, e.cfg.Image.Manifest().String())
	if err != nil {
		return finding(Bad, "%s through the proxy: %s", host, short(err))
	}
	defer resp.Body.Close()
	switch {
	case resp.Header.Get("X-Cache") == "STALE":
		return finding(Bad, "%s cannot be reached from the proxy, which answers for it from its cache", host)
	case resp.StatusCode == http.StatusTooManyRequests:
		return finding(Bad, "%s has had enough of the proxy for now: log in to it in one place, with AUTH_REGISTRIES", host)
	case resp.StatusCode >= 500:
		return finding(Bad, "%s cannot be used by the proxy: %s", host, message(resp))
	case resp.StatusCode >= 400:
		return finding(Good, "%s answers the proxy (%d for %s)", host, resp.StatusCode, e.cfg.Image)
	}
	return finding(Good, "%s answers the proxy", host)
}

// through sends a GET to a registry through the proxy, whose authority alone is trusted.
func (e *examination) through(ctx context.Context, host, path string) (*http.Response, error) {
	roots := x509.NewCertPool()
	roots.AddCert(e.authority)
	transport := &http.Transport{
		DialContext: e.cfg.Dial, DisableKeepAlives: true,
		Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: e.cfg.Proxy}),
		// By the proxy's clock, as in certificate.
		TLSClientConfig: &tls.Config{RootCAs: roots, Time: e.proxyTime},
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+path, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Cache-Control", "no-cache")
	req.Header.Set("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = &cancelling{resp.Body, cancel}
	return resp, nil
}

// message is what an error document says.
func message(resp *http.Response) string {
	var doc struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what there is of it
	if json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0 {
		return doc.Errors[0].Message
	}
	return resp.Status
}

// lowLimit is the part of a rate limit below which it is worth a warning.
const lowLimit = 0.2

// rateLimit reads from the operator's listener what registries have said is left.
func (e *examination) rateLimit(ctx context.Context) Finding {
	samples, err := e.metrics(ctx)
	if err != nil {
		return finding(Unknown, "%s", err)
	}
	worst, registry := 2.0, ""
	for name, left := range samples {
		labels, ok := strings.CutPrefix(name, "container_registry_proxy_rate_limit_remaining")
		limit := samples["container_registry_proxy_rate_limit"+labels]
		if ok && limit > 0 && left/limit < worst {
			worst, registry = left/limit, labels
		}
	}
	switch {
	case registry == "":
		return finding(Good, "no registry has said that it limits pulls")
	case worst <= 0:
		return finding(Bad, "nothing is left of the pulls that a registry allows %s: tags are answered from the cache, what is not cached fails", registry)
	case worst < lowLimit:
		return finding(Warning, "%.0f %% is left of the pulls that a registry allows %s", 100*worst, registry)
	}
	return finding(Good, "%.0f %% is left of the pulls that registries allow", 100*worst)
}

// disk reads from the operator's listener whether the cache keeps what it fetches.
func (e *examination) disk(ctx context.Context) Finding {
	samples, err := e.metrics(ctx)
	if err != nil {
		return finding(Unknown, "%s", err)
	}
	if samples["container_registry_proxy_store_degraded"] > 0 {
		return finding(Bad, "the cache keeps nothing new: the proxy's log has the reason; make room, or mend its disk")
	}
	used, limit := samples["container_registry_proxy_store_bytes"], samples["container_registry_proxy_store_limit_bytes"]
	return finding(Good, "the cache holds %.1f of at most %.1f GiB", used/(1<<30), limit/(1<<30))
}

// metrics gets the operator's metrics: name and labels, as they are written, to value.
func (e *examination) metrics(ctx context.Context) (map[string]float64, error) {
	if e.cfg.Admin == "" {
		return nil, fmt.Errorf("needs the operator's listener, which is not on this machine")
	}
	resp, err := e.get(ctx, e.cfg.Admin, "/metrics")
	if err != nil {
		return nil, fmt.Errorf("needs the operator's listener: %s: %s", e.cfg.Admin, short(err))
	}
	defer resp.Body.Close()
	samples := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndexByte(lines.Text(), ' '); ok && i > 0 {
			name, value = lines.Text()[:i], lines.Text()[i+1:]
		}
		if v, err := strconv.ParseFloat(value, 64); err == nil && !strings.HasPrefix(name, "#") {
			samples[name] = v
		}
	}
	return samples, lines.Err()
}
