package registrytest

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"container-registry-proxy/internal/oci"
)

// Tokens are habits of a token service.
type Tokens struct {
	// Realm is what challenges name instead of this service: another host, as a hostile registry would.
	Realm string

	// Path is where the service is; empty means "/token". On the registry's own host it may be below /v2/, as Quay's is.
	Path string

	// Location redirects every request there with 307.
	Location string

	// PingScope is the scope that the challenge of /v2/ names: GHCR's names a repository that nobody wants.
	PingScope string

	// BasicBeside names Basic before Bearer and takes a login as well as a token, as Artifactory does. BasicForLess does
	// so only for a token that is not enough, as Harbor does.
	BasicBeside, BasicForLess bool

	// Service is its name; empty means the registry's. NoService names none, as nvcr.io.
	Service   string
	NoService bool

	// Second is a host with another token service, for logins alone. The challenge to a token that is not good, or not any
	// more, names that one, as nvcr.io's does: who follows it without a login gets no further.
	Second string

	// Life is how long a token is good; 0 means 300 s, as Docker Hub's. HideLife leaves expires_in away, which means 60 s.
	Life     time.Duration
	HideLife bool

	// AccessToken spells the token "access_token"; BothNames sends it under both names.
	AccessToken, BothNames bool

	// PostStatus is answered to POST, which it does not speak: 404, 405, 401 and 400 are seen.
	PostStatus int

	// GetStatus is answered to a GET with a login, by a service that speaks OAuth2 alone.
	GetStatus int

	// Identities are identity tokens and whose they are. They are taken as a refresh token, and as the password of any
	// name.
	Identities map[string]string

	// OutdatedPassword is what the registry itself answers, without a challenge, to a password that SetPassword has
	// replaced: 403 is ECR's. OutdatedToken is the same for a token that is no longer good: 400 is ECR's, in public.
	OutdatedPassword, OutdatedToken int

	// NoAnonymous refuses requests without a login.
	NoAnonymous bool

	// RefuseScope answers 403 to a request for something that the caller may not do, where others give a token for less.
	RefuseScope bool
}

type grant struct {
	user    string
	actions map[string][]string // by repository
	expires time.Time
}

func (g grant) allows(repo, action string) bool { return slices.Contains(g.actions[repo], action) }

// tokens are those that were given out.
type tokens struct {
	mu      sync.Mutex
	grants  map[string]grant
	refresh map[string]string // refresh token → user

	passwords map[string]string  // of users, where they have been changed
	outdated  map[[2]string]bool // user and password
}

func newTokens() *tokens {
	return &tokens{grants: map[string]grant{}, refresh: map[string]string{}, passwords: map[string]string{}, outdated: map[[2]string]bool{}}
}

// find is the grant of a request's token.
func (t *tokens) find(req *http.Request) (grant, bool) {
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	t.mu.Lock()
	defer t.mu.Unlock()
	g, known := t.grants[token]
	return g, ok && known && time.Now().Before(g.expires)
}

// RevokeTokens makes every token given out so far invalid.
func (r *Registry) RevokeTokens() {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	clear(r.tokens.grants)
}

// SetPassword changes a user's password. Tokens given out remain good.
func (r *Registry) SetPassword(user, password string) {
	before, _ := r.password(user)
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	r.tokens.outdated[[2]string{user, before}] = true
	delete(r.tokens.outdated, [2]string{user, password})
	r.tokens.passwords[user] = password
}

// password is a user's, as it is now.
func (r *Registry) password(user string) (password string, known bool) {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	if password, known = r.tokens.passwords[user]; !known {
		password, known = r.cfg.Users[user]
	}
	return password, known
}

func (r *Registry) outdated(user, password string) bool {
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	return r.tokens.outdated[[2]string{user, password}]
}

func (r *Registry) tokenPath() string {
	if r.cfg.Tokens.Path != "" {
		return r.cfg.Tokens.Path
	}
	return "/token"
}

func (r *Registry) realm() string {
	if r.cfg.Tokens.Realm != "" {
		return r.cfg.Tokens.Realm
	}
	return r.scheme() + "://" + r.auth + r.tokenPath()
}

func (r *Registry) service() string {
	if r.cfg.Tokens.NoService {
		return ""
	}
	if r.cfg.Tokens.Service != "" {
		return r.cfg.Tokens.Service
	}
	return r.cfg.Name
}

// serveTokens is the token service: GET as in the distribution project's token specification, POST as in its OAuth2 one.
func (r *Registry) serveTokens(w http.ResponseWriter, req *http.Request) {
	user, ok := r.tokenUser(req)
	switch habits := r.cfg.Tokens; {
	case habits.Location != "":
		http.Redirect(w, req, habits.Location, http.StatusTemporaryRedirect)
		return
	case req.Method == http.MethodPost && habits.PostStatus != 0:
		fail(w, habits.PostStatus, oci.CodeUnsupported, "this token service wants GET")
		return
	case req.Method == http.MethodGet && habits.GetStatus != 0 && req.Header.Get("Authorization") != "":
		fail(w, habits.GetStatus, oci.CodeUnsupported, "this token service wants POST")
		return
	case req.URL.Path != r.tokenPath(), req.ParseForm() != nil:
		http.NotFound(w, req)
		return
	}
	if req.Method == http.MethodPost {
		user, ok = r.formUser(req)
	}
	letIn(w, user)
	g := grant{user: user, actions: r.allowed(user, req.Form["scope"])}
	switch {
	case !ok, user == "" && r.cfg.Tokens.NoAnonymous:
		fail(w, 401, oci.CodeUnauthorized, "incorrect username or password")
	case req.Form.Get("service") != r.service():
		fail(w, 400, oci.CodeUnknown, "unknown service")
	case r.cfg.Tokens.RefuseScope && len(g.actions) == 0 && len(req.Form["scope"]) > 0:
		fail(w, 403, oci.CodeDenied, "requested access to the resource is denied")
	default:
		offline := req.Form.Get("offline_token") == "true" || req.Form.Get("access_type") == "offline"
		r.giveToken(w, g, offline && user != "")
	}
}

// serveSecond is the second token service.
func (r *Registry) serveSecond(w http.ResponseWriter, req *http.Request) {
	user, ok := r.user(req)
	letIn(w, user)
	if !ok || user == "" {
		fail(w, 401, oci.CodeUnauthorized, "authentication required")
		return
	}
	r.giveToken(w, grant{user: user, actions: r.allowed(user, req.URL.Query()["scope"])}, false)
}

func (r *Registry) giveToken(w http.ResponseWriter, g grant, offline bool) {
	habits, life := r.cfg.Tokens, r.cfg.Tokens.Life
	if life == 0 {
		life = 300 * time.Second
	}
	if habits.HideLife {
		life = 60 * time.Second
	}
	g.expires = time.Now().Add(life)
	token, answer := rand.Text(), map[string]any{"issued_at": time.Now().UTC().Format(time.RFC3339)}
	if !habits.AccessToken || habits.BothNames {
		answer["token"] = token
	}
	if habits.AccessToken || habits.BothNames {
		answer["access_token"] = token
	}
	if !habits.HideLife {
		answer["expires_in"] = int(max(life, time.Second) / time.Second)
	}
	r.tokens.mu.Lock()
	r.tokens.grants[token] = g
	if offline {
		refresh := rand.Text()
		r.tokens.refresh[refresh] = g.user
		answer["refresh_token"] = refresh
	}
	r.tokens.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(mustJSON(answer))
}

// tokenUser is who a GET is of: somebody by name, or by an identity token.
func (r *Registry) tokenUser(req *http.Request) (string, bool) {
	if _, password, has := req.BasicAuth(); has {
		if user, known := r.cfg.Tokens.Identities[password]; known {
			return user, true
		}
	}
	return r.user(req)
}

// formUser is who an OAuth2 request is of.
func (r *Registry) formUser(req *http.Request) (string, bool) {
	switch req.Form.Get("grant_type") {
	case "password":
		want, known := r.password(req.Form.Get("username"))
		return req.Form.Get("username"), known && want == req.Form.Get("password")
	case "refresh_token":
		r.tokens.mu.Lock()
		defer r.tokens.mu.Unlock()
		user, known := r.tokens.refresh[req.Form.Get("refresh_token")]
		if !known {
			user, known = r.cfg.Tokens.Identities[req.Form.Get("refresh_token")]
		}
		return user, known
	}
	return "", false
}

// allowed is the part of the scopes that a user may have: "repository:library/app:pull,push". One parameter may
// hold several, between spaces.
func (r *Registry) allowed(user string, scopes []string) map[string][]string {
	out := map[string][]string{}
	for _, scope := range strings.Fields(strings.Join(scopes, " ")) {
		kind, rest, _ := strings.Cut(scope, ":")
		at := strings.LastIndexByte(rest, ':')
		if kind != "repository" || at < 0 {
			continue
		}
		repo := rest[:at]
		_, private := r.cfg.Private[repo]
		for action := range strings.SplitSeq(rest[at+1:], ",") {
			if user != "" && r.may(user, repo) || action == "pull" && !private {
				out[repo] = append(out[repo], action)
			}
		}
	}
	return out
}
