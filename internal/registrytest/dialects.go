package registrytest

import (
	"maps"
	"slices"
	"time"
)

// Dialects are registries that speak as well-known products do, by name. Each has the public repository "public/app" and
// the private one "private/app", which is the user's whose name and password [Dialect.Login] returns. Where the token
// service has another name, it is one of the same domain, unless the product's own is not.
type Dialect struct {
	Name string
	Config
	// Identity is the user's identity token, where the product has such.
	Identity string
}

// Login is the name and the password that the private repository is open for.
func (d Dialect) Login() (user, password string) {
	user = slices.Sorted(maps.Keys(d.Users))[0]
	return user, d.Users[user]
}

// JSONKey is a password as Google's, with all that breaks a parser.
const JSONKey = `{"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----\nMII:E=\n", "client_email": "a@b.iam"}`

// AllDialects returns them.
func AllDialects() []Dialect {
	of := func(name, user, password string, cfg Config) Dialect {
		cfg.Users = map[string]string{user: password}
		cfg.Private = map[string][]string{"private/app": {user}}
		return Dialect{Name: name, Config: cfg}
	}
	bearer := func(registry, token string, habits Tokens) Config {
		return Config{Name: registry, TokenName: token, Login: Bearer, Tokens: habits}
	}
	acr := of("Azure", "robot", "pw", bearer("acr.test", "acr.test", Tokens{
		Path: "/oauth2/token", AccessToken: true, HideLife: true, Identities: map[string]string{"acr-identity": "robot"},
	}))
	acr.Identity = "acr-identity"
	oauth := of("OAuth2 alone", "robot", "pw", bearer("oauth.test", "oauth.test", Tokens{GetStatus: 405, AccessToken: true}))
	ecr := Config{Name: "ecr.test", Login: Basic, Tokens: Tokens{OutdatedPassword: 403}}
	return []Dialect{
		of("Docker Hub", "robot", "pw", bearer("registry-1.hub.test", "auth.hub.test", Tokens{Service: "registry.hub.test", BothNames: true})),
		of("GHCR", "robot", "pw", bearer("ghcr.test", "ghcr.test", Tokens{PingScope: "repository:user/image:pull"})),
		of("GitLab", "robot", "pw", bearer("reg.gitlab.test", "git.gitlab.test", Tokens{Path: "/jwt/auth", Service: "container_registry", Life: time.Minute, RefuseScope: true})),
		of("Google", "_json_key", JSONKey, bearer("gcr.test", "gcr.test", Tokens{Path: "/v2/token", PostStatus: 404})),
		of("Quay", "acme+robot", "pw", bearer("quay.test", "quay.test", Tokens{Path: "/v2/auth", PostStatus: 405})),
		of("Harbor", "robot$robot", "pw", bearer("harbor.test", "harbor.test", Tokens{Path: "/service/token", Service: "harbor-registry", BasicForLess: true})),
		of("Artifactory", "robot", "pw", bearer("artifactory.test", "artifactory.test", Tokens{Path: "/artifactory/api/docker/x/v2/token", PostStatus: 401, BasicBeside: true})),
		of("NVIDIA", "$oauthtoken", "nvapi-Key_1-2", bearer("nvcr.test", "nvcr.test", Tokens{Path: "/proxy_auth", NoService: true, Second: "authn.nvidia.example.test"})),
		of("ECR", "AWS", "pw", ecr),
		of("ECR in public", "AWS", "pw", bearer("public.ecr.test", "public.ecr.test", Tokens{Path: "/token/", HideLife: true, OutdatedToken: 400})),
		acr,
		oauth,
	}
}
