package registrytest

import (
	"bytes"
	"net/http"
)

// ReadBody reads the whole body of a response into a slice that was made for it: one that grows, as that of [io.ReadAll]
// does, is most of what large bodies cost with the race detector.
func ReadBody(resp *http.Response) ([]byte, error) {
	if resp.Body == http.NoBody { // of a HEAD, whose Content-Length is another's
		return nil, nil
	}
	const most = 64 << 20 // whatever a faulty server announces
	b := bytes.NewBuffer(make([]byte, 0, min(max(resp.ContentLength, 0), most)+bytes.MinRead))
	_, err := b.ReadFrom(resp.Body)
	return b.Bytes(), err
}
