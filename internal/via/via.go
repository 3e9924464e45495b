// Package via finds requests that come back to the proxy which sent them: by the Via header, as RFC 9110, section 7.6.3 has
// it. Its invariant: a request that a proxy makes because of another names all the proxies which that one has come through,
// and itself last; so a loop of any length ends where it began. It knows no addresses.
package via

import (
	"context"
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
)

// Name is what a proxy calls itself in Via. The zero Name is nobody's: nothing is marked with it.
type Name string

// New returns a name that no other proxy has, and the same one not after a restart.
func New() Name { return Name("container-registry-proxy-" + strings.ToLower(rand.Text()[:12])) }

// In reports whether a request has come through the proxy of this name.
func (n Name) In(header http.Header) bool {
	for _, line := range header["Via"] {
		for entry := range strings.SplitSeq(line, ",") {
			// "1.1 name", or with a comment behind it
			if fields := strings.Fields(entry); n != "" && len(fields) > 1 && fields[1] == string(n) {
				return true
			}
		}
	}
	return false
}

// Mark has a request that is made because of the one in ctx name what that one has come through, and this proxy.
func (n Name) Mark(ctx context.Context, header http.Header) {
	if n != "" {
		header["Via"] = append(slices.Clone(Of(ctx)), "1.1 "+string(n))
	}
}

type key struct{}

// NewContext keeps what a request has come through for those that are made because of it.
func NewContext(ctx context.Context, through []string) context.Context {
	if len(through) == 0 {
		return ctx
	}
	return context.WithValue(ctx, key{}, through)
}

// Of is what the request of ctx has come through: lines of Via.
func Of(ctx context.Context) []string {
	through, _ := ctx.Value(key{}).([]string)
	return through
}
