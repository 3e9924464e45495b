// Package pull pulls whole images: an index, the manifests of the platforms that are wanted, and all that these name. Its
// invariant: what it hands on hashes to the digest that named it. It keeps nothing, and knows no registry: a [Source] has
// the content, which is a running proxy for the command line, and the cache itself for what is pulled on schedule.
package pull

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"

	"container-registry-proxy/internal/oci"
)

// Source has content.
type Source interface {
	// Manifest returns what a reference names, and its media type.
	Manifest(ctx context.Context, ref oci.Reference) (mediaType string, body []byte, err error)
	// Blob opens a blob of the reference's repository.
	Blob(ctx context.Context, ref oci.Reference, d oci.Digest) (io.ReadCloser, error)
}

// Accept are the media types that are asked for: those of every container client.
var Accept = []string{
	"application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.docker.distribution.manifest.v2+json",
}

// Image is what an image consists of.
type Image struct {
	Reference oci.Reference
	Root      oci.Descriptor
	Manifests []Manifest       // the root first
	Blobs     []oci.Descriptor // configurations and layers, each once
}

// Size is the sum of the blobs' sizes, as their manifests have them.
func (i *Image) Size() (n int64) {
	for _, b := range i.Blobs {
		n += b.Size
	}
	return n
}

// Manifest is a manifest or an index.
type Manifest struct {
	oci.Descriptor
	Body []byte
}

// document is what names other content.
type document struct {
	Manifests []struct {
		oci.Descriptor
		Platform *oci.Platform `json:"platform"`
	} `json:"manifests"`
	Config *oci.Descriptor `json:"config"`
	Layers []struct {
		oci.Descriptor
		URLs []string `json:"urls"`
	} `json:"layers"`
	FSLayers []struct {
		BlobSum oci.Digest `json:"blobSum"`
	} `json:"fsLayers"`
}

// Descriptors are what a manifest or an index names: manifests, the configuration, layers.
func Descriptors(body []byte) (all []oci.Descriptor) {
	var doc document
	if json.Unmarshal(body, &doc) != nil {
		return nil
	}
	for _, m := range doc.Manifests {
		all = append(all, m.Descriptor)
	}
	return append(all, Layers(body)...)
}

// IsManifest reports whether a media type is one of [Accept].
func IsManifest(mediaType string) bool { return slices.Contains(Accept, mediaType) }

// Children are the digests that a manifest or an index names. It is nil for what is neither.
func Children(body []byte) (digests []oci.Digest) {
	var doc document
	if json.Unmarshal(body, &doc) != nil {
		return nil
	}
	for _, m := range doc.Manifests {
		digests = append(digests, m.Digest)
	}
	if doc.Config != nil {
		digests = append(digests, doc.Config.Digest)
	}
	for _, l := range doc.Layers {
		digests = append(digests, l.Digest)
	}
	for _, l := range doc.FSLayers {
		digests = append(digests, l.BlobSum)
	}
	return digests
}

// Layers are the blobs that an image manifest names, and nil for an index.
func Layers(body []byte) (blobs []oci.Descriptor) {
	var doc document
	if json.Unmarshal(body, &doc) != nil || doc.Config == nil {
		return nil
	}
	blobs = append(blobs, *doc.Config)
	for _, l := range doc.Layers {
		if len(l.URLs) == 0 { // others are not the registry's
			blobs = append(blobs, l.Descriptor)
		}
	}
	return blobs
}

// Find fetches the manifests of an image for the platforms that are wanted; none means that of this machine.
func Find(ctx context.Context, src Source, ref oci.Reference, platforms oci.Platforms) (*Image, error) {
	if len(platforms) == 0 {
		platforms = oci.Platforms{{OS: "linux", Architecture: runtime.GOARCH}}
	}
	f := &finder{src: src, platforms: platforms, image: &Image{Reference: ref}, seen: map[oci.Digest]bool{}}
	root, err := f.manifest(ctx, ref, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	f.image.Root = root
	return f.image, nil
}

// maxDepth bounds indexes within indexes, of which nobody has seen more than one, and maxManifests their number.
const (
	maxDepth     = 4
	maxManifests = 1000
)

type finder struct {
	src       Source
	platforms oci.Platforms
	image     *Image
	seen      map[oci.Digest]bool
}

func (f *finder) manifest(ctx context.Context, ref oci.Reference, depth int) (oci.Descriptor, error) {
	if depth > maxDepth || len(f.image.Manifests) >= maxManifests {
		return oci.Descriptor{}, errors.New("index names too much")
	}
	mediaType, body, err := f.src.Manifest(ctx, ref)
	if err != nil {
		return oci.Descriptor{}, err
	}
	desc := oci.Descriptor{MediaType: mediaType, Digest: oci.FromBytes(body), Size: int64(len(body))}
	if want := ref.Digest; want != "" {
		h := want.Hash()
		_, _ = h.Write(body)
		if !want.Matches(h) {
			return oci.Descriptor{}, fmt.Errorf("manifest is not %s", want)
		}
		desc.Digest = want
	}
	var doc document
	if err := json.Unmarshal(body, &doc); err != nil {
		return oci.Descriptor{}, errors.New("manifest is no JSON")
	}
	f.seen[desc.Digest] = true
	f.image.Manifests = append(f.image.Manifests, Manifest{desc, body})
	for _, blob := range Layers(body) {
		if !f.seen[blob.Digest] {
			f.seen[blob.Digest] = true
			f.image.Blobs = append(f.image.Blobs, blob)
		}
	}
	if doc.Manifests == nil {
		if doc.Config == nil {
			return desc, errors.New("manifest is of a kind that is not pulled whole: want an OCI or Docker v2 image")
		}
		return desc, nil
	}
	return desc, f.children(ctx, ref, doc, depth)
}

// children fetches the manifests of an index that are wanted.
func (f *finder) children(ctx context.Context, ref oci.Reference, doc document, depth int) error {
	found := false
	var there []string
	for _, m := range doc.Manifests {
		if m.Platform != nil {
			there = append(there, m.Platform.String())
		}
		if f.seen[m.Digest] || !f.platforms.Want(m.Platform) {
			continue
		}
		if _, err := f.manifest(ctx, ref.At(m.Digest), depth+1); err != nil {
			return err
		}
		found = true
	}
	if !found && len(doc.Manifests) > 0 {
		return fmt.Errorf("no image for %s: there are %s", f.platforms, strings.Join(there, ", "))
	}
	return nil
}

// Copy copies a blob and checks it.
func Copy(ctx context.Context, src Source, ref oci.Reference, d oci.Digest, to io.Writer) error {
	body, err := src.Blob(ctx, ref, d)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	defer body.Close()
	h := d.Hash()
	if _, err := io.Copy(io.MultiWriter(h, to), body); err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	if !d.Matches(h) {
		return fmt.Errorf("blob %s: other bytes came", d)
	}
	return nil
}
