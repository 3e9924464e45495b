package mitm_test

import (
	"crypto/tls"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"container-registry-proxy/internal/mitm"
)

// resumes tells for each handshake in turn whether it resumed the session of the one before.
func resumes(t *testing.T, client *tls.Config, a *mitm.Authority, host string) bool {
	t.Helper()
	return mustShake(t, a, host, client).DidResume
}

func remembering() *tls.Config {
	return &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(8)}
}

func TestSessionsOutliveARestart(t *testing.T) {
	t.Parallel()
	for name, dir := range map[string]string{"own": t.TempDir(), "adopted": original(t, originalKey)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := remembering()
			if resumes(t, client, open(t, mitm.Config{Directory: dir}), "quay.io") {
				t.Error("the first handshake resumes a session")
			}
			restarted := open(t, mitm.Config{Directory: dir})
			for range 3 {
				if !resumes(t, client, restarted, "quay.io") {
					t.Error("after a restart the session is not resumed")
				}
			}
		})
	}
}

func TestSessionsOfAnotherAuthorityAreNotResumed(t *testing.T) {
	t.Parallel()
	a, b := open(t, mitm.Config{Directory: t.TempDir()}), open(t, mitm.Config{Directory: t.TempDir()})
	client := &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(8), InsecureSkipVerify: true}
	resumes(t, client, a, "quay.io")
	if resumes(t, client, b, "quay.io") {
		t.Error("another authority's process resumes the session")
	}
}

// A session is its host's: a client that brings it to another one shakes hands anew, and sees that leaf.
func TestSessionsOfAnotherHostAreNotResumed(t *testing.T) {
	t.Parallel()
	a := open(t, mitm.Config{Directory: t.TempDir()})
	client := remembering()
	client.ServerName = "quay.io"
	resumes(t, client, a, "quay.io")
	if _, err := shake(a, "ghcr.io", client); err == nil || !strings.Contains(err.Error(), "valid for ghcr.io, not quay.io") {
		t.Errorf("at another host: %v, want its leaf refused", err)
	}
}

func TestTicketsLastADayOrTwo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := open(t, mitm.Config{Directory: dir})
		time.Sleep(time.Until(time.Date(2000, 6, 1, 23, 0, 0, 0, time.UTC)))
		late, stays := remembering(), remembering()
		resumes(t, late, a, "quay.io")
		resumes(t, stays, a, "quay.io")
		time.Sleep(2 * time.Hour) // past midnight
		if !resumes(t, stays, a, "quay.io") {
			t.Error("a ticket of yesterday is not resumed")
		}
		if restarted := open(t, mitm.Config{Directory: dir}); !resumes(t, stays, restarted, "quay.io") {
			t.Error("a ticket of yesterday is not resumed after a restart")
		}
		time.Sleep(day)
		if resumes(t, late, a, "quay.io") {
			t.Error("a ticket of the day before yesterday is resumed")
		}
		if !resumes(t, stays, a, "quay.io") {
			t.Error("a ticket that was renewed yesterday is not resumed")
		}
	})
}

// What a ticket of TLS 1.2 holds decrypts the session, and its key can be had from the authority's.
func TestOldClientsGetNoTickets(t *testing.T) {
	t.Parallel()
	a := open(t, mitm.Config{Directory: t.TempDir()})
	client := remembering()
	client.MaxVersion = tls.VersionTLS12
	for range 2 {
		if resumes(t, client, a, "quay.io") {
			t.Error("a session of TLS 1.2 is resumed")
		}
	}
}

// serveTLS serves what openssl's client connects to, with the authority that is current.
func serveTLS(t *testing.T, host string, current func() *mitm.Authority) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				server := tls.Server(conn, current().TLSConfig(host))
				if _, err := io.WriteString(server, "served\n"); err == nil {
					_ = server.CloseWrite()
					_, _ = io.Copy(io.Discard, conn)
				}
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

func TestOpensslResumesAfterARestart(t *testing.T) {
	t.Parallel()
	dir := original(t, originalKey)
	var current atomic.Pointer[mitm.Authority]
	current.Store(open(t, mitm.Config{Directory: dir}))
	addr := serveTLS(t, "registry-1.docker.io", current.Load)
	session := filepath.Join(t.TempDir(), "session")
	connect := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"s_client", "-connect", addr, "-servername", "registry-1.docker.io",
			"-verify_hostname", "registry-1.docker.io", "-verify_return_error", "-no-CApath", "-no-CAstore", "-CAfile", filepath.Join(dir, "ca.crt"), "-ign_eof"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "served") || !strings.Contains(string(out), "Verify return code: 0 (ok)") {
			t.Fatalf("openssl s_client: %v\n%s", err, out)
		}
		return string(out)
	}
	if out := connect("-sess_out", session); !strings.Contains(out, "New, TLSv1.3") {
		t.Errorf("first connection: %s", out)
	}
	current.Store(open(t, mitm.Config{Directory: dir}))
	if out := connect("-sess_in", session); !strings.Contains(out, "Reused, TLSv1.3") {
		t.Errorf("after a restart: %s", out)
	}
	if out := connect("-tls1_2"); !strings.Contains(out, "New, TLSv1.2") || strings.Contains(out, "TLS session ticket:") {
		t.Errorf("TLS 1.2: %s, want no ticket", out)
	}
}
