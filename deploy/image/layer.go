package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"time"
)

// Who the program becomes, and the originals' directories.
const (
	user           = 65532
	runAs          = "65532:65532"
	cacheDirectory = "registry_proxy_mirror_cache"
	caDirectory    = "ca"
	programPath    = "usr/bin/container-registry-proxy"
)

// entry is a file of a layer, or a directory if it has no content.
type entry struct {
	path    string
	mode    int64
	owner   int // user and group
	content []byte
}

// baseEntries are all but the program. They are the same for every platform and, while the root certificates are, for every
// version. The two volumes belong to the program's user, so that a container that is started as that user needs no help.
func baseEntries(roots []byte) []entry {
	return []entry{
		{path: "ca/", mode: 0o755, owner: user},
		{path: "etc/", mode: 0o755},
		{path: "etc/group", mode: 0o644, content: []byte("root:x:0:\nproxy:x:65532:\n")},
		{path: "etc/passwd", mode: 0o644, content: []byte("root:x:0:0:root:/:/sbin/nologin\nproxy:x:65532:65532:container-registry-proxy:/:/sbin/nologin\n")},
		{path: "etc/ssl/", mode: 0o755},
		{path: "etc/ssl/certs/", mode: 0o755},
		{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, content: roots},
		{path: cacheDirectory + "/", mode: 0o755, owner: user},
		{path: "tmp/", mode: 0o1777},
	}
}

func programEntries(program []byte) []entry {
	return []entry{
		{path: "usr/", mode: 0o755},
		{path: "usr/bin/", mode: 0o755},
		{path: programPath, mode: 0o755, content: program},
	}
}

// layer is the entries as a layer: the tar, whose digest is the diff ID, and the gzip of it, which is stored.
func layer(entries []entry, modified time.Time) (plain, packed []byte) {
	var archive, compressed bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, e := range entries {
		header := &tar.Header{
			Typeflag: tar.TypeReg, Name: e.path, Mode: e.mode, Uid: e.owner, Gid: e.owner,
			Size: int64(len(e.content)), ModTime: modified, Format: tar.FormatUSTAR,
		}
		if e.content == nil {
			header.Typeflag = tar.TypeDir
		}
		put(w, header, e.content)
	}
	must(w.Close())
	z, err := gzip.NewWriterLevel(&compressed, gzip.BestCompression)
	must(err)
	_, err = z.Write(archive.Bytes())
	must(err)
	must(z.Close())
	return archive.Bytes(), compressed.Bytes()
}

func put(w *tar.Writer, header *tar.Header, content []byte) {
	must(w.WriteHeader(header))
	_, err := w.Write(content)
	must(err)
}

// must is for writes to memory, with lengths that are right: an error is a mistake in this file.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
