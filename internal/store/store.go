// Package store is the contract of the blob store: reserve, stage, verify, commit, and evict for space. Its
// invariant: a blob can be opened only if its bytes have hashed to its digest. The types enforce it: a [Stage] is
// committed with a [Proof], and a Proof is made by a [Verifier] that has seen all the bytes.
//
// Package storetest holds the suite that every implementation passes.
package store

import (
	"context"
	"errors"
	"io"

	"container-registry-proxy/internal/oci"
)

// ErrNoSpace says that the store cannot take the bytes: the limit, the reserved free space, a full, failing or
// read-only disk. The caller serves them without keeping them; it is never a reason to fail a pull.
var ErrNoSpace = errors.New("no space in the store")

// Store keeps verified blobs. All methods are safe for concurrent use.
type Store interface {
	// Open returns a committed blob and counts as a use of it. It returns an error matching fs.ErrNotExist where
	// there is none. A blob stays readable while it is open, evicted or not.
	Open(d oci.Digest) (Blob, error)

	// Stage reserves space for the blob and opens a place to write it, unseen by Open. A size of -1 means not yet
	// known; the reservation then grows with the writes. What an earlier process had staged for the same digest and
	// size is taken up again. One Stage per digest at a time is the caller's business (package fill sees to it); a
	// second one fails, unless the first has been committed. It returns an error matching ErrNoSpace if the store cannot
	// take the blob, and where a second one fails: the pull passes through.
	Stage(d oci.Digest, size int64) (Stage, error)

	// Remove makes the blob unseen at once and frees its space when its last reader closes it. A blob that is not
	// there is no error. If the disk is in trouble, which is an error, the blob may be seen again later.
	Remove(d oci.Digest) error

	// Usage says how full the store is.
	Usage() Usage
}

// Blob is an open committed blob. ReadAt is safe for concurrent use and checks what it read against the sums recorded
// at commit: bytes that no longer match are not returned, the blob is removed from the store, and the error matches
// [ErrDamaged].
type Blob interface {
	io.ReaderAt
	io.Closer
	Size() int64
}

// ErrDamaged says that a stored blob no longer has the bytes that were committed. The blob is gone from the store.
var ErrDamaged = errors.New("stored blob is damaged")

// Stage is a blob being written. WriteAt and ReadAt are safe for concurrent use; ReadAt sees what WriteAt has
// returned from, and ends with io.EOF where that does. The bytes stay readable through the Stage after Commit, failed or
// not, and until Close. Commit, Close and Discard are called one after the other.
type Stage interface {
	io.WriterAt
	io.ReaderAt

	// Staged lists what the stage held when it was opened, in order and not touching. Its bytes are unverified.
	Staged() []Extent

	// Commit makes the blob visible to Open. The proof must be for this digest.
	Commit(ctx context.Context, proof Proof) error

	// Close ends the use of the stage. Without a commit, what was written stays for a later Stage of the digest to
	// take up, as far as the store finds room for it. Where the size was not known nothing stays: what is there could be
	// all, and whoever took it up could not tell.
	Close() error

	// Discard is Close, and removes what was written.
	Discard() error
}

// Sourced is a [Stage] that remembers where its bytes come from, whatever that means to its users, as long as it
// remembers the bytes.
type Sourced interface {
	// Source is what SetSource was told last, by an earlier user of what was taken up too; empty for nothing.
	Source() string
	// SetSource is called before the bytes that it is about are written.
	SetSource(source string)
}

// Resumable is a [Store] that knows what earlier stages have left.
type Resumable interface {
	// Leftover is the size of the blob of which a stage has left something, if one has.
	Leftover(d oci.Digest) (size int64, ok bool)
}

// Extent is a run of bytes from Start up to, not including, End.
type Extent struct{ Start, End int64 }

// Usage is a snapshot of a store, in bytes and blobs.
type Usage struct {
	Bytes, Limit, Staged int64
	Blobs                int
	// Degraded says why the store does not keep what it should at present; empty when all is well.
	Degraded string
}
