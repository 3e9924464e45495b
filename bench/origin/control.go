package origin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

// control changes and reads the origin from another process: the benchmark's client.
func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /blobs", func(w http.ResponseWriter, r *http.Request) {
		var blobs []Blob
		if err := json.NewDecoder(r.Body).Decode(&blobs); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, s.add(blobs))
	})
	mux.HandleFunc("POST /documents", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(w, s.addDocument(r.URL.Query().Get("tag"), r.URL.Query().Get("type"), body))
	})
	mux.HandleFunc("POST /rate", func(w http.ResponseWriter, r *http.Request) {
		rate, err := strconv.ParseInt(r.URL.Query().Get("bytes"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.rate.Store(rate)
		answer(w, rate)
	})
	mux.HandleFunc("GET /counts", func(w http.ResponseWriter, _ *http.Request) { answer(w, s.read()) })
	return mux
}

func answer(w http.ResponseWriter, v any) {
	_ = json.NewEncoder(w).Encode(v) // the client may have left
}

func (s *Server) read() Counts {
	c := &s.counts
	return Counts{
		BlobGets: c.blobGets.Load(), BlobRanges: c.blobRanges.Load(), BlobHeads: c.blobHeads.Load(),
		ManifestGets: c.manifestGets.Load(), ManifestHeads: c.manifestHeads.Load(), Bytes: c.bytes.Load(),
	}
}

// add makes the blobs known and returns their digests.
func (s *Server) add(blobs []Blob) []string {
	digests := make([]string, len(blobs))
	for i, b := range blobs {
		digests[i] = b.Digest()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, b := range blobs {
		s.blobs[digests[i]] = b
	}
	return digests
}

// addDocument makes a manifest known by its digest, and by a tag if there is one.
func (s *Server) addDocument(tag, mediaType string, body []byte) string {
	sum := sha256.Sum256(body)
	doc := document{mediaType: mediaType, digest: "sha256:" + hex.EncodeToString(sum[:]), body: body}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.documents[doc.digest] = doc
	if tag != "" {
		s.documents[tag] = doc
	}
	return doc.digest
}

// Control is the origin as seen from another process. Blobs that it adds have seeds that were not used before.
type Control struct {
	URL    string // of the control listener
	Client *http.Client
	seed   uint64
}

// Blobs adds n new blobs of one size and returns their digests.
func (c *Control) Blobs(ctx context.Context, n int, size int64) ([]string, error) {
	blobs := make([]Blob, n)
	for i := range blobs {
		c.seed++
		blobs[i] = Blob{Seed: c.seed, Size: size}
	}
	body, err := json.Marshal(blobs)
	if err != nil {
		return nil, err
	}
	var digests []string
	err = c.do(ctx, http.MethodPost, "/blobs", body, &digests)
	return digests, err
}

// Blob adds one new blob and returns its digest.
func (c *Control) Blob(ctx context.Context, size int64) (string, error) {
	digests, err := c.Blobs(ctx, 1, size)
	if err != nil {
		return "", err
	}
	return digests[0], nil
}

// Document adds a manifest or an index and returns its digest.
func (c *Control) Document(ctx context.Context, tag, mediaType string, body []byte) (digest string, err error) {
	query := url.Values{"tag": {tag}, "type": {mediaType}}
	err = c.do(ctx, http.MethodPost, "/documents?"+query.Encode(), body, &digest)
	return digest, err
}

// Limit sets how many bytes a second a connection gets; 0 is no limit.
func (c *Control) Limit(ctx context.Context, rate int64) error {
	return c.do(ctx, http.MethodPost, "/rate?bytes="+strconv.FormatInt(rate, 10), nil, new(int64))
}

// Counts reads what the origin was asked for.
func (c *Control) Counts(ctx context.Context) (counts Counts, err error) {
	err = c.do(ctx, http.MethodGet, "/counts", nil, &counts)
	return counts, err
}

func (c *Control) do(ctx context.Context, method, path string, body []byte, result any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := c.Client.Do(req)
	if err != nil {
		return fmt.Errorf("origin: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		reason, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what there is of it helps
		return fmt.Errorf("origin: %s %s: %s: %s", method, path, resp.Status, reason)
	}
	return json.NewDecoder(resp.Body).Decode(result)
}
