package origin

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"
)

// However a blob is read, its bytes are the same, and they are what the digest says.
func TestContent(t *testing.T) {
	t.Parallel()
	blob := Blob{Seed: 7, Size: 3*block + 100}
	whole := make([]byte, blob.Size+50)
	n := blob.ReadAt(whole, 0)
	if int64(n) != blob.Size {
		t.Fatalf("ReadAt = %d bytes, want %d", n, blob.Size)
	}
	whole = whole[:n]
	sum := sha256.Sum256(whole)
	if got, want := blob.Digest(), "sha256:"+hex.EncodeToString(sum[:]); got != want {
		t.Errorf("Digest() = %s, want %s", got, want)
	}
	for _, step := range []int{1, 13, 4096, block - 1, block + 5} {
		part := make([]byte, step)
		for off := int64(0); off < blob.Size; off += int64(step) * 3 {
			n := blob.ReadAt(part, off)
			if want := whole[off:min(off+int64(step), blob.Size)]; !bytes.Equal(part[:n], want) {
				t.Fatalf("ReadAt(%d bytes, %d) differs from the whole", step, off)
			}
		}
	}
	if other := (Blob{Seed: 8, Size: blob.Size}); other.Digest() == blob.Digest() {
		t.Error("two seeds, one digest")
	}
	if got := blob.ReadAt(whole, blob.Size+1); got != 0 {
		t.Errorf("behind the end: %d bytes, want 0", got)
	}
}

// start serves an origin and returns its control and the address of its plain listener.
func start(t *testing.T) (*Control, string) {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secure, plain, control := listen(), listen(), listen()
	go func() { // ends with its listeners
		_ = New().Serve(secure, plain, control, tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	}()
	return &Control{URL: "http://" + control.Addr().String(), Client: http.DefaultClient}, "http://" + plain.Addr().String()
}

func get(t *testing.T, url, ranges string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, body
}

func TestRegistry(t *testing.T) {
	t.Parallel()
	control, url := start(t)
	digests, err := control.Blobs(t.Context(), 2, 200<<10)
	if err != nil {
		t.Fatal(err)
	}
	status, whole := get(t, url+"/v2/team/app/blobs/"+digests[1], "")
	sum := sha256.Sum256(whole)
	if status != http.StatusOK || "sha256:"+hex.EncodeToString(sum[:]) != digests[1] {
		t.Errorf("blob: status %d, %d bytes, not those of its digest", status, len(whole))
	}
	for _, tt := range []struct {
		header string
		status int
		want   []byte
	}{
		{"bytes=0-0", http.StatusPartialContent, whole[:1]},
		{"bytes=65530-65545", http.StatusPartialContent, whole[65530:65546]},
		{"bytes=204799-", http.StatusPartialContent, whole[204799:]},
		{"bytes=204800-", http.StatusRequestedRangeNotSatisfiable, nil},
	} {
		status, body := get(t, url+"/v2/team/app/blobs/"+digests[1], tt.header)
		if status != tt.status || tt.want != nil && !bytes.Equal(body, tt.want) {
			t.Errorf("%s: status %d and %d bytes, want %d and %d bytes of the blob", tt.header, status, len(body), tt.status, len(tt.want))
		}
	}
	digest, err := control.Document(t.Context(), "latest", "application/json", []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	for _, reference := range []string{"latest", digest} {
		if status, body := get(t, url+"/v2/team/app/manifests/"+reference, ""); status != http.StatusOK || string(body) != "{}" {
			t.Errorf("manifest %s: status %d, %q", reference, status, body)
		}
	}
	counts, err := control.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := (Counts{BlobGets: 1, BlobRanges: 3, ManifestGets: 2, Bytes: 200<<10 + 1 + 16 + 1}); counts != want {
		t.Errorf("counts = %+v, want %+v", counts, want)
	}
}

// A limit holds for a connection, however fast the machine is. The bound is wide: only what is too fast is wrong.
func TestLimit(t *testing.T) {
	t.Parallel()
	control, url := start(t)
	const rate, size = 2 << 20, 1 << 20
	digest, err := control.Blob(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	if err := control.Limit(context.Background(), rate); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	get(t, url+"/v2/team/app/blobs/"+digest, "")
	if took, least := time.Since(began), time.Second*size/rate*8/10; took < least {
		t.Errorf("1 MiB at 2 MiB/s took %s, want %s at least", took, least)
	}
}
