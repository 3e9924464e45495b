package app_test

import (
	"encoding/base64"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// tokenFor asks a token service, through the proxy, for a token to pull repositories; without a login, as a client does.
func tokenFor(t *testing.T, client *http.Client, reg *registrytest.Registry, repositories ...string) (answer, string) {
	t.Helper()
	address := "https://" + reg.TokenHost() + "/token?service=registry.test"
	for _, repository := range repositories {
		address += "&scope=repository:" + repository + ":pull"
	}
	a, err := do(client, request(t, "GET", address, nil))
	if err != nil {
		t.Fatal(err)
	}
	if found := tokenIn.FindSubmatch(a.body); found != nil {
		return a, "Bearer " + string(found[1])
	}
	return a, ""
}

// A token that is asked for with the operator's login is for what the client may pull by its rule, and for nothing else:
// with it, the client could go past the proxy.
func TestTokensKeepToTheClientsRule(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{
		Login: registrytest.Bearer, Users: map[string]string{"op": "secret"}, Private: map[string][]string{"team/app": {"op"}, "shared/app": {"op"}},
	})
	for i, repository := range []string{"team/app", "shared/app"} {
		reg.PushImage(repository, "1", layers(uint64(i), 1, 1000)...)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	write(t, map[string]string{file: "clients:\n  - users: [ci]\n    repositories: [team/*, shared/*]\n  - users: [dev]\n    repositories: [shared/*]\n"})
	h := start(t, reg.World, "REGISTRIES="+reg.Host()+" "+reg.TokenHost(), "CONFIG_FILE="+file, "CLIENT_USERS_FILE="+usersFile(t, "ci", "c", "dev", "d", "none", "n"),
		"ALLOW_OWN_AUTH=true", "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES="+reg.Host()+"|op|secret")
	if a, err := do(h.as("ci", "c"), request(t, "GET", reg.URL()+"/v2/shared/app/manifests/1", nil)); err != nil || a.status != 200 {
		t.Fatalf("as ci: %d %s %v", a.status, a.body, err)
	}
	for _, tt := range []struct {
		user string
		asks []string
		want map[string]bool // what the token opens at the registry itself
	}{
		{"ci", []string{"team/app"}, map[string]bool{"team/app": true, "shared/app": false}},
		{"ci", []string{"team/app", "shared/app"}, map[string]bool{"team/app": true, "shared/app": true}},
		{"dev", []string{"team/app"}, map[string]bool{"team/app": false, "shared/app": false}},
		{"dev", []string{"shared/app"}, map[string]bool{"team/app": false, "shared/app": true}},
		{"dev", []string{"team/app", "shared/app"}, map[string]bool{"team/app": false, "shared/app": true}},
		{"none", []string{"shared/app"}, map[string]bool{"team/app": false, "shared/app": false}},
	} {
		_, token := tokenFor(t, h.as(tt.user, tt.user[:1]), reg, tt.asks...)
		for repository, want := range tt.want {
			a, err := do(reg.World.Client(), request(t, "GET", reg.URL()+"/v2/"+repository+"/manifests/1", nil, "Authorization", token))
			if err != nil {
				t.Fatal(err)
			}
			if got := a.status == 200; got != want {
				t.Errorf("%s asks for %q: the token opens %s = %v, want %v", tt.user, tt.asks, repository, got, want)
			}
		}
	}
	for _, r := range reg.Requests() { // nor may anybody but the proxy have been told the login
		if strings.Contains(r.Authorization(), base64.StdEncoding.EncodeToString([]byte("op:secret"))) && r.Host != "auth.registry.test" {
			t.Errorf("%s was told the login", r.Host)
		}
	}
}

// A client's request to a token service that cannot be reached shows that its registry is of no use to clients now: they
// are not sent to the token service again, and get what is open; what is not, is answered with when to come back.
func TestARelayedTokenRequestShowsAnOutage(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{
		Login: registrytest.Bearer, Users: map[string]string{"me": "pw"}, Private: map[string][]string{"mine/app": {"me"}},
	})
	open := reg.PushImage("open/app", "1", layers(1, 1, 1000)...)
	mine := reg.PushImage("mine/app", "1", layers(2, 1, 1000)...)
	h := start(t, reg.World, "REGISTRIES="+reg.Host()+" "+reg.TokenHost())
	h.ask("GET", reg.URL()+"/v2/open/app/manifests/1").expect(t, 200)
	h.ask("GET", reg.URL()+"/v2/open/app/blobs/"+string(open.Layers[0].Digest)).expect(t, 200)
	a := h.ask("GET", "https://"+reg.TokenHost()+"/token?service=registry.test&scope=repository:mine/app:pull", "Authorization", login("me", "pw")).expect(t, 200, "token")
	own := "Bearer " + string(tokenIn.FindSubmatch(a.body)[1])
	h.ask("GET", reg.URL()+"/v2/mine/app/manifests/1", "Authorization", own).expect(t, 200)
	h.ask("GET", reg.URL()+"/v2/").expect(t, 401)

	reg.Set(func(f *registrytest.Faults) { f.Token.Down = true })
	if a, _ := tokenFor(t, h.http, reg, "open/app"); a.status < 500 {
		t.Errorf("the token service answers %d", a.status)
	}
	if a := h.ask("GET", reg.URL()+"/v2/").expect(t, 200); a.header.Get("Www-Authenticate") != "" {
		t.Errorf("the ping sends clients to the token service: %v", a.header)
	}
	h.ask("GET", reg.URL()+"/v2/open/app/manifests/1").expect(t, 200)
	h.ask("GET", reg.URL()+"/v2/open/app/blobs/"+string(open.Layers[0].Digest)).expect(t, 200)
	for _, path := range []string{"manifests/1", "blobs/" + string(mine.Layers[0].Digest)} {
		a := h.ask("GET", reg.URL()+"/v2/mine/app/"+path).expect(t, 503, "UNAVAILABLE")
		if a.header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", path)
		}
	}

	reg.Set(func(f *registrytest.Faults) { f.Token.Down = false })
	if a, token := tokenFor(t, h.http, reg, "open/app"); a.status != 200 || token == "" {
		t.Errorf("the token service answers %d again", a.status)
	}
	h.ask("GET", reg.URL()+"/v2/mine/app/manifests/1", "Authorization", own).expect(t, 200) // the registry answers too
	h.ask("GET", reg.URL()+"/v2/").expect(t, 401)
}
