// Package build compiles the program for everything that is made of it: images, archives, packages. Its invariant: the
// same source and Go release give the same bytes, in whatever directory and at whatever time. It needs no network once
// the modules are there.
package build

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// Name is what the program is called in images, packages and archives.
const Name = "container-registry-proxy"

// Program compiles the program for a platform into the file out: static, without symbols, and without any path of this
// machine.
func Program(out, goos, goarch string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=auto", "-ldflags=-s -w", "-o", out, "container-registry-proxy/cmd/container-registry-proxy")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch, "GOAMD64=v1", "GOARM64=v8.0")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build for %s/%s: %w\n%s", goos, goarch, err, said)
	}
	return nil
}

// Time is what everything built is dated: SOURCE_DATE_EPOCH if that is set, else the time of the commit, else, where
// there is no git repository, 1970.
func Time() (time.Time, error) {
	seconds := os.Getenv("SOURCE_DATE_EPOCH")
	if seconds == "" {
		out, err := exec.Command("git", "log", "-1", "--format=%ct").Output()
		if err != nil {
			return time.Unix(0, 0).UTC(), nil
		}
		seconds = strings.TrimSpace(string(out))
	}
	n, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH=%s: want seconds since 1970", seconds)
	}
	return time.Unix(n, 0).UTC(), nil
}

// About is what a compiled program says of itself.
type About struct {
	Version  string // as Go has it without the "v": "1.2.0", "0.0.0-20260102030405-0123456789ab", or "devel"
	Revision string // of the commit; empty if that is not known
	Info     *buildinfo.BuildInfo
}

// Read returns what a compiled program says of itself.
func Read(program string) (About, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return About{}, err
	}
	a := About{Version: strings.TrimPrefix(strings.Trim(info.Main.Version, "()"), "v"), Info: info}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			a.Revision = s.Value
		}
	}
	return a, nil
}
