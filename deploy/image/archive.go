package main

import (
	"archive/tar"
	"bytes"
	"maps"
	"slices"
	"strings"

	"container-registry-proxy/deploy/internal/build"
)

// tag is the name of the images in the archives.
const tag = build.Name + ":latest"

// archives are the files to write, by name: one with all images, and one for each.
func archives(images []image) map[string][]byte {
	files := map[string][]byte{build.Name + "-image.tar": archive(images, nil)}
	for _, img := range images {
		files[build.Name+"-image-"+img.architecture+".tar"] = archive([]image{img}, dockerManifest(img))
	}
	return files
}

// dockerManifest is the manifest.json by which "docker load" finds an image in an archive.
func dockerManifest(img image) []byte {
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobPath(img.config), RepoTags: []string{tag}}
	for _, d := range img.layers {
		entry.Layers = append(entry.Layers, blobPath(d))
	}
	return encode([]any{entry})
}

// archive is an OCI layout with the images below one name, as a tar. A manifest.json that is not empty goes beside it.
//
//	oci-layout  index.json  manifest.json  blobs/sha256/…
//
// index.json names one image alone: the index of all platforms if there are several, since most tools refuse to choose.
func archive(images []image, manifestJSON []byte) []byte {
	top, blobs := images[0].manifest, map[string][]byte{}
	all := index{SchemaVersion: 2, MediaType: typeIndex}
	for _, img := range images {
		all.Manifests = append(all.Manifests, img.manifest)
		maps.Copy(blobs, img.blobs)
	}
	if len(images) > 1 {
		b := encode(all)
		top = descriptor{MediaType: typeIndex, Digest: digest(b), Size: len(b)}
		blobs[top.Digest] = b
	}
	top.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": "latest",
		"io.containerd.image.name":          "docker.io/library/" + tag,
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	file := func(name string, content []byte) {
		put(w, &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content)), Format: tar.FormatUSTAR}, content)
	}
	file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	file("index.json", encode(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{top}}))
	if manifestJSON != nil {
		file("manifest.json", manifestJSON)
	}
	for _, d := range slices.Sorted(maps.Keys(blobs)) {
		file(blobPath(d), blobs[d])
	}
	must(w.Close())
	return out.Bytes()
}

func blobPath(d string) string { return "blobs/" + strings.Replace(d, ":", "/", 1) }
