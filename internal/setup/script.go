package setup

import (
	"crypto/sha256"
	_ "embed" // for the script
	"encoding/pem"
	"fmt"
	"strings"
)

// The script keeps a few promises to the originals' users, who edit it with sed on its way to a shell:
//
//   - "Environment" stands at the start of the lines that set it, and nowhere else; these lines end in a double quote,
//     so that ' "NO_PROXY=…"' may be put behind them;
//   - a unit's name is written out wherever it is meant, so that another may be put in its place; a name that comes up
//     twice then does no harm.
//
//go:embed systemd.sh
var systemdScript string

const welcomeText = `container-registry-proxy: the caching proxy is working!

Set up a client where systemd runs docker, podman or containerd, as root (read it first, it is short):
  curl -fsS http://@ADDRESS@/setup/systemd | sh
Set up any other client by hand: trust the certificate, and set the environment variable for it.
  http://@ADDRESS@/ca.crt   SHA-256 @FINGERPRINT@
  HTTPS_PROXY=http://@ADDRESS@/
Then pull an image twice: the second time, X-Cache and the proxy's log say HIT.
`

// authority is the certificates as they go into a script.
type authority struct {
	pem         string // nothing but PEM blocks of certificates
	fingerprint string // of the first: "3A:0F:…"
}

// authorityOf leaves away what else a PEM file may hold: text between the blocks could end a here-document.
func authorityOf(data []byte) authority {
	var a authority
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			a.pem = strings.TrimSuffix(a.pem, "\n")
			return a
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		a.pem += string(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
		if a.fingerprint == "" {
			a.fingerprint = strings.ReplaceAll(fmt.Sprintf("% X", sha256.Sum256(block.Bytes)), " ", ":")
		}
	}
}

// fill puts the values into a text. The address has been checked by clientAddress.
func fill(text, address string, a authority) string {
	return strings.NewReplacer("@ADDRESS@", address, "@CERTIFICATES@", a.pem, "@FINGERPRINT@", a.fingerprint).Replace(text)
}
