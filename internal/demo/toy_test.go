package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"container-registry-proxy/internal/oci"
)

func TestImageIsTheSameEveryTime(t *testing.T) {
	t.Parallel()
	sizes := []int64{1000, 0, 70_000}
	first, err := newImage(sizes)
	if err != nil {
		t.Fatal(err)
	}
	second, err := newImage(sizes)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.manifest, second.manifest) {
		t.Errorf("manifests differ:\n%s\n%s", first.manifest, second.manifest)
	}
	if len(first.blobs) != len(sizes)+1 {
		t.Errorf("%d blobs, want the layers, all different, and a configuration", len(first.blobs))
	}
}

// direct is a client of the toy registry without a proxy between.
func direct(t *testing.T, toy *toyRegistry) *client {
	t.Helper()
	roots, err := pool(toy.certificate)
	if err != nil {
		t.Fatal(err)
	}
	return &client{&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}}}
}

func startToy(t *testing.T, rate int64) (*toyRegistry, *image) {
	t.Helper()
	img, err := newImage([]int64{1000, 200_000})
	if err != nil {
		t.Fatal(err)
	}
	toy, err := startRegistry(img, rate)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(toy.close)
	return toy, img
}

func TestPullWithoutAProxy(t *testing.T) {
	t.Parallel()
	toy, img := startToy(t, 1<<30)
	for _, drawn := range []bool{false, true} {
		var out bytes.Buffer
		layers, err := direct(t, toy).pull(t.Context(), toy.host, newProgress(Config{Out: &out, Bars: drawn}))
		if err != nil {
			t.Fatal(err)
		}
		var got []oci.Digest
		for _, l := range layers {
			got = append(got, l.digest)
		}
		want := []oci.Digest{img.layers[0].Digest, img.layers[1].Digest}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("layers (-want +got):\n%s", diff)
		}
		if lines := strings.Count(out.String(), "layer"); !drawn && lines != 2 {
			t.Errorf("%d lines, want one a layer: %q", lines, &out)
		}
	}
	if n := toy.blobs.Load(); n != 6 {
		t.Errorf("registry was asked for %d blobs, want 6", n)
	}
	if err := verdict(pull{layers: []layer{{outcome: "MISS"}}}, toy, 2); err == nil {
		t.Error("no complaint of a second pull that the registry noticed")
	}
}

func TestToyHasOneImage(t *testing.T) {
	t.Parallel()
	toy, _ := startToy(t, 1<<30)
	for _, path := range []string{"/", "/v2/demo/app/manifests/v2", "/v2/other/app/manifests/v1", "/v2/demo/app/blobs/sha256:" + strings.Repeat("0", 64)} {
		if _, _, err := direct(t, toy).get(t.Context(), "https://"+toy.host+path, io.Discard); err == nil || !strings.Contains(err.Error(), "404") {
			t.Errorf("%s: err = %v, want 404", path, err)
		}
	}
}

func TestToyIsSlow(t *testing.T) {
	t.Parallel()
	toy, _ := startToy(t, 500_000)
	start := time.Now()
	if _, err := direct(t, toy).pull(t.Context(), toy.host, newProgress(Config{Out: io.Discard})); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("200 kB at 500 kB/s took %v, want 400 ms", took)
	}
}

func TestFailingProxyIsReported(t *testing.T) {
	t.Parallel()
	err := Run(t.Context(), Config{Layers: []int64{10}, Start: func(context.Context, []string) (string, func() error, error) {
		return "", nil, errors.New("no port is free")
	}})
	if err == nil || !strings.Contains(err.Error(), "no port is free") {
		t.Errorf("err = %v, want the proxy's", err)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	table(&out, []pull{
		{layers: []layer{{size: 1 << 20, outcome: "MISS"}, {size: 2 << 20, outcome: "COALESCED"}, {outcome: "MISS"}}, time: 2 * time.Second, fetched: 3 << 20},
		{layers: []layer{{size: 1 << 20, outcome: "HIT"}, {size: 2 << 20, outcome: "HIT"}, {outcome: "HIT"}}, time: time.Second / 4},
	})
	want := `         layers    answered by the cache     from the registry   time
pull 1   3.0 MiB   2 × MISS, 1 × COALESCED   3.0 MiB             2.00 s
pull 2   3.0 MiB   3 × HIT                   0.0 KiB             0.25 s
saved    3.0 MiB and 1.75 s; the second pull fetched no layer
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

func TestWrongBytesAreNoLayer(t *testing.T) {
	t.Parallel()
	toy, img := startToy(t, 1<<30)
	for d, blob := range img.blobs {
		img.blobs[d] = append(bytes.Clone(blob[:len(blob)-1]), '!')
	}
	if _, err := direct(t, toy).pull(t.Context(), toy.host, newProgress(Config{Out: io.Discard})); err == nil || !strings.Contains(err.Error(), "came as") {
		t.Errorf("err = %v, want the pull to fail", err)
	}
}
