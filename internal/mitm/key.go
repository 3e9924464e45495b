package mitm

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/youmark/pkcs8"
)

// passphrase is what the nginx originals protect their key with. It is printed in their source: no secret.
const passphrase = "foobar"

// parseKey returns the first private key of a PEM file: PKCS#1, SEC 1 or PKCS#8, plain or protected by [passphrase].
// Its errors name the file and the command that converts it, and quote nothing of what is in it.
func parseKey(path string, data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue // parameters of a curve, certificates
		}
		key, err := decodeKey(block)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: make it one that can be read with \"openssl pkey -in %s -out %s.plain\", and use that in its place", path, err, path, path)
		}
		return key, nil
	}
	return nil, fmt.Errorf("%s: holds no private key: want PEM, -----BEGIN PRIVATE KEY-----", path)
}

var (
	errPassphrase = fmt.Errorf("key is protected by a passphrase other than %q, the only one that is tried", passphrase)
	errDamagedKey = errors.New("key is damaged, or of a kind that signs no certificates")
)

func decodeKey(block *pem.Block) (crypto.Signer, error) {
	der := block.Bytes
	//lint:ignore SA1019 The format is insecure, but it is what OpenSSL 1.1 wrote, and a key with a published passphrase is no secret anyway.
	if x509.IsEncryptedPEMBlock(block) {
		var err error
		//lint:ignore SA1019 See above.
		if der, err = x509.DecryptPEMBlock(block, []byte(passphrase)); err != nil {
			if errors.Is(err, x509.IncorrectPasswordError) {
				return nil, errPassphrase
			}
			return nil, fmt.Errorf("key cannot be decrypted: %w", err)
		}
	}
	var key any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(der)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(der)
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(der)
	case "ENCRYPTED PRIVATE KEY":
		return decryptPKCS8(der)
	default:
		return nil, fmt.Errorf("%q is a form that is not supported", block.Type)
	}
	if err != nil && len(block.Headers) > 0 {
		return nil, errPassphrase // one wrong passphrase in 256 leaves what looks like padding
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamagedKey, err)
	}
	return signer(key)
}

func signer(key any) (crypto.Signer, error) {
	if s, ok := key.(crypto.Signer); ok {
		return s, nil
	}
	return nil, errDamagedKey // one that only agrees on keys
}

// PKCS #5 v2.1, A.4: anything else that protects a PKCS#8 key is a scheme of PKCS #5 v1.5 or PKCS #12.
var oidPBES2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 13}

// protected is the part of an EncryptedPrivateKeyInfo (RFC 5958, 3) that says how it is protected.
type protected struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

// derivation is the part of PBES2-params that says how the passphrase becomes a key. The fields beyond the salt are
// PBKDF2's iterations, or scrypt's N, r and p.
type derivation struct {
	Function struct {
		Algorithm asn1.ObjectIdentifier
		Params    struct {
			Salt []byte
			Cost int64
			R    int64 `asn1:"optional"`
			P    int64 `asn1:"optional"`
		}
	}
}

// Bounds of the work that opening a key may take, a few seconds and a quarter of a GiB: a damaged file must not stall the start.
const (
	maxCost   = 1 << 22
	maxMemory = 1 << 28
)

func decryptPKCS8(der []byte) (key crypto.Signer, err error) {
	var info protected
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, errDamagedKey
	}
	if !info.Algorithm.Algorithm.Equal(oidPBES2) {
		return nil, errors.New("key is protected by an old scheme (PBES1 or PKCS#12), not by PBES2")
	}
	var d derivation
	if _, err := asn1.Unmarshal(info.Algorithm.Parameters.FullBytes, &d); err != nil {
		return nil, errDamagedKey
	}
	work := d.Function.Params
	if work.Cost < 1 || work.Cost > maxCost || work.R < 0 || work.P < 0 || work.R > 64 || work.P > 64 || work.R > 0 && 128*work.R*work.Cost > maxMemory {
		return nil, errors.New("key takes too much work to open")
	}
	// The library panics where a damaged key has an IV or a length that its cipher does not take.
	defer func() {
		if recover() != nil {
			key, err = nil, errDamagedKey
		}
	}()
	decrypted, err := pkcs8.ParsePKCS8PrivateKey(der, []byte(passphrase))
	switch {
	case err == nil:
		return signer(decrypted)
	case strings.HasSuffix(err.Error(), "incorrect password"): // the library has no other mark
		return nil, errPassphrase
	}
	return nil, fmt.Errorf("key cannot be decrypted: %w", err)
}
