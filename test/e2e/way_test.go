package e2e

import (
	"encoding/base64"
	"encoding/json"
	"path/filepath"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// way is how a client and its daemon get to the registries.
type way struct {
	// env is all of the environment that concerns the network.
	env []string
	// mounts are run in the mount namespace of every program, as those of a command.
	mounts []string
	// password is that of user, for clients that log in themselves; empty through the proxy, where nobody does.
	password string
	// logins is a file with the same for every private origin, as "docker login" would write it; empty if there is none.
	logins string
}

// way is through the proxy: it is all a client knows. It can resolve no registry's name and trusts none by itself.
func (p *proxy) way() way {
	url := "http://" + p.address
	return way{
		env: []string{"HTTPS_PROXY=" + url, "HTTP_PROXY=" + url, "NO_PROXY=", "SSL_CERT_FILE=" + p.ca(), "SSL_CERT_DIR=/nonexistent"},
	}
}

// direct is past the proxy: the client resolves the registries' names, trusts their authority and logs in.
func direct(t *testing.T, world *registrytest.World, password string, origins []origin) way {
	t.Helper()
	return way{
		env:      []string{"SSL_CERT_FILE=" + world.CAFile(), "SSL_CERT_DIR=/nonexistent"},
		mounts:   hostsMount(t, world),
		password: password,
		logins:   logins(t, password, origins),
	}
}

// authfile is the flag of podman and skopeo that names the logins.
func (w way) authfile(flag string) []string {
	if w.logins == "" {
		return nil
	}
	return []string{flag, w.logins}
}

// hostsMount gives a program the names of a world.
func hostsMount(t *testing.T, world *registrytest.World) []string {
	t.Helper()
	hosts := writeFile(t, filepath.Join(t.TempDir(), "hosts"), world.HostsFile())
	return []string{"mount --bind " + hosts + " /etc/hosts"}
}

// logins writes a config.json of docker's, which podman and skopeo read too.
func logins(t *testing.T, password string, origins []origin) string {
	t.Helper()
	type login struct {
		Auth string `json:"auth"`
	}
	auths := map[string]login{}
	for _, o := range origins {
		if o.private {
			auths[o.host] = login{base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
		}
	}
	text, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatal(err)
	}
	return writeFile(t, filepath.Join(t.TempDir(), "config.json"), string(text))
}
