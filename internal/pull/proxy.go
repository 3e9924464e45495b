package pull

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// maxManifest bounds a manifest that is read into memory.
const maxManifest = 16 << 20

// Proxy is a running proxy as a source. It is asked as a mirror, in plain HTTP, for which no authority has to be trusted.
type Proxy struct {
	// NoCache has tags revalidated.
	NoCache bool

	address string // where clients connect to, "host:port"
	client  *http.Client
}

// NewProxy returns the proxy at an address, "host:port", as a source. Dial opens its connections.
func NewProxy(address string, dial func(ctx context.Context, network, address string) (net.Conn, error)) *Proxy {
	return &Proxy{address: address, client: &http.Client{Transport: &http.Transport{
		DialContext: dial, ResponseHeaderTimeout: 10 * time.Minute, MaxIdleConnsPerHost: 16, DisableCompression: true,
	}}}
}

// Manifest implements [Source].
func (p *Proxy) Manifest(ctx context.Context, ref oci.Reference) (string, []byte, error) {
	resp, err := p.get(ctx, ref.Registry, ref.Manifest())
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err == nil && len(body) > maxManifest {
		err = fmt.Errorf("manifest has more than %d bytes", maxManifest)
	}
	return resp.Header.Get("Content-Type"), body, err
}

// Blob implements [Source].
func (p *Proxy) Blob(ctx context.Context, ref oci.Reference, d oci.Digest) (io.ReadCloser, error) {
	resp, err := p.get(ctx, ref.Registry, ref.Blob(d))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// get asks for a path of a registry, and turns what is no success into an error with the proxy's own words.
func (p *Proxy) get(ctx context.Context, reg oci.Registry, path oci.Path) (*http.Response, error) {
	address := "http://" + p.address + path.String() + "?ns=" + url.QueryEscape(string(reg))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if path.Kind == oci.KindManifest {
		req.Header.Set("Accept", strings.Join(Accept, ", "))
	}
	if p.NoCache {
		req.Header.Set("Cache-Control", "no-cache")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var doc struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // what there is of it
	if json.Unmarshal(body, &doc) == nil && len(doc.Errors) > 0 {
		return nil, fmt.Errorf("%s: %s", resp.Status, doc.Errors[0].Message)
	}
	return nil, fmt.Errorf("%s from the proxy", resp.Status)
}
