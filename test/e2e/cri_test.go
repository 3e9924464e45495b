package e2e

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

// A node of Kubernetes: containerd itself pulls, because its CRI service is told to.
func TestCRI(t *testing.T) {
	t.Parallel()
	need(t, "containerd", "ctr")
	scenario(t, func(t *testing.T, w way) client {
		socket := startContainerd(t, w, withCRI)
		return &cri{ctr: ctr{socket: socket, namespace: "k8s.io"}, password: w.password}
	})
}

// cri asks as a kubelet does: with crictl where it is installed (Debian 12 has no package of it), and by itself elsewhere.
type cri struct {
	ctr      // to look into the store; it never pulls
	password string
}

func (c *cri) pull(t *testing.T, reference string) string {
	t.Helper()
	id, err := c.ask(t, reference)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (c *cri) try(t *testing.T, reference string) error {
	t.Helper()
	_, err := c.ask(t, reference)
	return err
}

func (c *cri) ask(t *testing.T, reference string) (id string, err error) {
	t.Helper()
	crictl, err := exec.LookPath("crictl")
	if err != nil {
		return pullImage(t, c.socket, reference, c.password)
	}
	endpoint := "unix://" + c.socket
	args := []string{crictl, "--image-endpoint", endpoint, "--runtime-endpoint", endpoint, "pull"}
	if c.password != "" {
		args = append(args, "--creds", user+":"+c.password)
	}
	if _, err := (command{args: append(args, reference)}).try(t); err != nil {
		return "", err
	}
	return command{args: []string{
		crictl, "--image-endpoint", endpoint, "--runtime-endpoint", endpoint, "inspecti",
		"--output", "go-template", "--template", "{{.status.id}}", reference,
	}}.try(t)
}

func (c *cri) wipe(t *testing.T, _ string) {
	t.Helper()
	// The image has three names there, and each keeps its content.
	c.run(t, append([]string{"images", "remove", "--sync"}, strings.Fields(c.run(t, "images", "list", "--quiet"))...)...)
	if left := c.run(t, "content", "list", "--quiet"); left != "" {
		t.Fatalf("containerd still has %q", left)
	}
}

func (c *cri) id(img registrytest.Image) string { return string(img.Config.Digest) }

// pullImage calls runtime.v1.ImageService/PullImage and returns what containerd calls the image. A gRPC call is a POST
// over HTTP/2, and these messages are fields of a number and a text:
//
//	PullImageRequest  1: ImageSpec {1: image}  2: AuthConfig {1: username, 2: password}
//	PullImageResponse 1: image_ref
func pullImage(t *testing.T, socket, reference, password string) (string, error) {
	t.Helper()
	message := field(1, field(1, []byte(reference)))
	if password != "" {
		message = append(message, field(2, append(field(1, []byte(user)), field(2, []byte(password))...))...)
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
		Protocols: new(http.Protocols),
	}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	// A message goes behind a byte for its compression and four for its length.
	body := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://containerd/runtime.v1.ImageService/PullImage", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", fmt.Errorf("PullImage %s: %w", reference, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("PullImage %s: %w", reference, err)
	}
	status := resp.Trailer.Get("Grpc-Status") + resp.Header.Get("Grpc-Status") // in the header if there is no message
	if status != "0" || len(answer) < 7 || answer[5] != 1<<3|2 || int(answer[6]) != len(answer)-7 {
		return "", fmt.Errorf("PullImage %s: status %q: %s%s", reference, status, resp.Trailer.Get("Grpc-Message"), resp.Header.Get("Grpc-Message"))
	}
	return string(answer[7:]), nil
}

// field is a field of a protocol buffer that holds bytes.
func field(number int, value []byte) []byte {
	out := binary.AppendUvarint(nil, uint64(number)<<3|2)
	return append(binary.AppendUvarint(out, uint64(len(value))), value...)
}
