package archtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func report(t *testing.T, found []string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range found {
		t.Error(violation)
	}
}

func TestRepository(t *testing.T) {
	t.Parallel()
	tree, err := Load("../..")
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Files) < 20 {
		t.Fatalf("only %d Go files found: is the root right?", len(tree.Files))
	}
	for name, check := range map[string]func() ([]string, error){
		"layers":           func() ([]string, error) { return tree.Layers(), nil },
		"banned imports":   func() ([]string, error) { return tree.BannedImports(), nil },
		"dials":            func() ([]string, error) { return tree.Dials(), nil },
		"hidden starts":    func() ([]string, error) { return tree.HiddenStarts(), nil },
		"sizes":            func() ([]string, error) { return tree.Sizes(), nil },
		"package comments": func() ([]string, error) { return tree.PackageComments(), nil },
		"skips":            func() ([]string, error) { return tree.Skips(), nil },
		"machine paths":    tree.MachinePaths,
		"dependencies":     tree.Dependencies,
		"pages":            tree.Pages,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found, err := check()
			report(t, found, err)
		})
	}
}

// The table of ARCHITECTURE.md is for people; it has to name every package of the one that is checked.
func TestArchitecturePageNamesEveryPackage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range layers() {
		for _, dir := range row {
			name := strings.TrimPrefix(dir, "internal/")
			if !strings.Contains(string(page), "`"+name+"`") {
				t.Errorf("ARCHITECTURE.md does not have `%s` of the layer table", name)
			}
		}
	}
}

// Each rule has to be able to fail, and to say what to do.
func TestViolations(t *testing.T) {
	t.Parallel()
	good := "// Package oci has words.\npackage oci\n"
	long := strings.Repeat("\n", 700)
	for _, tt := range []struct {
		name  string
		files map[string]string
		check func(*Tree) ([]string, error)
		want  string // part of the only violation; "" means none
	}{
		{"down", map[string]string{"internal/dial/a.go": "package dial\nimport _ \"m/internal/oci\"\n"}, layersOf, ""},
		{"up", map[string]string{"internal/oci/a.go": "package oci\nimport _ \"m/internal/dial\"\n"}, layersOf, "upwards: declare an interface"},
		{"sideways", map[string]string{"internal/oci/a.go": "package oci\nimport _ \"m/internal/durable\"\n"}, layersOf, "sideways"},
		{"tests look anywhere", map[string]string{"internal/oci/a_test.go": "package oci\nimport _ \"m/internal/dial\"\n"}, layersOf, ""},
		{"no place", map[string]string{"internal/util/a.go": "package util\n"}, layersOf, "no layer: give it a row"},
		{"for tests alone", map[string]string{"internal/app/a.go": "package app\nimport _ \"m/internal/registrytest\"\n"}, layersOf, "for tests alone"},
		{"template", map[string]string{"internal/app/a.go": "package app\nimport _ \"html/template\"\n"}, bannedOf, "keep every exported method"},
		{"below a banned module", map[string]string{"internal/app/a.go": "package app\nimport _ \"go.opentelemetry.io/otel\"\n"}, bannedOf, "build tag"},
		{"log/slog is not log", map[string]string{"internal/app/a.go": "package app\nimport _ \"log/slog\"\n"}, bannedOf, ""},
		{"profiles", map[string]string{"internal/proxy/a.go": "package proxy\nimport _ \"net/http/pprof\"\n"}, bannedOf, "operator's listener"},
		{"profiles in admin", map[string]string{"internal/admin/a.go": "package admin\nimport _ \"net/http/pprof\"\n"}, bannedOf, ""},
		{"dial", map[string]string{"internal/proxy/a.go": "package proxy\nimport \"net\"\nvar _, _ = net.Dial(\"tcp\", \"\")\n"}, dialsOf, "through internal/dial"},
		{"renamed dial", map[string]string{"internal/proxy/a.go": "package proxy\nimport n \"net\"\nvar d n.Dialer\n"}, dialsOf, "n.Dialer"},
		{"the vetted dialer", map[string]string{"internal/dial/a.go": "package dial\nimport \"net\"\nvar d net.Dialer\n"}, dialsOf, ""},
		{"http client", map[string]string{"internal/proxy/a.go": "package proxy\nimport \"net/http\"\nvar c = http.DefaultClient\n"}, dialsOf, "http.RoundTripper"},
		{"own Get", map[string]string{"internal/proxy/a.go": "package proxy\nvar net struct{ Dial int }\nvar x = net.Dial\n"}, dialsOf, ""},
		{"init", map[string]string{"internal/oci/a.go": "package oci\nfunc init() {}\n"}, startsOf, "make it a constructor"},
		{"a method called init", map[string]string{"internal/oci/a.go": "package oci\ntype t int\nfunc (t) init() {}\n"}, startsOf, ""},
		{"exit", map[string]string{"internal/oci/a.go": "package oci\nimport \"os\"\nfunc f() { os.Exit(1) }\n"}, startsOf, "return an error"},
		{"exit of the command", map[string]string{"cmd/x/a.go": "package main\nimport \"os\"\nfunc main() { os.Exit(1) }\n"}, startsOf, ""},
		{"long file", map[string]string{"internal/oci/a.go": good + long}, sizesOf, "second idea"},
		{"long function", map[string]string{"internal/oci/a.go": good + "func f() {" + long[:90] + "}\n"}, sizesOf, "f has 91 lines"},
		{"excused function", map[string]string{"internal/app/a.go": "package app\nfunc wire() {" + long[:90] + "}\n"}, sizesOf, ""},
		{"commented", map[string]string{"internal/oci/a.go": good, "internal/oci/b.go": "package oci\n"}, commentsOf, ""},
		{"not commented", map[string]string{"internal/oci/a.go": "package oci\n"}, commentsOf, "has no comment"},
		{"comment of another form", map[string]string{"internal/oci/a.go": "// Words.\npackage oci\n"}, commentsOf, `begin with "Package oci "`},
		{"two comments", map[string]string{"internal/oci/a.go": good, "internal/oci/b.go": good}, commentsOf, "keep one"},
		{"command", map[string]string{"cmd/x/a.go": "// Command x runs.\npackage main\n"}, commentsOf, ""},
		{"skip", map[string]string{"internal/oci/a_test.go": "package oci\nfunc f() { if x { t.Skip() } }\n"}, skipsOf, "call lack.Of"},
		{"kept skip", map[string]string{"internal/oci/a_test.go": "package oci\nvar skip = t.Skipf\n"}, skipsOf, "call lack.Of"},
		{"skip of what takes long", map[string]string{"internal/oci/a_test.go": "package oci\nfunc f() { if os.Getenv(\"LONG\") == \"\" { t.Skip() } }\n"}, skipsOf, ""},
		{"path of a machine", map[string]string{"docs/a.md": "see /ho" + "me/me/notes"}, (*Tree).MachinePaths, "docs/a.md:1"},
		{"path of the product", map[string]string{"docs/a.md": "see /etc/hosts, https://example.com/work/x and a/work/b"}, (*Tree).MachinePaths, ""},
		{"link to a page", map[string]string{"docs/a.md": "[b](b.md#two-words-of-it) [c](#here)\n## Here", "docs/b.md": "## Two words, of `it`"}, (*Tree).Pages, ""},
		{"link to nothing", map[string]string{"docs/a.md": "[b](b.md)"}, (*Tree).Pages, "leads nowhere"},
		{"link to no heading", map[string]string{"docs/a.md": "[b](#there)\n# Here"}, (*Tree).Pages, "a heading that docs/a.md does not have"},
		{"path in code", map[string]string{"docs/a.md": "see docs/b.md, `docs/a.md`, and `docs/c.md`"}, (*Tree).Pages, "names docs/c.md"},
		{"metric", map[string]string{"docs/a.md": "`container_registry_proxy_here` and `container_registry_proxy_gone`", "internal/oci/a.go": "package oci\nconst name = \"here\"\n"}, (*Tree).Pages, "container_registry_proxy_gone"},
		{"target of make", map[string]string{"docs/a.md": "```sh\nmake all\nmake none\n```\nmake haste", "Makefile": "all:\n"}, (*Tree).Pages, `"make none"`},
		{"unexplained module", map[string]string{"internal/oci/a.go": "package oci\nimport _ \"example.com/a/b/c\"\n"}, (*Tree).Dependencies, "what it saves us"},
		{"explained module", map[string]string{"internal/oci/a.go": "package oci\nimport _ \"example.com/lib/sub\"\n"}, (*Tree).Dependencies, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			found, err := tt.check(plant(t, tt.files))
			if err != nil {
				t.Fatal(err)
			}
			if tt.want == "" && len(found) > 0 || tt.want != "" && (len(found) != 1 || !strings.Contains(found[0], tt.want)) {
				t.Errorf("found %q, want one violation with %q (none if empty)", found, tt.want)
			}
		})
	}
}

func layersOf(t *Tree) ([]string, error)   { return t.Layers(), nil }
func bannedOf(t *Tree) ([]string, error)   { return t.BannedImports(), nil }
func dialsOf(t *Tree) ([]string, error)    { return t.Dials(), nil }
func startsOf(t *Tree) ([]string, error)   { return t.HiddenStarts(), nil }
func skipsOf(t *Tree) ([]string, error)    { return t.Skips(), nil }
func sizesOf(t *Tree) ([]string, error)    { return t.Sizes(), nil }
func commentsOf(t *Tree) ([]string, error) { return t.PackageComments(), nil }

// plant makes a repository of a module m out of files.
func plant(t *testing.T, files map[string]string) *Tree {
	t.Helper()
	root := t.TempDir()
	write := func(name, content string) {
		name = filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module m\n\ngo 1.26.0\n")
	write("ARCHITECTURE.md", "`example.com/lib` saves us the work.\n")
	for name, content := range files {
		write(name, content)
	}
	tree, err := Load(root)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}
