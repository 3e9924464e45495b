package rows

import (
	"context"
	"encoding/json"
	"fmt"
)

const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// descriptor is the OCI image specification's.
type descriptor struct {
	MediaType string            `json:"mediaType"`
	Digest    string            `json:"digest"`
	Size      int64             `json:"size"`
	Platform  map[string]string `json:"platform,omitempty"`
}

// newImage makes an image at the origin, of layers that nobody has: an index of one platform, its manifest, a config and
// twelve layers. Without a tag it gets one of its own.
func (s *Stand) newImage(ctx context.Context, tag string) (*pulled, error) {
	image := &pulled{}
	config, err := s.Origin.Control.Blob(ctx, 4<<10)
	if err != nil {
		return nil, err
	}
	image.add(config, 4<<10)
	var list []descriptor
	for _, mib := range layers() {
		digest, err := s.Origin.Control.Blob(ctx, mib<<20)
		if err != nil {
			return nil, err
		}
		list = append(list, descriptor{MediaType: typeLayer, Digest: digest, Size: mib << 20})
		image.add(digest, mib<<20)
	}
	if image.tag = tag; tag == "" {
		image.tag = "t" + config[len(config)-16:]
	}
	manifest := map[string]any{
		"schemaVersion": 2, "mediaType": typeManifest,
		"config": descriptor{MediaType: typeConfig, Digest: config, Size: 4 << 10}, "layers": list,
	}
	var size int64
	if image.manifest, size, err = s.document(ctx, "", typeManifest, manifest); err != nil {
		return nil, err
	}
	index := map[string]any{
		"schemaVersion": 2, "mediaType": typeIndex,
		"manifests": []descriptor{{MediaType: typeManifest, Digest: image.manifest, Size: size, Platform: map[string]string{"os": "linux", "architecture": "amd64"}}},
	}
	image.index, _, err = s.document(ctx, image.tag, typeIndex, index)
	return image, err
}

func (i *pulled) add(digest string, size int64) {
	i.blobs = append(i.blobs, digest)
	i.bytes += size
}

func (s *Stand) document(ctx context.Context, tag, mediaType string, content any) (digest string, size int64, err error) {
	body, err := json.Marshal(content)
	if err != nil {
		return "", 0, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	digest, err = s.Origin.Control.Document(ctx, tag, mediaType, body)
	return digest, int64(len(body)), err
}
