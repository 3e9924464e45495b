package bundle

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"container-registry-proxy/internal/metadata"
	"container-registry-proxy/internal/oci"
	"container-registry-proxy/internal/pull"
	"container-registry-proxy/internal/store"
)

// maxIndex bounds what is read into memory of a bundle: its index, and each manifest.
const maxIndex = 16 << 20

// openedBefore makes what is imported open as of some time ago: a registry that can be reached is asked whether it is, and
// where it cannot be, the operator's word stands.
const openedBefore = 24 * time.Hour

// Imported is what became of a bundle.
type Imported struct {
	Images []oci.Reference
	Blobs  int
	Bytes  int64
}

// Import reads a bundle into a cache. Every client of the proxy may then pull its images: tags with the time of the import,
// and digests. A bundle without names of images is refused before anything of it is offered to clients.
func Import(ctx context.Context, from io.Reader, into store.Store, known *metadata.Metadata) (Imported, error) {
	i := &importer{store: into, known: known}
	in := tar.NewReader(from)
	for {
		header, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return i.done, i.finish()
		case err != nil:
			return i.done, fmt.Errorf("read bundle: %w: want a tar file with an OCI image layout", err)
		case ctx.Err() != nil:
			return i.done, context.Cause(ctx)
		case header.Typeflag != tar.TypeReg:
			continue
		}
		if err := i.file(ctx, path.Clean(header.Name), header.Size, in); err != nil {
			return i.done, err
		}
	}
}

type importer struct {
	store store.Store
	known *metadata.Metadata
	index []byte
	done  Imported
}

func (i *importer) file(ctx context.Context, name string, size int64, body io.Reader) error {
	if name == indexFile {
		if size > maxIndex {
			return fmt.Errorf("%s has %d bytes: want at most %d", name, size, maxIndex)
		}
		var err error
		i.index, err = io.ReadAll(body)
		return err
	}
	rest, ok := strings.CutPrefix(name, "blobs/")
	if !ok {
		return nil
	}
	d, err := oci.ParseDigest(strings.Replace(rest, "/", ":", 1))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return i.blob(ctx, d, size, body)
}

// blob stores a blob, unless it is there.
func (i *importer) blob(ctx context.Context, d oci.Digest, size int64, body io.Reader) error {
	if there, err := i.store.Open(d); err == nil {
		return there.Close()
	}
	stage, err := i.store.Stage(d, size)
	if err != nil {
		return fmt.Errorf("import %s: %w", d, err)
	}
	verifier := store.NewVerifier(d)
	n, err := io.Copy(io.MultiWriter(verifier, &sequential{stage, 0}), body)
	var proof store.Proof
	if err == nil {
		proof, err = verifier.Proof()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("import %s: %w", d, err), stage.Discard())
	}
	if err := errors.Join(stage.Commit(ctx, proof), stage.Close()); err != nil {
		return fmt.Errorf("import %s: %w", d, err)
	}
	i.done.Blobs, i.done.Bytes = i.done.Blobs+1, i.done.Bytes+n
	return nil
}

// sequential writes to a stage from its beginning on.
type sequential struct {
	to io.WriterAt
	at int64
}

func (s *sequential) Write(p []byte) (int, error) {
	n, err := s.to.WriteAt(p, s.at)
	s.at += int64(n)
	return n, err
}

// finish makes the images known.
func (i *importer) finish() error {
	var list index
	if err := json.Unmarshal(i.index, &list); err != nil {
		return errors.New("bundle has no index.json: want a tar file with an OCI image layout, as export writes it")
	}
	var errs []error
	for _, m := range list.Manifests {
		ref, err := m.reference()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, i.image(ref, m.Descriptor))
	}
	if len(list.Manifests) == 0 {
		errs = append(errs, errors.New("bundle names no image"))
	}
	return errors.Join(errs...)
}

// reference is what the image was pulled as. Some tools name it by its tag alone, which says nothing of that.
func (m entry) reference() (oci.Reference, error) {
	name := m.Annotations[containerdName]
	if name == "" {
		name = m.Annotations[refName]
	}
	ref, err := oci.ParseReference(name)
	if err != nil || !strings.ContainsAny(name, "/:@") {
		return oci.Reference{}, fmt.Errorf("manifest %s in the bundle is not named, or by %q alone: want the annotation %s with the whole reference, as skopeo copy … oci-archive:bundle.tar:docker.io/library/alpine:3.20 writes it", m.Digest, name, refName)
	}
	if !pull.IsManifest(m.MediaType) {
		return oci.Reference{}, fmt.Errorf("%s has the media type %q in the bundle: want that of an OCI or Docker v2 image, such as %s", ref, m.MediaType, pull.Accept[1])
	}
	return ref, nil
}

// image makes one image known. Of an index those images count that the bundle has.
func (i *importer) image(ref oci.Reference, root oci.Descriptor) error {
	now := time.Now()
	if err := i.manifest(ref, root.Digest, root.MediaType); err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	if ref.Tag != "" {
		k := metadata.TagKey{Registry: ref.Registry, Repository: ref.Repository, Tag: ref.Tag, Accept: metadata.AcceptImported}
		i.known.PutTag(k, metadata.TagRecord{Descriptor: root, ValidatedAt: now}, i.known.Pushes())
	}
	if last, ok := i.known.Open(ref.Registry, ref.Repository); !ok || !last.Open {
		i.known.PutOpen(ref.Registry, ref.Repository, metadata.OpenAnswer{Open: true, At: now.Add(-openedBefore), Witness: ref.At(root.Digest).Manifest().String()})
	}
	i.done.Images = append(i.done.Images, ref)
	return nil
}

// manifest makes a manifest and what it names known as the repository's.
func (i *importer) manifest(ref oci.Reference, d oci.Digest, mediaType string) error {
	blob, err := i.store.Open(d)
	if err != nil {
		return fmt.Errorf("manifest %s is not in the bundle", d)
	}
	defer blob.Close()
	if blob.Size() > maxIndex {
		return fmt.Errorf("manifest %s has %d bytes", d, blob.Size())
	}
	body := make([]byte, blob.Size())
	if n, err := blob.ReadAt(body, 0); n < len(body) {
		return fmt.Errorf("manifest %s: %w", d, err)
	}
	i.known.PutMediaType(d, mediaType)
	i.known.PutProof(ref.Registry, ref.Repository, d, true)
	for _, child := range pull.Descriptors(body) {
		there, err := i.store.Open(child.Digest)
		switch {
		case errors.Is(err, fs.ErrNotExist): // of another platform
			continue
		case err != nil:
			return err
		}
		_ = there.Close()
		if pull.IsManifest(child.MediaType) {
			if err := i.manifest(ref, child.Digest, child.MediaType); err != nil {
				return err
			}
			continue
		}
		i.known.PutProof(ref.Registry, ref.Repository, child.Digest, true)
	}
	return nil
}
