package fill

import (
	"bytes"
	"io"
	"time"

	"container-registry-proxy/internal/store"
)

// small is up to what size a blob is received in one go. Nobody may have a byte of it before all is there and verified
// (see [Withheld]), so there are no readers to hurry for, and what a large blob needs for them costs more than the bytes.
const small = Withheld

// isSmall reports whether the first delivery brings all of a small blob, of which nothing is staged yet.
func (o *opening) isSmall(staged []store.Extent) bool {
	whole := o.Start == 0 && o.asked.Start == 0 && (o.asked.End < 0 || o.asked.End >= o.Size)
	return whole && 0 <= o.Size && o.Size <= small && len(staged) == 0
}

// receiveAll receives a small blob into the stage, in the fill's own goroutine, and reports whether the bytes are the
// digest's. If they are not, or not all have come, nothing is decided yet: the delivery begins again with the bytes that
// were received, for the fill to go on as that of any other blob.
func (f *Fills) receiveAll(x *fill, stage store.Stage, first *opening) (store.Proof, bool) {
	b := make([]byte, first.Size)
	slow := time.AfterFunc(patience, func() { first.cancel(errSlow) })
	n, err := io.ReadFull(first.Body, b)
	slow.Stop()
	var proof store.Proof
	if err == nil {
		verifier := store.NewVerifier(x.digest)
		_, _ = verifier.Write(b)
		proof, err = verifier.Proof()
	}
	if err == nil {
		_, err = stage.WriteAt(b, 0)
	}
	if err != nil {
		first.Body = again{io.MultiReader(bytes.NewReader(b[:n]), first.Body), first.Body}
		return store.Proof{}, false
	}
	first.close()
	f.metrics.received.Add(float64(n))
	return proof, true
}

// again is a body of which a part has been received.
type again struct {
	io.Reader
	io.Closer
}
