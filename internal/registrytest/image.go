package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"

	"container-registry-proxy/internal/oci"
)

// Media types of the OCI image specification.
const (
	TypeManifest = "application/vnd.oci.image.manifest.v1+json"
	TypeIndex    = "application/vnd.oci.image.index.v1+json"
	TypeConfig   = "application/vnd.oci.image.config.v1+json"
	TypeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
	TypeTar      = "application/vnd.oci.image.layer.v1.tar"
)

// Image is an image that real clients can pull.
type Image struct {
	oci.Descriptor                  // of the manifest
	Manifest       []byte           // its bytes
	Config         oci.Descriptor   // its digest is what docker and podman call the image's ID
	Layers         []oci.Descriptor // in order
	Blobs          map[oci.Digest][]byte
	Architecture   string
}

// Bytes returns bytes that do not compress, the same for the same seed.
func Bytes(seed uint64, size int) []byte {
	b := make([]byte, size)
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// Layer returns a layer with one file of that many bytes that do not compress, the same for the same seed.
func Layer(seed uint64, size int) []byte {
	return LayerOf(map[string][]byte{fmt.Sprintf("data/%d", seed): Bytes(seed, size)})
}

// LayerOf returns a layer, tar and gzip, with executable files by their path.
func LayerOf(files map[string][]byte) []byte {
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestSpeed) // a valid level
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(files[name]))}); err != nil {
			panic(err) // to memory, with the right length
		}
		_, _ = w.Write(files[name])
	}
	_ = w.Close()
	_ = z.Close()
	return packed.Bytes()
}

// NewImage makes an image of layers for this machine's architecture, without any registry. Its command is entry.
func NewImage(entry []string, layers ...[]byte) Image {
	return newImage(runtime.GOARCH, entry, layers)
}

func newImage(architecture string, entry []string, layers [][]byte) Image {
	img := Image{Blobs: map[oci.Digest][]byte{}, Architecture: architecture, Layers: []oci.Descriptor{}}
	diffs := []oci.Digest{}
	for _, layer := range layers {
		img.Layers = append(img.Layers, img.add(layerType(layer), layer))
		diffs = append(diffs, diffID(layer))
	}
	img.Config = img.add(TypeConfig, mustJSON(map[string]any{
		"created": "2026-01-01T00:00:00Z", "architecture": architecture, "os": "linux",
		"config": map[string]any{"Entrypoint": entry},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	}))
	img.Manifest = mustJSON(map[string]any{
		"schemaVersion": 2, "mediaType": TypeManifest, "config": img.Config, "layers": img.Layers,
	})
	img.Descriptor = oci.Descriptor{MediaType: TypeManifest, Digest: oci.FromBytes(img.Manifest), Size: int64(len(img.Manifest))}
	return img
}

func (img *Image) add(mediaType string, blob []byte) oci.Descriptor {
	d := oci.FromBytes(blob)
	img.Blobs[d] = blob
	return oci.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(blob))}
}

func layerType(layer []byte) string {
	if bytes.HasPrefix(layer, []byte{0x1f, 0x8b}) {
		return TypeLayer
	}
	return TypeTar
}

// diffID is the digest of a layer as it is unpacked.
func diffID(layer []byte) oci.Digest {
	if z, err := gzip.NewReader(bytes.NewReader(layer)); err == nil {
		if plain, err := io.ReadAll(z); err == nil {
			return oci.FromBytes(plain)
		}
	}
	return oci.FromBytes(layer)
}

// PushImage puts an image of layers there, as it were by itself: nothing is logged. Layers of [Layer] can be unpacked by
// real clients; any other bytes do where nobody unpacks.
func (r *Registry) PushImage(repo, tag string, layers ...[]byte) Image {
	img := NewImage(nil, layers...)
	r.Put(repo, tag, img)
	return img
}

// Put puts an image there, under a tag if that is not empty.
func (r *Registry) Put(repo, tag string, img Image) {
	r.content.in(repo, func(re *repository) { maps.Copy(re.blobs, img.Blobs) })
	r.PutManifest(repo, tag, TypeManifest, img.Manifest)
}

// PutBlob puts a blob there.
func (r *Registry) PutBlob(repo string, blob []byte) oci.Digest {
	digest := oci.FromBytes(blob)
	r.content.in(repo, func(re *repository) { re.blobs[digest] = blob })
	return digest
}

// PutManifest puts any manifest there, under a tag if that is not empty.
func (r *Registry) PutManifest(repo, tag, mediaType string, body []byte) oci.Digest {
	digest := oci.FromBytes(body)
	r.content.in(repo, func(re *repository) {
		re.documents[digest] = document{mediaType, body}
		if tag != "" {
			re.tags[tag] = digest
		}
	})
	return digest
}

// Index is an image for several platforms.
type Index struct {
	oci.Descriptor
	Body   []byte
	Images []Image // one for each architecture, in their order
}

// PushIndex puts an image for linux on each architecture there. Their last layers differ, all others are shared.
func (r *Registry) PushIndex(repo, tag string, architectures []string, layers ...[]byte) Index {
	var idx Index
	var entries []map[string]any
	for _, arch := range architectures {
		own := LayerOf(map[string][]byte{"etc/architecture": []byte(arch + "\n")})
		img := newImage(arch, nil, append(slices.Clone(layers), own))
		r.Put(repo, "", img)
		idx.Images = append(idx.Images, img)
		entries = append(entries, map[string]any{
			"mediaType": img.MediaType, "digest": img.Digest, "size": img.Size,
			"platform": map[string]string{"architecture": arch, "os": "linux"},
		})
	}
	idx.Body = mustJSON(map[string]any{"schemaVersion": 2, "mediaType": TypeIndex, "manifests": entries})
	idx.Descriptor = oci.Descriptor{MediaType: TypeIndex, Digest: r.PutManifest(repo, tag, TypeIndex, idx.Body), Size: int64(len(idx.Body))}
	return idx
}

// PushReferrer puts a manifest there that refers to another, such as a signature.
func (r *Registry) PushReferrer(repo string, subject oci.Descriptor, artifactType string) oci.Descriptor {
	empty := []byte("{}")
	config := oci.Descriptor{MediaType: "application/vnd.oci.empty.v1+json", Digest: r.PutBlob(repo, empty), Size: 2}
	body := mustJSON(map[string]any{
		"schemaVersion": 2, "mediaType": TypeManifest, "artifactType": artifactType,
		"config": config, "layers": []oci.Descriptor{config}, "subject": subject,
	})
	return oci.Descriptor{MediaType: TypeManifest, Digest: r.PutManifest(repo, "", TypeManifest, body), Size: int64(len(body))}
}

func mustJSON(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	if err := enc.Encode(v); err != nil {
		panic(err) // maps of strings and descriptors always encode
	}
	return []byte(strings.TrimSpace(b.String()))
}
