package e2e

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"container-registry-proxy/internal/registrytest"
)

const helloSource = `package main

import "fmt"

func main() { fmt.Println("hello from a layer") }
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
	program, err := hello()
	if err != nil {
		t.Fatalf("build the program of the image: %v", err)
	}
	return registrytest.NewImage([]string{"/bin/hello"},
		registrytest.LayerOf(map[string][]byte{"bin/hello": append(program, registrytest.Bytes(seed, 16)...)}),
		registrytest.Layer(seed, 3<<20), registrytest.Layer(seed+1, 40<<10))
}
