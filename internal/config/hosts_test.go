package config

import (
	"slices"
	"strings"
	"testing"

	"container-registry-proxy/internal/oci"
)

func hostSet(t testing.TB, list string) HostSet {
	t.Helper()
	return mustLoad(t, machine{}, "REGISTRIES="+list).Registries
}

func TestWhichHostsAreIntercepted(t *testing.T) {
	t.Parallel()
	const http = "http://" // marks a plain HTTP request in the table
	for _, tt := range []struct {
		list, authority string
		want            bool
	}{
		{"quay.io", "quay.io:443", true},
		{"quay.io", "quay.io", true},
		{"quay.io", "QUAY.io.:443", true},
		{"Quay.IO", "quay.io:443", true},
		{"quay.io", "quay.io:8443", false},
		{"quay.io", "quay.io:80", false},
		{"quay.io", "xquay.io:443", false},
		{"quay.io", "quay.io.evil.test:443", false},
		{"quay.io", "cdn.quay.io:443", false},
		{"quay.io", http + "quay.io", true},
		{"quay.io", http + "quay.io:80", true},
		{"quay.io", http + "quay.io:443", false},
		{"quay.io:443", "quay.io", true},
		{"quay.io:443", http + "quay.io", false},
		{"reg.test:5000", "reg.test:5000", true},
		{"reg.test:5000", "reg.test:443", false},
		{"reg.test:5000", http + "reg.test:5000", true},
		{"reg.test:5000", http + "reg.test", false},
		{"reg.test reg.test:5000", "reg.test:443", true},
		{"reg.test reg.test:5000", "reg.test:5000", true},
		{"registry", "registry:443", true},
		{"10.1.2.3:5000", "10.1.2.3:5000", true},
		{"[::1]:5000", "[::1]:5000", true},
		{"[::1]", "[::1]:443", true},

		{"*.example.com", "reg.example.com:443", true},
		{"*.example.com", "a.b.example.com:443", true},
		{"*.example.com", "REG.example.com.:443", true},
		{"*.example.com", "example.com:443", false},
		{"*.example.com", "badexample.com:443", false},
		{"*.example.com", "reg.example.com.evil.test:443", false},
		{"*.example.com", "reg.example.com:5000", false},
		{"*.example.com", http + "reg.example.com", true},
		{"*.example.com:5000", "reg.example.com:5000", true},
		{"*.example.com:5000", "reg.example.com:443", false},
		{".example.com", "example.com:443", true},
		{".example.com", "reg.example.com:443", true},
		{".example.com", "badexample.com:443", false},
		{"registry.*", "registry.test:443", true},
		{"registry.*", "registry.example.co.uk:443", true},
		{"registry.*", "registry:443", false},
		{"registry.*", "my.registry.test:443", false},

		{"", "registry-1.docker.io:443", true},
		{"", "auth.docker.io:443", true},
		{"", "docker.io:443", true},
		{"", "index.docker.io:443", true},
		{"", "hub.docker.com:443", false},
		{"quay.io", "registry-1.docker.io:443", true},

		{"quay.io", "", false},
		{"quay.io", ":443", false},
		{"quay.io", "quay.io:", false},
		{"quay.io", "quay.io:0443", false},
		{"quay.io", "quay.io@evil.test:443", false},
		{"quay.io", "evil.test/quay.io", false},
		{"*.example.com", "a b.example.com:443", false},
		{"*.example.com", ".example.com:443", false},
	} {
		s := hostSet(t, tt.list)
		got, _ := strings.CutPrefix(tt.authority, http)
		match, intercept := s.Match, s.Intercept
		if got != tt.authority {
			match, intercept = s.MatchPlain, s.InterceptPlain
		}
		if match(got) != tt.want {
			t.Errorf("REGISTRIES=%q: %q intercepted: %v, want %v", tt.list, tt.authority, !tt.want, tt.want)
		}
		if _, ok := intercept(got); ok != tt.want {
			t.Errorf("REGISTRIES=%q: %q has a registry: %v, want %v", tt.list, tt.authority, ok, tt.want)
		}
	}
}

func TestInterceptedHostsAreTheirRegistries(t *testing.T) {
	t.Parallel()
	s := hostSet(t, "quay.io reg.test:5000")
	for authority, want := range map[string]oci.Registry{"quay.io:443": "quay.io", "reg.test:5000": "reg.test:5000", "registry-1.docker.io:443": "docker.io"} {
		if got, _ := s.Intercept(authority); got != want {
			t.Errorf("CONNECT %s is %q, want %q", authority, got, want)
		}
	}
	for authority, want := range map[string]oci.Registry{"quay.io": "http://quay.io", "reg.test:5000": "http://reg.test:5000"} {
		if got, _ := s.InterceptPlain(authority); got != want {
			t.Errorf("http://%s is %q, want %q", authority, got, want)
		}
	}
}

func TestWhichHostsAreNamed(t *testing.T) {
	t.Parallel()
	cfg := mustLoad(t, machine{}, "REGISTRIES=reg.test:5000 *.example.com [::1]:5000", "AUTH_REGISTRIES=auth.only.test:u:p")
	for host, want := range map[string]bool{
		"reg.test": true, "REG.test.": true, "a.example.com": true, "example.com": false, "auth.only.test": true, "::1": true, "[::1]": true,
		"registry-1.docker.io": false, "auth.docker.io": false, "quay.io": false, "test": false, "": false,
	} {
		if got := cfg.Named(host); got != want {
			t.Errorf("%q is named: %v, want %v", host, got, want)
		}
	}
}

// Docker Hub's registry is asked under another name than operators write.
func TestDockerHubIsNamedByAnyOfItsNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"docker.io", "index.docker.io", "registry-1.docker.io"} {
		cfg := mustLoad(t, machine{}, "REGISTRIES="+name)
		if !cfg.Named("registry-1.docker.io") || !cfg.Named("docker.io") || cfg.Named("auth.docker.io") {
			t.Errorf("REGISTRIES=%s does not name Docker Hub's registry, and that alone", name)
		}
	}
	if cfg := mustLoad(t, machine{}, "AUTH_REGISTRIES=auth.docker.io:u:p"); !cfg.Named("auth.docker.io") || cfg.Named("registry-1.docker.io") {
		t.Error("a credential for auth.docker.io does not name that host, and that alone")
	}
}

func TestTheDefaultListIsTheUnionOfTheOriginals(t *testing.T) {
	t.Parallel()
	got := mustLoad(t, machine{}).Registries.Exact()
	want := []string{"auth.docker.io", "docker.io", "gcr.io", "ghcr.io", "index.docker.io", "k8s.gcr.io", "quay.io", "registry-1.docker.io", "registry.k8s.io"}
	if !slices.Equal(got, want) {
		t.Errorf("intercepted by default: %q, want %q", got, want)
	}
	exact := hostSet(t, "reg.test:5000 *.example.com").Exact()
	if !slices.Contains(exact, "reg.test:5000") || slices.Contains(exact, "*.example.com") {
		t.Errorf("exact hosts %q, want reg.test:5000 and no wildcard", exact)
	}
}

func TestZeroHostSetIsEmpty(t *testing.T) {
	t.Parallel()
	var s HostSet
	if s.Match("quay.io:443") || s.Named("quay.io") || len(s.Exact()) != 0 {
		t.Error("the zero HostSet holds something")
	}
}

func FuzzHostSet(f *testing.F) {
	for _, seed := range [][2]string{{"quay.io", "quay.io:443"}, {"*.example.com:5000", "a.example.com:5000"}, {".x", "x"}, {"r.*", "r.a"}, {"[::1]", "[::1]:443"}, {"*", "a"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, entry, authority string) {
		s := newHostSet()
		if err := s.add(entry); err != nil && strings.ContainsAny(err.Error(), "\n\r") {
			t.Fatalf("add(%q): %v", entry, err)
		}
		reg, ok := s.Intercept(authority)
		if ok != s.Match(authority) || ok && reg == "" {
			t.Fatalf("entry %q, CONNECT %q: registry %q, %v, but match %v", entry, authority, reg, ok, s.Match(authority))
		}
	})
}
