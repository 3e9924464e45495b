package demo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"container-registry-proxy/internal/oci"
)

// client pulls as container clients do: HTTPS through the proxy, whose authority it trusts.
type client struct{ http *http.Client }

// layer is how a layer came.
type layer struct {
	digest  oci.Digest
	size    int64
	outcome string // the response's X-Cache: MISS, HIT
	time    time.Duration
}

// newClient makes a client of the proxy, after getting its authority from it.
func newClient(ctx context.Context, proxy string) (*client, error) {
	direct := &client{&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	ca, _, err := direct.get(ctx, "http://"+proxy+"/ca.crt", io.Discard)
	if err != nil {
		return nil, err
	}
	roots, err := pool(ca)
	if err != nil {
		return nil, fmt.Errorf("ca.crt: %w", err)
	}
	return &client{&http.Client{Transport: &http.Transport{
		Proxy:             http.ProxyURL(&url.URL{Scheme: "http", Host: proxy}),
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true, // as dockerd
	}}}, nil
}

// pull gets the image of the registry: manifest, configuration, then the layers, three at a time, and checks them all.
func (c *client) pull(ctx context.Context, registry string, show progress) ([]layer, error) {
	base := "https://" + registry + "/v2/" + repository
	doc, _, err := c.get(ctx, base+"/manifests/"+tag, io.Discard)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(doc, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if _, err := c.blob(ctx, base, m.Config, io.Discard); err != nil {
		return nil, err
	}
	layers := make([]layer, len(m.Layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(3)
	for i, desc := range m.Layers {
		bar := show.add(i+1, desc)
		g.Go(func() (err error) {
			layers[i], err = c.blob(ctx, base, desc, bar)
			bar.done(layers[i], err)
			return err
		})
	}
	err = g.Wait()
	show.wait()
	return layers, err
}

// blob gets a blob, writing it to w too, and checks that it is the one that was asked for.
func (c *client) blob(ctx context.Context, base string, desc oci.Descriptor, w io.Writer) (layer, error) {
	start := time.Now()
	body, outcome, err := c.get(ctx, base+"/blobs/"+string(desc.Digest), w)
	if err != nil {
		return layer{}, err
	}
	if got := oci.FromBytes(body); got != desc.Digest {
		return layer{}, fmt.Errorf("layer %s came as %s", desc.Digest, got)
	}
	return layer{digest: desc.Digest, size: desc.Size, outcome: outcome, time: time.Since(start)}, nil
}

// get returns a body and the outcome that its response names, writing the body to w as it comes.
func (c *client) get(ctx context.Context, address string, w io.Writer) (body []byte, outcome string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, "", fmt.Errorf("get: %w", err)
	}
	req.Header.Set("Accept", typeManifest)
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, "", err // names method and address
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.TeeReader(resp.Body, w))
	if err != nil {
		return nil, "", fmt.Errorf("get %s: %w", address, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, "", fmt.Errorf("get %s: %s: %.300s", address, resp.Status, body)
	}
	return body, resp.Header.Get("X-Cache"), nil
}
