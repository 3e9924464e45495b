package app_test

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

var (
	challengeRealm   = regexp.MustCompile(`realm="([^"]*)"`)
	challengeService = regexp.MustCompile(`service="([^"]*)"`)
	challengeScope   = regexp.MustCompile(`scope="([^"]*)"`)
	tokenIn          = regexp.MustCompile(`"(?:access_)?token":"([^"]*)"`)
)

// ownLogin answers a registry's challenge as a client of the product does: with the login itself, or with a token that the
// client gets at the token service.
func ownLogin(t *testing.T, d registrytest.Dialect, world *http.Client, challenge string) string {
	t.Helper()
	user, password := d.Login()
	if strings.HasPrefix(challenge, "Basic ") {
		return login(user, password)
	}
	find := func(re *regexp.Regexp) string {
		if found := re.FindStringSubmatch(challenge); found != nil {
			return found[1]
		}
		return ""
	}
	query := url.Values{"service": {find(challengeService)}, "scope": {find(challengeScope)}}
	req := request(t, "GET", find(challengeRealm)+"?"+query.Encode(), nil, "Authorization", login(user, password))
	if d.Tokens.GetStatus != 0 { // it speaks OAuth2 alone
		query.Set("grant_type", "password")
		query.Set("username", user)
		query.Set("password", password)
		query.Set("client_id", "test")
		a, err := world.PostForm(find(challengeRealm), query)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + tokenIn.FindStringSubmatch(string(body))[1]
	}
	a, err := do(world, req)
	if err != nil || a.status != 200 {
		t.Fatalf("token: %d %s %v", a.status, a.body, err)
	}
	return "Bearer " + tokenIn.FindStringSubmatch(string(a.body))[1]
}

// One image through each product's dialect: by a client without a login, with the operator's, and with its own.
func TestDialects(t *testing.T) {
	t.Parallel()
	for _, d := range registrytest.AllDialects() {
		t.Run(d.Name, func(t *testing.T) {
			t.Parallel()
			reg := registrytest.New(t, d.Config)
			open := reg.PushImage("public/app", "1", layers(1, 1, 5000)...)
			hers := reg.PushImage("private/app", "1", layers(2, 1, 5000)...)
			base := []string{"REGISTRIES=" + reg.Host() + " " + reg.TokenHost(), "AUTH_REGISTRY_DELIMITER=|", "AUTH_REGISTRIES_DELIMITER=;;;"}
			private := reg.URL() + "/v2/private/app"
			layer := "/blobs/" + string(hers.Layers[0].Digest)

			without := start(t, reg.World, base...)
			if d.Config.Login == registrytest.Bearer {
				without.ask("GET", reg.URL()+"/v2/public/app/blobs/"+string(open.Layers[0].Digest)).expect(t, 200)
				without.ask("GET", reg.URL()+"/v2/public/app/manifests/1").expect(t, 200)
			}
			refused := without.ask("GET", private+"/manifests/1")
			if refused.status < 400 {
				t.Errorf("a client without a login gets %d", refused.status)
			}
			challenge := ""
			for _, line := range refused.header.Values("Www-Authenticate") {
				if challenge == "" || strings.HasPrefix(line, "Bearer ") { // a token before a password
					challenge = line
				}
			}
			if challenge != "" {
				own := ownLogin(t, d, reg.World.Client(), challenge)
				for range 2 {
					without.ask("GET", private+"/manifests/1", "Authorization", own).expect(t, 200)
					without.ask("GET", private+layer, "Authorization", own).expect(t, 200)
				}
				if sent := reg.BlobBytes(hers.Layers[0].Digest); sent != hers.Layers[0].Size {
					t.Errorf("two pulls of %d bytes cost %d", hers.Layers[0].Size, sent)
				}
			} else {
				t.Errorf("a client without a login is not told how to log in: %d %v", refused.status, refused.header)
			}

			user, password := d.Login()
			central := start(t, reg.World, append(base, "AUTH_REGISTRIES="+reg.Host()+"|"+user+"|"+password)...)
			for range 2 {
				central.ask("GET", private+"/manifests/1").expect(t, 200)
				central.ask("GET", private+layer).expect(t, 200)
			}
		})
	}
}

// NVIDIA's registry has two token services: its own, which is for everybody, and one of another domain, for logins alone,
// which it names once a token is not good any more. A token that ends before its time must not end the pulls, neither of
// those who have no login nor of the operator's, and costs one refusal.
func TestNVIDIA(t *testing.T) {
	t.Parallel()
	port := usualPort(t)
	reg := registrytest.New(t, registrytest.Config{
		Name: "nvcr.io", Port: port, TokenName: "nvcr.io", TokenPort: port, Login: registrytest.Bearer,
		Users: map[string]string{"$oauthtoken": "nvapi-Key_1-2"}, Private: map[string][]string{"org/app": {"$oauthtoken"}},
		Tokens: registrytest.Tokens{Path: "/proxy_auth", NoService: true, Second: "authn.nvidia.com"},
	})
	anonymous := start(t, reg.World, "REGISTRIES=nvcr.io")
	central := start(t, reg.World, "REGISTRIES=nvcr.io authn.nvidia.com", "AUTH_REGISTRIES=nvcr.io:$oauthtoken:nvapi-Key_1-2")
	for n := range 4 {
		tag := fmt.Sprint(n)
		reg.PushImage("nvidia/cuda", tag, layers(uint64(10+n), 1, 5000)...)
		reg.PushImage("org/app", tag, layers(uint64(20+n), 1, 5000)...)
		reg.Forget()
		anonymous.ask("GET", "https://nvcr.io/v2/nvidia/cuda/manifests/"+tag).expect(t, 200)
		central.ask("GET", "https://nvcr.io/v2/org/app/manifests/"+tag).expect(t, 200)
		refused := 0
		for _, r := range reg.To("nvcr.io") {
			if r.Status == 401 {
				refused++
			}
		}
		if refused > 2 {
			t.Errorf("pull %d: %d refusals, want one for either", n+1, refused)
		}
		if n == 1 {
			reg.RevokeTokens()
		}
	}
	if a := anonymous.ask("GET", "https://nvcr.io/v2/org/app/manifests/1"); a.status < 400 {
		t.Errorf("a private image without a login: %d", a.status)
	}
	for _, r := range reg.Requests() {
		if strings.HasPrefix(r.Authorization(), "Basic ") && !strings.HasPrefix(r.Path, "/proxy_auth?") && r.Host != "authn.nvidia.com" {
			t.Errorf("%s was shown the key by %s %s", r.Host, r.Method, r.Path)
		}
	}
}
