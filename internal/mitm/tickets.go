package mitm

import (
	"crypto"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"
)

// tickets derives the keys of session tickets from the authority's own key, so that a session outlives a restart, and is
// resumed by whichever process has the same authority, with nothing to store or to share. dockerd makes a connection for
// each request; after a restart all of them would need a full handshake.
//
// A key is good for one host and one day: a ticket resumes at its own host alone, and no longer than two days.
type tickets struct{ secret []byte }

func newTickets(key crypto.Signer) (*tickets, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	secret, err := hkdf.Extract(sha256.New, der, nil)
	if err != nil {
		return nil, err
	}
	return &tickets{secret}, nil
}

// keys are those of the day, with which new tickets are made, and of the day before.
func (t *tickets) keys(host string, day int64) [][32]byte {
	return [][32]byte{t.key(host, day), t.key(host, day-1)}
}

func (t *tickets) key(host string, day int64) [32]byte {
	info := fmt.Sprintf("container-registry-proxy session ticket %s %d", host, day)
	key, err := hkdf.Expand(sha256.New, t.secret, info, 32)
	if err != nil {
		panic(err) // only for keys longer than 255 hashes
	}
	return [32]byte(key)
}

// today is the number of the day in UTC.
func today() int64 { return time.Now().Unix() / int64(day/time.Second) }
