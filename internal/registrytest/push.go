package registrytest

import (
	"crypto/rand"
	"fmt"
	"io"
	"net/http"

	"container-registry-proxy/internal/oci"
)

// serveUpload takes a blob in the ways of the distribution specification v1.1: end-4a, end-4b, end-5, end-6 and end-11.
func (r *Registry) serveUpload(w http.ResponseWriter, req *http.Request, p oci.Path) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client left
	}
	q := req.URL.Query()
	switch req.Method {
	case http.MethodPost:
		switch {
		case q.Get("mount") != "" && r.mount(p.Repository, q.Get("from"), oci.Digest(q.Get("mount"))):
			r.created(w, p.Repository, oci.Digest(q.Get("mount")))
		case q.Get("digest") != "":
			r.finish(w, p.Repository, q.Get("digest"), body)
		default:
			r.accepted(w, p.Repository, rand.Text(), nil)
		}
	case http.MethodPatch:
		r.accepted(w, p.Repository, p.Session, append(r.upload(p.Session), body...))
	case http.MethodPut:
		r.finish(w, p.Repository, q.Get("digest"), append(r.upload(p.Session), body...))
	default:
		fail(w, 405, oci.CodeUnsupported, "method not allowed")
	}
}

func (r *Registry) upload(session string) []byte {
	r.content.mu.Lock()
	defer r.content.mu.Unlock()
	return r.content.uploads[session]
}

func (r *Registry) accepted(w http.ResponseWriter, repo, session string, body []byte) {
	r.content.mu.Lock()
	r.content.uploads[session] = body
	r.content.mu.Unlock()
	w.Header().Set("Location", fmt.Sprintf("/v2/%s/blobs/uploads/%s?state=opaque", repo, session))
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(body)-1, 0)))
	w.WriteHeader(http.StatusAccepted)
}

func (r *Registry) finish(w http.ResponseWriter, repo, want string, body []byte) {
	digest := oci.FromBytes(body)
	if want != string(digest) {
		fail(w, 400, oci.CodeDigestInvalid, "provided digest did not match uploaded content")
		return
	}
	r.PutBlob(repo, body)
	r.created(w, repo, digest)
}

func (r *Registry) created(w http.ResponseWriter, repo string, digest oci.Digest) {
	w.Header().Set("Location", fmt.Sprintf("/v2/%s/blobs/%s", repo, digest))
	w.Header().Set("Docker-Content-Digest", string(digest))
	w.WriteHeader(http.StatusCreated)
}

func (r *Registry) mount(repo, from string, digest oci.Digest) bool {
	body, ok := r.content.blob(from, digest)
	if ok {
		r.content.in(repo, func(re *repository) { re.blobs[digest] = body })
	}
	return ok
}

func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, p oci.Path) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // the client left
	}
	if p.Digest != "" && p.Digest != oci.FromBytes(body) {
		fail(w, 400, oci.CodeDigestInvalid, "provided digest did not match uploaded content")
		return
	}
	digest := r.PutManifest(p.Repository, p.Tag, req.Header.Get("Content-Type"), body)
	w.Header().Set("Location", fmt.Sprintf("/v2/%s/manifests/%s", p.Repository, digest))
	w.Header().Set("Docker-Content-Digest", string(digest))
	w.WriteHeader(http.StatusCreated)
}
