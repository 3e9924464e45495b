package doctor

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// daemons are those that pull images, by the name of their process. Podman and skopeo have none: they take what the
// shell has.
var daemons = []string{"dockerd", "containerd", "crio", "buildkitd"}

// scripts are the names by which the proxy serves what sets a daemon up.
var scripts = map[string]string{"dockerd": "docker", "containerd": "containerd", "crio": "crio", "buildkitd": "buildkit"}

// proxyTime is the proxy's clock, as of its answer.
func (e *examination) proxyTime() time.Time { return e.date }

// daemons looks at each daemon that runs here: what it was told when it was started is what counts, not what a file
// would tell it next time.
func (e *examination) daemons() []Finding {
	var found []Finding
	for _, name := range daemons {
		environ, running := e.environOf(name)
		if !running {
			continue
		}
		found = append(found, e.told(name, environ), e.untold(name, environ))
	}
	if len(found) == 0 {
		found = append(found, Finding{"daemons", Unknown, "none of " + strings.Join(daemons, ", ") + " runs here, as far as this user may see"})
	}
	return found
}

// pullsHere reports whether this machine has anything that pulls images.
func (e *examination) pullsHere() bool {
	for _, name := range []string{"usr/bin/podman", "usr/local/bin/podman", "usr/bin/skopeo"} {
		if _, err := os.Stat(filepath.Join(e.cfg.Root, name)); err == nil {
			return true
		}
	}
	for _, name := range daemons {
		if _, running := e.environOf(name); running {
			return true
		}
	}
	return false
}

// told finds out whether a daemon uses the proxy: by HTTPS_PROXY, or as a mirror.
func (e *examination) told(name string, environ map[string]string) Finding {
	f := e.uses(name, environ)
	f.Check = name
	return f
}

func (e *examination) uses(name string, environ map[string]string) Finding {
	set := value(environ, "HTTPS_PROXY", "https_proxy")
	if u, err := url.Parse(set); set != "" && (err != nil || u.Host != e.cfg.Proxy) {
		return finding(Bad, "HTTPS_PROXY is %s, not http://%s/: set it in a drop-in of its unit, and restart it", shown(u), e.cfg.Proxy)
	}
	if set != "" {
		return finding(Good, "HTTPS_PROXY is the proxy")
	}
	if files := e.mirrorFilesOf(name); len(files) > 0 {
		return finding(Good, "%s names the proxy as a mirror", files[0])
	}
	if name == "containerd" && e.ofDockerd() {
		return finding(Warning, "was started without HTTPS_PROXY, and knows no mirror: dockerd pulls by itself and needs neither; for others curl -fsS http://%s/setup/containerd | sudo sh", e.cfg.Proxy)
	}
	return finding(Bad, "was started without HTTPS_PROXY, and knows no mirror: curl -fsS http://%s/setup/%s | sudo sh", e.cfg.Proxy, scripts[name])
}

// ofDockerd reports whether containerd is likely to be dockerd's, which has it run containers and pulls them by itself.
func (e *examination) ofDockerd() bool {
	_, dockerd := e.environOf("dockerd")
	_, kubelet := e.environOf("kubelet")
	return dockerd && !kubelet
}

// untold finds out whether NO_PROXY leads a daemon past the proxy.
func (e *examination) untold(name string, environ map[string]string) Finding {
	f := e.excepts(environ)
	f.Check = "no_proxy"
	f.Text = name + ": " + f.Text
	return f
}

func (e *examination) excepts(environ map[string]string) Finding {
	if value(environ, "HTTPS_PROXY", "https_proxy") == "" {
		return finding(Unknown, "NO_PROXY means nothing without HTTPS_PROXY")
	}
	host := e.cfg.Image.Registry.Authority()
	for _, entry := range strings.Split(value(environ, "NO_PROXY", "no_proxy"), ",") {
		entry = strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(entry), "*"), ".")
		if entry == "" && !strings.Contains(value(environ, "NO_PROXY", "no_proxy"), "*") {
			continue
		}
		if entry == "" || host == entry || strings.HasSuffix(host, "."+entry) {
			return finding(Bad, "NO_PROXY leads past the proxy for %s: take that entry out", host)
		}
	}
	return finding(Good, "NO_PROXY leads no registry past the proxy")
}

// environOf is the environment that a running daemon was started with. Only root may read that of others' processes.
func (e *examination) environOf(name string) (map[string]string, bool) {
	processes, _ := filepath.Glob(filepath.Join(e.cfg.Root, "proc", "[0-9]*"))
	for _, p := range processes {
		comm, err := os.ReadFile(filepath.Join(p, "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != name {
			continue
		}
		content, err := os.ReadFile(filepath.Join(p, "environ"))
		if err != nil {
			continue
		}
		environ := map[string]string{}
		for _, entry := range strings.Split(string(content), "\x00") {
			if key, v, ok := strings.Cut(entry, "="); ok {
				environ[key] = v
			}
		}
		return environ, true
	}
	return nil, false
}

// mirrorFiles are the files of clients that name the proxy as a mirror.
func (e *examination) mirrorFiles() []string {
	var files []string
	for _, name := range append([]string{"podman"}, daemons...) {
		files = append(files, e.mirrorFilesOf(name)...)
	}
	return files
}

// mirrorPatterns are where clients read about mirrors.
var mirrorPatterns = map[string][]string{
	"dockerd":    {"etc/docker/daemon.json"},
	"containerd": {"etc/containerd/certs.d/*/hosts.toml", "etc/rancher/k3s/registries.yaml"},
	"crio":       {"etc/containers/registries.conf", "etc/containers/registries.conf.d/*.conf"},
	"podman":     {"etc/containers/registries.conf", "etc/containers/registries.conf.d/*.conf"},
	"buildkitd":  {"etc/buildkit/buildkitd.toml"},
}

func (e *examination) mirrorFilesOf(client string) []string {
	var files []string
	for _, pattern := range mirrorPatterns[client] {
		names, _ := filepath.Glob(filepath.Join(e.cfg.Root, pattern))
		for _, name := range names {
			content, err := os.ReadFile(name)
			if err == nil && strings.Contains(string(content), e.cfg.Proxy) {
				files = append(files, "/"+strings.TrimPrefix(strings.TrimPrefix(name, e.cfg.Root), "/"))
			}
		}
	}
	return files
}

// value is the first of the variables that is set.
func value(environ map[string]string, names ...string) string {
	for _, name := range names {
		if v := environ[name]; v != "" {
			return v
		}
	}
	return ""
}

// shown is a URL without the login that may be in it.
func shown(u *url.URL) string {
	if u == nil {
		return "no URL"
	}
	return u.Redacted()
}
