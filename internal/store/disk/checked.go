package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"container-registry-proxy/internal/store"
)

// checked reads a file whose chunks have known sums.
type checked struct {
	file *os.File
	size int64
	sums []uint64
}

// scratch holds chunks of which only a part is wanted.
var scratch = sync.Pool{New: func() any { b := make([]byte, store.ChunkSize); return &b }}

// readAt reads and checks whole chunks: straight into p where p spans them, through a scratch buffer where it begins or
// ends within one. It returns io.EOF at the end of the file alone; a file that ends early is an error like another.
func (c checked) readAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		at := off + int64(n)
		if at >= c.size {
			return n, io.EOF
		}
		m, err := c.readChunks(p[n:], at)
		if err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// readChunks reads as many whole chunks as fit into p, or the part of one.
func (c checked) readChunks(p []byte, at int64) (int, error) {
	first := at / store.ChunkSize
	start := first * store.ChunkSize
	whole := int64(len(p)) / store.ChunkSize * store.ChunkSize
	if rest := c.size - at; int64(len(p)) >= rest {
		whole = rest // the last chunk is whole however short it is
	}
	if at == start && whole > 0 {
		return int(whole), c.readWhole(p[:whole], first)
	}
	buffer := scratch.Get().(*[]byte)
	defer scratch.Put(buffer)
	chunk := (*buffer)[:min(store.ChunkSize, c.size-start)]
	if err := c.readWhole(chunk, first); err != nil {
		return 0, err
	}
	return copy(p, chunk[at-start:]), nil
}

// readWhole fills p with the chunks from the first one on and checks each. Where it fails, no wrong byte is left in p.
func (c checked) readWhole(p []byte, first int64) error {
	if _, err := c.file.ReadAt(p, first*store.ChunkSize); err != nil {
		clear(p)
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	for i, rest := first, p; len(rest) > 0; i++ {
		chunk := rest[:min(store.ChunkSize, len(rest))]
		if store.Sum(chunk) != c.sums[i] {
			clear(p) // the caller must not find wrong bytes in its buffer
			return fmt.Errorf("chunk %d does not match its sum", i)
		}
		rest = rest[len(chunk):]
	}
	return nil
}
