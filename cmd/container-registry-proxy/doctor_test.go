package main

import (
	"net/http/httptest"
	"strings"
	"testing"

	"container-registry-proxy/internal/setup"
)

// What package doctor finds is printed, a line each, and a script can tell that something is wrong.
func TestDoctor(t *testing.T) {
	t.Parallel()
	there := httptest.NewServer(setup.Handler(setup.Config{}))
	defer there.Close()
	address := there.Listener.Addr().String()
	gone := httptest.NewServer(nil)
	gone.Close()
	home := "HOME=" + t.TempDir()
	for _, tt := range []struct {
		args []string
		env  string
		want string
	}{
		{[]string{"--proxy", address}, "", "ok    port         the proxy answers on " + address},
		{[]string{"--proxy", there.URL}, "", "ok    port         the proxy answers on " + address},
		{nil, "HTTPS_PROXY=" + there.URL, "ok    port         the proxy answers on " + address},
		{nil, "LISTEN=" + address, "ok    port         the proxy answers on " + address},
		{[]string{"--proxy", gone.Listener.Addr().String()}, "", "fail  port         " + gone.Listener.Addr().String()},
	} {
		code, stdout, stderr := execute(t, []string{home, tt.env, "ADMIN_LISTEN=" + gone.Listener.Addr().String()}, append([]string{"doctor"}, tt.args...)...)
		if code != exitFailure || !strings.Contains(stdout, tt.want) || !strings.Contains(stderr, "has to be mended") {
			t.Errorf("doctor %q with %s: exit %d: %s%s; want %q", tt.args, tt.env, code, stdout, stderr, tt.want)
		}
	}
	if code, stdout, stderr := execute(t, []string{home}, "doctor", "--image", "No Image"); code != 2 || stdout != "" || !strings.Contains(stderr, "--image: ") || !strings.Contains(stderr, "such as docker.io/library/alpine:3.20") {
		t.Errorf("doctor with a bad image: exit %d: %s%s", code, stdout, stderr)
	}
	if code, _, stderr := execute(t, []string{home, "LISTEN=nonsense"}, "doctor"); code != 2 || !strings.Contains(stderr, "LISTEN") {
		t.Errorf("doctor with a bad configuration: exit %d: %s", code, stderr)
	}
}
