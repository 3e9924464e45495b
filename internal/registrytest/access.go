package registrytest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"container-registry-proxy/internal/oci"
)

// permit lets a request in, or answers it with a challenge.
func (r *Registry) permit(w http.ResponseWriter, req *http.Request, p oci.Path) bool {
	action := "pull"
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		action = "push"
	}
	switch r.cfg.Login {
	case Basic:
		return r.permitBasic(w, req, p)
	case Bearer:
		return r.permitBearer(w, req, p, action)
	}
	return true
}

func (r *Registry) permitBasic(w http.ResponseWriter, req *http.Request, p oci.Path) bool {
	if _, private := r.cfg.Private[p.Repository]; r.cfg.Private != nil && !private && p.Repository != "" {
		return true
	}
	if name, password, _ := req.BasicAuth(); r.cfg.Tokens.OutdatedPassword != 0 && r.outdated(name, password) {
		fail(w, r.cfg.Tokens.OutdatedPassword, oci.CodeDenied, "Your authorization token has expired. Reauthenticate and try again.")
		return false
	}
	user, ok := r.user(req)
	letIn(w, user)
	if ok && user != "" && r.may(user, p.Repository) {
		return true
	}
	if ok && user != "" {
		fail(w, 403, oci.CodeDenied, "not your repository")
		return false
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", r.cfg.Name))
	fail(w, 401, oci.CodeUnauthorized, "authentication required")
	return false
}

func (r *Registry) permitBearer(w http.ResponseWriter, req *http.Request, p oci.Path, action string) bool {
	habits := r.cfg.Tokens
	grant, known := r.tokens.find(req)
	if user, ok := r.user(req); (habits.BasicBeside || habits.BasicForLess) && ok && user != "" && r.may(user, p.Repository) {
		letIn(w, user)
		return true
	}
	bearer := strings.HasPrefix(req.Header.Get("Authorization"), "Bearer ")
	if bearer && !known && habits.OutdatedToken != 0 {
		fail(w, habits.OutdatedToken, oci.CodeDenied, "Your authorization token has expired. Reauthenticate and try again.")
		return false
	}
	if known {
		letIn(w, grant.user)
		if p.Repository == "" || grant.allows(p.Repository, action) {
			return true
		}
	}
	challenge := fmt.Sprintf("Bearer realm=%q", r.realm())
	switch {
	case habits.Second != "" && bearer && !known:
		challenge = fmt.Sprintf("Bearer realm=%q,service=\"registry\"", r.scheme()+"://"+r.second+"/token")
	case !habits.NoService:
		challenge += fmt.Sprintf(",service=%q", r.service())
	}
	if p.Repository != "" {
		scope := "pull"
		if action == "push" {
			scope = "pull,push"
		}
		challenge += fmt.Sprintf(`,scope="repository:%s:%s"`, p.Repository, scope)
	}
	if p.Repository == "" && habits.PingScope != "" {
		challenge += fmt.Sprintf(`,scope=%q`, habits.PingScope)
	}
	if habits.BasicBeside {
		w.Header().Add("WWW-Authenticate", fmt.Sprintf("Basic realm=%q", r.cfg.Name))
	}
	switch {
	case known && habits.BasicForLess:
		challenge = fmt.Sprintf("Basic realm=%q", r.cfg.Name)
	case known:
		challenge += `,error="insufficient_scope"`
	case req.Header.Get("Authorization") != "":
		challenge += `,error="invalid_token"`
	}
	w.Header().Add("WWW-Authenticate", challenge)
	fail(w, 401, oci.CodeUnauthorized, "authentication required")
	return false
}

// user is who a Basic Authorization is of: empty without one, not ok with a wrong one.
func (r *Registry) user(req *http.Request) (name string, ok bool) {
	name, password, has := req.BasicAuth()
	if !has {
		return "", req.Header.Get("Authorization") == ""
	}
	want, known := r.password(name)
	if !known || want != password {
		return "", false
	}
	return name, true
}

// may reports whether a user may use a private repository, or any user one that is not.
func (r *Registry) may(user, repo string) bool {
	users, private := r.cfg.Private[repo]
	return !private || slices.Contains(users, user)
}
