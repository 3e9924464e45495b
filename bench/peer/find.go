package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// distributionModule is the release that is compared, as Go knows it.
const distributionModule = "github.com/distribution/distribution/v3/cmd/registry@v3.1.2"

// Tools are programs of others that are compared. What could not be had is empty, and why is in the error beside it.
type Tools struct {
	Nginx       string
	NginxStream string // its module, which may have to be loaded
	NginxErr    error
	Registry    string
	RegistryErr error
}

// Find finds the programs in dir, or puts them there if fetch allows it. Nothing is installed: Debian's packages are
// unpacked into dir, and distribution is built into it.
func Find(ctx context.Context, dir string, fetch bool) (t Tools) {
	if t.Nginx, t.NginxStream, t.NginxErr = findNginx(dir); t.NginxErr != nil && fetch {
		if t.NginxErr = fetchNginx(ctx, dir); t.NginxErr == nil {
			t.Nginx, t.NginxStream, t.NginxErr = findNginx(dir)
		}
	}
	t.Registry = filepath.Join(dir, "registry")
	if _, t.RegistryErr = os.Stat(t.Registry); t.RegistryErr != nil && fetch {
		t.RegistryErr = fetchRegistry(ctx, dir)
	}
	return t
}

func findNginx(dir string) (program, stream string, err error) {
	for _, root := range []string{filepath.Join(dir, "nginx"), "/"} {
		program, stream = filepath.Join(root, "usr/sbin/nginx"), filepath.Join(root, "usr/lib/nginx/modules/ngx_stream_module.so")
		if exist(program, stream) {
			return program, stream, nil
		}
	}
	return "", "", errors.New("nginx with its stream module is not there: bench -fetch gets Debian's")
}

func exist(names ...string) bool {
	for _, name := range names {
		if _, err := os.Stat(name); err != nil {
			return false
		}
	}
	return true
}

// fetchNginx unpacks Debian's packages of nginx below dir. They are not installed, so no daemon is.
func fetchNginx(ctx context.Context, dir string) error {
	packages, err := os.MkdirTemp(dir, "packages")
	if err != nil {
		return err
	}
	defer os.RemoveAll(packages)
	if err := run(ctx, packages, nil, "apt-get", "-q", "download", "nginx", "libnginx-mod-stream"); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(packages, "*.deb"))
	if err != nil {
		return err
	}
	for _, name := range found {
		if err := run(ctx, packages, nil, "dpkg-deb", "-x", name, filepath.Join(dir, "nginx")); err != nil {
			return err
		}
	}
	return nil
}

func fetchRegistry(ctx context.Context, dir string) error {
	return run(ctx, dir, []string{"CGO_ENABLED=0", "GOBIN=" + dir}, "go", "install", "-trimpath", "-ldflags=-s -w", distributionModule)
}

// Build builds the proxy of this repository and returns the path of the program.
func Build(ctx context.Context, root, dir string) (string, error) {
	name := filepath.Join(dir, "container-registry-proxy")
	return name, run(ctx, root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-o", name, "./cmd/container-registry-proxy")
}

// Root is the directory of the repository, above the current one.
func Root() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	name := strings.TrimSpace(string(out))
	if name == "" || name == os.DevNull {
		return "", errors.New("the current directory is in no module: run the benchmark from the repository")
	}
	return filepath.Dir(name), nil
}

func run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out[max(0, len(out)-2<<10):])
	}
	return nil
}
