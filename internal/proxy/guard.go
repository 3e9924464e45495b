package proxy

import (
	"context"
	"net/http"

	"container-registry-proxy/internal/client"
	"container-registry-proxy/internal/oci"
)

// Guard says who may use the proxy; it is package client.
type Guard interface {
	Admit(r *http.Request) (client.Who, *client.Denial)
	// Unruled says that May is always true: what a request is about need not be found out.
	Unruled() bool
	May(who client.Who, reg oci.Registry, repository string) bool
}

type whoKey struct{}

// withWho returns a context of requests of a client that is admitted.
func withWho(ctx context.Context, who client.Who) context.Context {
	return context.WithValue(ctx, whoKey{}, who)
}

// admitted is the client behind a request, once it is admitted.
func admitted(r *http.Request) client.Who {
	who, _ := r.Context().Value(whoKey{}).(client.Who)
	return who
}

// admit finds out who sends a request that is neither a CONNECT nor for our own pages, or answers it.
func (p *Proxy) admit(w http.ResponseWriter, r *http.Request) (*http.Request, bool) {
	who, denial := p.cfg.Guard().Admit(r)
	if denial == nil {
		return r.WithContext(withWho(r.Context(), who)), true
	}
	challenge(w, denial)
	writeError(w, r, denial.Status, oci.CodeDenied, denial.Text)
	return nil, false
}

// challenge adds how to log in. It is a proxy's challenge in every mode: Authorization belongs to the registry.
func challenge(w http.ResponseWriter, denial *client.Denial) {
	if denial.Status == http.StatusProxyAuthRequired {
		w.Header().Set("Proxy-Authenticate", `Basic realm="`+client.Realm+`"`)
	}
}

// permit reports whether the client may ask a registry for what a request is about, or answers it. The answer is the same
// whatever there is at the registry or here.
func (p *Proxy) permit(w http.ResponseWriter, r *http.Request, reg oci.Registry) bool {
	guard, who := p.cfg.Guard(), admitted(r)
	if guard.Unruled() {
		return true
	}
	may := true
	for _, repository := range repositories(r) {
		may = may && guard.May(who, reg, repository)
	}
	if !may {
		writeError(w, r, http.StatusForbidden, oci.CodeDenied, "this client may not use that repository through the proxy: its operator's rules say which (clients)")
	}
	return may
}

// repositories are those that a request to a registry is about: one, or two where a push takes a blob of another. An
// empty one stands for none, a star for all.
func repositories(r *http.Request) []string {
	p, err := oci.ParsePath(r.URL.EscapedPath())
	switch {
	case err != nil:
		return []string{""} // it leads nowhere
	case p.Kind == oci.KindCatalog:
		return []string{"*"}
	}
	list := []string{p.Repository}
	if from := r.URL.Query()["from"]; p.Kind == oci.KindUpload {
		list = append(list, from...)
	}
	return list
}

// everybody lets all clients do everything.
func everybody() Guard { return client.New(client.Config{}) }
