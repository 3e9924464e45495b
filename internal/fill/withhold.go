package fill

import (
	"io"

	"container-registry-proxy/internal/store"
)

// withhold returns a reader that keeps the last 64 KiB of a blob back until they are known to be its end; if they are
// not, Read returns a [*store.DigestError] instead. The body goes on where the verifier stands; the reader gets the
// blob's bytes from offset from on. Once they are known to be the digest's, proved is called if it is not nil.
func withhold(body io.Reader, verifier *store.Verifier, from int64, proved func()) io.Reader {
	return &withheld{body: body, verifier: verifier, skip: from - verifier.Size(), kept: make([]byte, 0, 2*Withheld), proved: proved}
}

type withheld struct {
	body     io.Reader
	verifier *store.Verifier
	skip     int64  // bytes to hash but not to give out
	kept     []byte // received, hashed, not given out
	err      error  // the body's end, or the verdict on it
	verified bool
	proved   func()
}

func (w *withheld) Read(p []byte) (int, error) {
	for {
		free := len(w.kept)
		if !w.verified {
			free -= Withheld
		}
		if free > 0 {
			n := copy(p, w.kept[:free])
			w.kept = w.kept[:copy(w.kept, w.kept[n:])]
			return n, nil
		}
		if w.err != nil {
			return 0, w.err
		}
		w.receive()
	}
}

// receive reads more of the body; at its end it judges.
func (w *withheld) receive() {
	n, err := w.body.Read(w.kept[len(w.kept):cap(w.kept)])
	fresh := w.kept[len(w.kept) : len(w.kept)+n]
	_, _ = w.verifier.Write(fresh)
	if w.skip > 0 {
		skipped := min(w.skip, int64(n))
		w.skip -= skipped
		fresh = fresh[skipped:]
	}
	w.kept = append(w.kept, fresh...)
	if err == io.EOF {
		if _, perr := w.verifier.Proof(); perr != nil {
			err = perr
		} else {
			w.verified = true
			if w.proved != nil {
				w.proved()
			}
		}
	}
	w.err = err
}
