package registrytest

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"sync"

	"container-registry-proxy/internal/oci"
)

// document is a manifest or an index.
type document struct {
	mediaType string
	body      []byte
}

// repository is what one name holds. A digest of another repository is unknown to it.
type repository struct {
	blobs     map[oci.Digest][]byte
	documents map[oci.Digest]document
	tags      map[string]oci.Digest
}

// content is what the registry holds. Safe for concurrent use; bytes in it are never changed.
type content struct {
	mu           sync.Mutex
	repositories map[string]*repository
	uploads      map[string][]byte
}

func newContent() *content {
	return &content{repositories: map[string]*repository{}, uploads: map[string][]byte{}}
}

// in runs f on a repository, which is made if there is none.
func (c *content) in(name string, f func(*repository)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	repo := c.repositories[name]
	if repo == nil {
		repo = &repository{map[oci.Digest][]byte{}, map[oci.Digest]document{}, map[string]oci.Digest{}}
		c.repositories[name] = repo
	}
	f(repo)
}

func (c *content) blob(name string, digest oci.Digest) (body []byte, ok bool) {
	c.in(name, func(repo *repository) { body, ok = repo.blobs[digest] })
	return body, ok
}

// document finds a manifest by p's tag or digest.
func (c *content) document(p oci.Path) (doc document, digest oci.Digest, ok bool) {
	c.in(p.Repository, func(repo *repository) {
		digest = p.Digest
		if p.Tag != "" {
			digest = repo.tags[p.Tag]
		}
		doc, ok = repo.documents[digest]
	})
	return doc, digest, ok
}

// tags are a repository's, sorted.
func (c *content) tags(name string) (tags []string) {
	c.in(name, func(repo *repository) { tags = slices.Sorted(maps.Keys(repo.tags)) })
	return tags
}

func (r *Registry) serveBlob(w http.ResponseWriter, req *http.Request, p oci.Path) {
	body, ok := r.content.blob(p.Repository, p.Digest)
	switch {
	case req.Method == http.MethodDelete && ok:
		r.content.in(p.Repository, func(repo *repository) { delete(repo.blobs, p.Digest) })
		w.WriteHeader(http.StatusAccepted)
	case !ok:
		fail(w, 404, oci.CodeBlobUnknown, "blob unknown to registry")
	case r.oddMethod(w, req):
	default:
		if faults, _ := r.look(); faults.Redirect != 0 {
			r.redirect(w, p.Repository, p.Digest)
			return
		}
		r.describe(w, "application/octet-stream", p.Digest)
		r.send(w, req, body, false)
	}
}

func (r *Registry) serveManifest(w http.ResponseWriter, req *http.Request, p oci.Path) {
	if req.Method == http.MethodPut {
		r.putManifest(w, req, p)
		return
	}
	faults, _ := r.look()
	doc, digest, ok := r.content.document(p)
	switch {
	case req.Method == http.MethodDelete && ok:
		r.Delete(p.Repository, p.Tag, digest)
		w.WriteHeader(http.StatusAccepted)
	case !ok:
		fail(w, 404, oci.CodeManifestUnknown, "manifest unknown")
	case r.oddMethod(w, req):
	case faults.RedirectManifests && faults.Redirect != 0:
		r.redirect(w, p.Repository, digest)
	default:
		if faults.RateLimit != "" {
			w.Header().Set("RateLimit-Limit", faults.RateLimit)
			w.Header().Set("RateLimit-Remaining", cmp.Or(faults.RateRemaining, faults.RateLimit))
			w.Header().Set("Docker-RateLimit-Source", "192.0.2.1")
		}
		r.describe(w, doc.mediaType, digest)
		r.send(w, req, doc.body, true)
	}
}

// oddMethod answers what is neither GET nor a HEAD that the registry knows.
func (r *Registry) oddMethod(w http.ResponseWriter, req *http.Request) bool {
	faults, _ := r.look()
	switch {
	case req.Method == http.MethodHead && faults.HeadStatus != 0:
		w.WriteHeader(faults.HeadStatus)
		return true
	case req.Method != http.MethodGet && req.Method != http.MethodHead:
		fail(w, 405, oci.CodeUnsupported, "method not allowed")
		return true
	}
	return false
}

// Delete removes a tag, or a manifest with all its tags if tag is empty.
func (r *Registry) Delete(repo, tag string, digest oci.Digest) {
	r.content.in(repo, func(re *repository) {
		if tag != "" {
			delete(re.tags, tag)
			return
		}
		delete(re.documents, digest)
		maps.DeleteFunc(re.tags, func(_ string, d oci.Digest) bool { return d == digest })
	})
}

// DeleteRepository removes all that a repository holds.
func (r *Registry) DeleteRepository(repo string) {
	r.content.in(repo, func(re *repository) {
		clear(re.blobs)
		clear(re.documents)
		clear(re.tags)
	})
}
