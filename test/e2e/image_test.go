package e2e

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

const helloSource = `package main

import (
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	fmt.Println("hello from a layer")
	if len(os.Args) > 1 { // until it is told to end
		told := make(chan os.Signal, 1)
		signal.Notify(told, syscall.SIGINT, syscall.SIGTERM)
		<-told
	}
}
`

// hello is a static program, built once.
var hello = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "hello-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "hello")
	if err := os.WriteFile(source, []byte(helloSource), 0o644); err != nil {
		return nil, err
	}
	if err := goCommand("build", "-ldflags=-s -w", "-o", program, source).Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(program)
})

// newImage makes an image that runs: a program and two layers of bytes that are like no other image's.
func newImage(t *testing.T, seed uint64) registrytest.Image {
	t.Helper()
	return newImageOf(t, seed, "/bin/hello")
}

// newImageOf makes one whose program gets arguments; with any, it goes on until it is told to end.
func newImageOf(t *testing.T, seed uint64, entry ...string) registrytest.Image {
	t.Helper()
	program, err := hello()
	if err != nil {
		t.Fatalf("build the program of the image: %v", err)
	}
	return registrytest.NewImage(entry,
		registrytest.LayerOf(map[string][]byte{"bin/hello": append(program, registrytest.Bytes(seed, 16)...)}),
		registrytest.Layer(seed, 3<<20), registrytest.Layer(seed+1, 40<<10))
}
