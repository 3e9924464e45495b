package registrytest

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"container-registry-proxy/internal/oci"
)

// storagePath is where content is on the CDN, or on the registry's own host after a relative redirect:
//
//	/storage/library/app/sha256:4bcf…?expires=1790000000000&hops=2&signature=9d2c…
const storagePath = "/storage/"

// redirect sends the client to the content.
func (r *Registry) redirect(w http.ResponseWriter, repo string, digest oci.Digest) {
	faults, _ := r.look()
	life := faults.URLLife
	if life == 0 {
		life = time.Hour
	}
	path := r.signed(repo+"/"+string(digest), time.Now().Add(life), max(faults.RedirectHops, 1)-1)
	if !faults.RelativeRedirect {
		path = r.scheme() + "://" + r.cdn + path
	}
	w.Header().Set("Location", path)
	w.WriteHeader(faults.Redirect)
}

// signed is a path that is valid until expires, with so many redirects before the content.
func (r *Registry) signed(what string, expires time.Time, hops int) string {
	q := url.Values{"expires": {strconv.FormatInt(expires.UnixMilli(), 10)}, "hops": {strconv.Itoa(hops)}}
	q.Set("signature", signature(what, q))
	return storagePath + what + "?" + q.Encode()
}

func signature(what string, q url.Values) string {
	return oci.FromBytes([]byte(what + " " + q.Get("expires") + " " + q.Get("hops"))).Hex()[:16]
}

// serveCDN refuses what no CDN takes, then serves. Its own content needs no login: the signature is the permission.
func (r *Registry) serveCDN(w http.ResponseWriter, req *http.Request) {
	if req.Header.Get("Authorization") != "" {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprint(w, "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>")
		return
	}
	if !strings.HasPrefix(req.URL.Path, storagePath) {
		http.NotFound(w, req)
		return
	}
	r.serveStorage(w, req)
}

func (r *Registry) serveStorage(w http.ResponseWriter, req *http.Request) {
	faults, _ := r.look()
	what, q := strings.TrimPrefix(req.URL.Path, storagePath), req.URL.Query()
	expires, _ := strconv.ParseInt(q.Get("expires"), 10, 64)
	hops, _ := strconv.Atoi(q.Get("hops"))
	switch {
	case q.Get("signature") != signature(what, q):
		w.WriteHeader(http.StatusForbidden)
		return
	case time.Now().UnixMilli() >= expires:
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(map[bool]int{true: faults.ExpiredStatus, false: http.StatusForbidden}[faults.ExpiredStatus != 0])
		_, _ = fmt.Fprint(w, "<Error><Code>ExpiredToken</Code><Message>Request has expired</Message></Error>")
		return
	case hops > 0:
		w.Header().Set("Location", r.signed(what, time.UnixMilli(expires), hops-1)) // relative, as on any host
		w.WriteHeader(faults.Redirect)
		return
	}
	at := strings.LastIndexByte(what, '/')
	if at < 0 {
		http.NotFound(w, req)
		return
	}
	repo, digest := what[:at], oci.Digest(what[at+1:])
	if doc, _, ok := r.content.document(oci.Path{Repository: repo, Digest: digest}); ok {
		w.Header().Set("Content-Type", doc.mediaType)
		r.send(w, req, doc.body, true)
		return
	}
	body, ok := r.content.blob(repo, digest)
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	r.send(w, req, body, false)
}
