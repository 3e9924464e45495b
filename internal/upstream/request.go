package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/ratelimit"
	"container-registry-proxy/internal/secret"
	"container-registry-proxy/internal/upstream/auth"
)

// Request is one question to a registry.
type Request struct {
	// Method is GET or HEAD, which stay what they are through redirects, or any other, which is not redirected.
	Method   string
	Registry oci.Registry
	// Path is the escaped path and query, as in "/v2/library/alpine/manifests/3.20".
	Path string
	// Scope is the right that a token is asked for, and says for which repository a login is wanted. Empty means to pull
	// from the one that Path names, if it names one.
	Scope auth.Scope
	// As says with whose credentials.
	As auth.Identity
	// Header is sent as it is, but for Authorization, Accept-Encoding, Expect, Host, Proxy-… and what is hop-by-hop. It
	// is not changed.
	Header http.Header
	// Body is sent once: a request with a body is not repeated, follows no redirect and answers no challenge.
	Body io.Reader
	// ContentLength is the body's, or -1 where it is not known.
	ContentLength int64
	// NoFollow returns a redirect instead of following it.
	NoFollow bool
	// Purpose says how much the request matters, where little is left of a registry's limit.
	Purpose ratelimit.Purpose
}

// repeatable reports whether asking twice does what asking once does.
func (r *Request) repeatable() bool {
	return r.Body == nil && (r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// scope is Scope, or what Path implies.
func (r *Request) scope() auth.Scope {
	if r.Scope != "" {
		return r.Scope
	}
	if repository := r.path().Repository; repository != "" {
		return auth.PullScope(repository)
	}
	return ""
}

// path is what the request asks for, as far as it can be told.
func (r *Request) path() oci.Path {
	path, _, _ := strings.Cut(r.Path, "?")
	p, err := oci.ParsePath(path)
	if err != nil {
		return oci.Path{}
	}
	return p
}

// url is where the request goes first.
func (r *Request) url() (*url.URL, error) {
	if !strings.HasPrefix(r.Path, "/") {
		return nil, errors.New("path of a request to a registry does not begin with a slash")
	}
	u, err := url.Parse(r.Registry.Scheme() + "://" + r.Registry.Authority() + r.Path)
	if err != nil || u.Fragment != "" {
		return nil, errors.New("path of a request to a registry is malformed") // err would quote it
	}
	return u, nil
}

// hopHeaders concern one connection (RFC 9110, section 7.6.1), or are ours to set.
var hopHeaders = []string{
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Proxy-Authorization", "Proxy-Authenticate", "Authorization", "Accept-Encoding", "Expect", "Host", "Content-Length",
}

// strangerHeaders are all that the target of a redirect on another origin is told: what is wanted, and nothing about
// who wants it.
var strangerHeaders = []string{
	"Accept", "Range", "If-Range", "If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since", "User-Agent",
}

// httpRequest makes the request for one hop. Away from the registry's own origin only strangerHeaders travel.
func (r *Request) httpRequest(ctx context.Context, u *url.URL, home bool, authorization secret.String) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), nil)
	if err != nil {
		return nil, errors.New("malformed request") // err would quote the query string
	}
	req.URL = u // byte for byte: a signed URL must not be spelled again
	req.Header = r.header(home)
	req.Header.Set("Accept-Encoding", "identity") // digests are of what is not encoded
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "container-registry-proxy")
	}
	if !authorization.Empty() {
		req.Header.Set("Authorization", authorization.Reveal())
	}
	if r.Body != nil {
		req.Body = io.NopCloser(r.Body)
		req.ContentLength = r.ContentLength
	}
	return req, nil
}

func (r *Request) header(home bool) http.Header {
	header := make(http.Header, len(r.Header)+3)
	if !home {
		for _, name := range strangerHeaders {
			if values := r.Header.Values(name); len(values) > 0 {
				header[name] = values
			}
		}
		return header
	}
	for name, values := range r.Header {
		header[http.CanonicalHeaderKey(name)] = values
	}
	for _, listed := range r.Header.Values("Connection") {
		for name := range strings.SplitSeq(listed, ",") {
			header.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopHeaders {
		header.Del(name)
	}
	return header
}
