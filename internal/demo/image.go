package demo

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"

	"container-registry-proxy/internal/oci"
)

// What the toy registry has one of.
const (
	repository = "demo/app"
	tag        = "v1"
)

const (
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar"
)

// image is a whole image, in memory.
type image struct {
	manifest []byte
	layers   []oci.Descriptor
	blobs    map[oci.Digest][]byte // layers and configuration
}

// newImage makes an image that any client could unpack, the same one every time: each layer is an archive with one file
// of bytes that do not compress.
func newImage(sizes []int64) (*image, error) {
	img := &image{blobs: map[oci.Digest][]byte{}}
	var diffs []oci.Digest
	for i, size := range sizes {
		layer, err := newLayer(i, size)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		desc := img.add(typeLayer, layer)
		img.layers = append(img.layers, desc)
		diffs = append(diffs, desc.Digest) // a layer that is not compressed is its own difference
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	img.manifest, err = json.Marshal(manifest{2, typeManifest, img.add(typeConfig, config), img.layers})
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return img, nil
}

// manifest is an image manifest (OCI image spec v1.1).
type manifest struct {
	SchemaVersion int              `json:"schemaVersion"`
	MediaType     string           `json:"mediaType"`
	Config        oci.Descriptor   `json:"config"`
	Layers        []oci.Descriptor `json:"layers"`
}

func (img *image) add(mediaType string, blob []byte) oci.Descriptor {
	d := oci.FromBytes(blob)
	img.blobs[d] = blob
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(blob))}
}

// size is that of all layers.
func (img *image) size() int64 {
	var total int64
	for _, l := range img.layers {
		total += l.Size
	}
	return total
}

func newLayer(number int, size int64) ([]byte, error) {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(number)}).Read(content) // never fails
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("data/%d", number+1), Mode: 0o644, Size: size}); err != nil {
		return nil, err
	}
	if _, err := w.Write(content); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return layer.Bytes(), nil
}
