package upstream

import (
	"net/http"
	"net/url"
	"strings"

	"container-registry-proxy/internal/oci"
)

// maxRedirects is what browsers and container clients allow, roughly; registries need up to four.
const maxRedirects = 10

// maxLocation bounds a Location: signed ones reach a few kilobytes.
const maxLocation = 64 << 10

// isRedirect reports whether resp names another place to ask with the same method.
func isRedirect(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return resp.Header.Get("Location") != ""
	}
	return false
}

// expired reports whether resp is how a store of blobs refuses a signature that is not valid any more: 403, and 400 by
// S3 and Google at times.
func expired(resp *http.Response) bool {
	return resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusBadRequest
}

// redirectTarget resolves the Location that was answered to a request to from (RFC 3986, section 5). An absolute one is
// kept byte for byte: it may be signed. Its errors quote nothing of it.
func redirectTarget(from *url.URL, location string) (*url.URL, error) {
	if len(location) > maxLocation {
		return nil, safeError("redirects to an overlong address")
	}
	to, err := url.Parse(location)
	if err != nil {
		return nil, safeError("redirects to a malformed address")
	}
	if !to.IsAbs() {
		to = from.ResolveReference(to)
	}
	switch {
	case to.Scheme != "https" && to.Scheme != "http", to.Opaque != "":
		return nil, safeError("redirects to something other than http and https")
	case from.Scheme == "https" && to.Scheme == "http":
		return nil, safeError("redirects from https to http")
	}
	if _, err := oci.ParseRegistry(to.Host); err != nil {
		return nil, safeError("redirects to a malformed host")
	}
	to.User, to.Fragment, to.RawFragment = nil, "", ""
	return to, nil
}

// origin is a URL's scheme, host and port in one spelling.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")) + ":" + port
}

// registryOf names the registry that a URL belongs to, for a challenge that a redirect's target makes.
func registryOf(u *url.URL) (oci.Registry, error) {
	if u.Scheme == "http" {
		return oci.ParsePlainRegistry(u.Host)
	}
	return oci.ParseRegistry(u.Host)
}
