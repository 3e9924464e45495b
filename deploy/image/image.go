package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"container-registry-proxy/deploy/internal/build"
)

// Media types of the OCI image specification.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// contents is what an image is made of.
type contents struct {
	program, roots    []byte
	architecture      string
	created           time.Time
	version, revision string
}

// image is an image of one platform: its blobs by digest, and what they are to it.
type image struct {
	architecture string
	manifest     descriptor
	config       string   // digest
	layers       []string // digests
	blobs        map[string][]byte
}

// descriptor is one of the OCI image specification.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType"`
	Manifests     []descriptor `json:"manifests"`
}

// configuration is an image's configuration: OCI's, and Docker's Healthcheck, which OCI has no field for. dockerd obeys
// that one in OCI images too; podman and Kubernetes have their own ways.
type configuration struct {
	Created      time.Time `json:"created"`
	Architecture string    `json:"architecture"`
	OS           string    `json:"os"`
	Config       struct {
		Env          []string            `json:"Env"`
		Entrypoint   []string            `json:"Entrypoint"`
		Cmd          []string            `json:"Cmd"`
		Volumes      map[string]struct{} `json:"Volumes"`
		ExposedPorts map[string]struct{} `json:"ExposedPorts"`
		WorkingDir   string              `json:"WorkingDir"`
		Labels       map[string]string   `json:"Labels"`
		StopSignal   string              `json:"StopSignal"`
		Healthcheck  healthcheck         `json:"Healthcheck"`
	} `json:"config"`
	RootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	History []history `json:"history"`
}

type healthcheck struct {
	Test                           []string
	Interval, Timeout, StartPeriod time.Duration
	Retries                        int
}

type history struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// assemble makes the image of one platform.
func assemble(c contents) image {
	img := image{architecture: c.architecture, blobs: map[string][]byte{}}
	labels := c.labels()
	cfg := c.configuration(labels)
	m := manifest{SchemaVersion: 2, MediaType: typeManifest, Annotations: labels}
	for _, l := range []struct {
		entries []entry
		by      string
	}{
		{baseEntries(c.roots), "root certificates, users and the directories of the volumes"},
		{programEntries(c.program), "/" + programPath},
	} {
		plain, packed := layer(l.entries, c.created)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest(plain))
		cfg.History = append(cfg.History, history{c.created, l.by})
		m.Layers = append(m.Layers, img.add(typeLayer, packed))
		img.layers = append(img.layers, digest(packed))
	}
	m.Config = img.add(typeConfig, encode(cfg))
	img.config = m.Config.Digest
	img.manifest = img.add(typeManifest, encode(m))
	img.manifest.Platform = &platform{c.architecture, "linux"}
	return img
}

func (c contents) configuration(labels map[string]string) configuration {
	var cfg configuration
	cfg.Created, cfg.Architecture, cfg.OS = c.created, c.architecture, "linux"
	cfg.Config.Env = []string{"PATH=/usr/bin", "RUN_AS=" + runAs}
	cfg.Config.Entrypoint, cfg.Config.Cmd = []string{"/" + programPath}, []string{"serve"}
	cfg.Config.Volumes = map[string]struct{}{"/" + cacheDirectory: {}, "/" + caDirectory: {}}
	cfg.Config.ExposedPorts = map[string]struct{}{"3128/tcp": {}}
	cfg.Config.WorkingDir = "/"
	cfg.Config.Labels = labels
	cfg.Config.StopSignal = "SIGTERM"
	cfg.Config.Healthcheck = healthcheck{
		Test:     []string{"CMD", "/" + programPath, "healthcheck"},
		Interval: 10 * time.Second, Timeout: 10 * time.Second, StartPeriod: time.Minute, Retries: 3,
	}
	cfg.RootFS.Type = "layers"
	return cfg
}

func (c contents) labels() map[string]string {
	labels := map[string]string{
		"org.opencontainers.image.title":       build.Name,
		"org.opencontainers.image.description": "A caching proxy for the container images of every registry",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.created":     c.created.Format(time.RFC3339),
		"org.opencontainers.image.version":     c.version,
	}
	if c.revision != "" {
		labels["org.opencontainers.image.revision"] = c.revision
	}
	return labels
}

// add keeps a blob and describes it.
func (i *image) add(mediaType string, blob []byte) descriptor {
	d := descriptor{MediaType: mediaType, Digest: digest(blob), Size: len(blob)}
	i.blobs[d.Digest] = blob
	return d
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// encode is JSON, the same for the same value: maps are sorted.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}
