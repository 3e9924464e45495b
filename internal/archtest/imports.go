package archtest

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ban is an import that is refused, with the reason and what to use. It covers the packages below it too.
type ban struct {
	path   string
	reason string
	except []string // packages that may
}

func bans() []ban {
	const bulk = "it calls methods by name, which makes the linker keep every exported method of the program (twice the size)"
	return []ban{
		{"html/template", bulk + ": write the page in full and fill it in with JSON", nil},
		{"text/template", bulk + ": use fmt", nil},
		{"github.com/alecthomas/kong", bulk + ": use cobra", nil},
		{"go.opentelemetry.io", bulk + ": it may come behind a build tag", nil},
		{"net/http/pprof", "profiles belong on the operator's listener", []string{"internal/admin"}},
		{"expvar", "it registers itself on a global mux: use a Prometheus metric", nil},
		{"log", "use the injected *slog.Logger", nil},
		{"math/rand", "use math/rand/v2, or crypto/rand where guessing would matter", nil},
		{"io/ioutil", "use io and os", nil},
	}
}

// BannedImports reports imports that nobody, or only one package, may have.
func (t *Tree) BannedImports() []string {
	var found []string
	for _, f := range t.Files {
		if f.Test {
			continue
		}
		for _, imported := range f.Imports {
			for _, b := range bans() {
				within := imported == b.path || strings.HasPrefix(imported, b.path+"/") && strings.Contains(b.path, ".")
				if within && !slices.Contains(b.except, f.Package) {
					found = append(found, fmt.Sprintf("%s: imports %s: %s", f.Path, imported, b.reason))
				}
			}
		}
	}
	return found
}

// sockets are the ways of the standard library to open a connection past the vetted dialer. One to a socket of this
// machine (net.DialUnix) reaches no network.
func sockets() map[string][]string {
	return map[string][]string{
		"net":        {"Dial", "DialTimeout", "DialTCP", "DialUDP", "DialIP", "Dialer"},
		"crypto/tls": {"Dial", "DialWithDialer", "Dialer"},
		"net/http":   {"Get", "Head", "Post", "PostForm", "DefaultClient", "DefaultTransport", "ProxyFromEnvironment"},
	}
}

// mayDial are the packages that open connections: the vetted dialer, and two that are clients of this very program.
func mayDial() []string {
	return []string{"internal/dial", "internal/demo", "cmd/container-registry-proxy"}
}

// Dials reports connections that do not go through package dial, which is what keeps strangers from reaching this
// network through us.
func (t *Tree) Dials() []string {
	var found []string
	for _, f := range t.Files {
		if f.Test || slices.Contains(mayDial(), f.Package) {
			continue
		}
		names := importNames(f.syntax)
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(sockets()[names[x.Name]], sel.Sel.Name) {
				found = append(found, fmt.Sprintf("%s: uses %s.%s: every outbound connection goes through internal/dial; take a *dial.Dialer or an http.RoundTripper in the package's Config", t.fset.Position(sel.Pos()), x.Name, sel.Sel.Name))
			}
			return true
		})
	}
	return found
}

// HiddenStarts reports init functions, and exits from anywhere but the command: both happen behind the back of who
// reads main.
func (t *Tree) HiddenStarts() []string {
	var found []string
	for _, f := range t.Files {
		if f.Test {
			continue
		}
		names := importNames(f.syntax)
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				if n.Name.Name == "init" && n.Recv == nil {
					found = append(found, fmt.Sprintf("%s: has an init function: make it a constructor and call it from internal/app", t.fset.Position(n.Pos())))
				}
			case *ast.SelectorExpr:
				x, ok := n.X.(*ast.Ident)
				if ok && names[x.Name] == "os" && n.Sel.Name == "Exit" && !strings.HasPrefix(f.Package, "cmd/") {
					found = append(found, fmt.Sprintf("%s: ends the process: return an error, which cmd turns into an exit code", t.fset.Position(n.Pos())))
				}
			}
			return true
		})
	}
	return found
}

// importNames maps the names that a file has for its imports to their paths.
func importNames(f *ast.File) map[string]string {
	names := map[string]string{}
	for _, spec := range f.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has checked it
		}
		name := path.Base(imported)
		if spec.Name != nil {
			name = spec.Name.Name
		}
		names[name] = imported
	}
	return names
}
