package setup

import (
	"crypto/sha256"
	"embed"
	"encoding/pem"
	"fmt"
	"strings"
)

// The scripts are put together from pieces: what notes which files were made, what trusts the authority, what a client
// needs, and the order of it all. The places to fill in are written @SO@; all that goes into one is either ours or made of
// the characters of addresses.
//
//go:embed scripts
var pieces embed.FS

// client is something that pulls images.
type client struct {
	name      string
	services  string   // what runs it, of systemd or OpenRC
	intercept []string // pieces that have it use the proxy
	mirror    []string // pieces that name the proxy as a mirror; nil if that is another client's
	prefix    string   // of its environment variables
	programs  string   // a command that succeeds where it is installed
	apply     string   // what has it read registries.conf again
}

var service = []string{"trust", "service", "environment", "services"}

// clients are those that can be set up. Systemd is the nginx originals': whatever of three units is here.
var clients = []client{
	{name: "docker", services: "docker", intercept: service, mirror: []string{"service", "docker-mirror"}},
	{name: "containerd", services: "containerd", intercept: service, mirror: []string{"service", "containerd-mirror"}},
	{
		name: "podman", intercept: []string{"trust", "podman"}, mirror: []string{"registries-mirror"},
		programs: "command -v podman >/dev/null || command -v buildah >/dev/null || command -v skopeo >/dev/null", apply: ":",
	},
	{
		name: "crio", services: "crio", intercept: service, mirror: []string{"service", "registries-mirror"},
		programs: "here crio || command -v crio >/dev/null", apply: "! here crio || reload crio",
	},
	{name: "buildkit", services: "buildkit", intercept: service, mirror: []string{"service", "buildkit-mirror"}},
	{name: "k3s", services: "k3s k3s-agent", prefix: "CONTAINERD_", intercept: service, mirror: []string{"service", "k3s-mirror"}},
	{name: "kind"}, // its nodes are containerd's
	{name: "systemd", services: "docker podman containerd", intercept: []string{"trust", "systemd"}},
}

// Clients are the names of what can be set up, in the order of the documentation.
func Clients() []string {
	var names []string
	for _, c := range clients {
		names = append(names, c.name)
	}
	return names
}

// find returns the client of a name.
func find(name string) (client, error) {
	for _, c := range clients {
		if c.name == name {
			return c, nil
		}
	}
	return client{}, fmt.Errorf("client %q: want one of %s", name, strings.Join(Clients(), ", "))
}

// Undo returns the script that sets a client back, whatever mode it was set up in. It needs no proxy.
func Undo(name string) (string, error) {
	c, err := find(name)
	if err != nil {
		return "", err
	}
	if c.name == "kind" {
		node, err := Undo("containerd")
		if err != nil {
			return "", err
		}
		return kind("Undoes what its set-up did to the nodes of a Kind cluster: CLUSTER is the first argument, or kind.", node), nil
	}
	const about = "Undoes on this machine what the set-up of @CLIENT@ for the caching proxy made, and nothing else. Run it as root."
	return values{"CLIENT": c.name, "MODE": "undo", "SERVICES": c.services}.fill(join(about, "notes", "service", "undo")), nil
}

// destination is the proxy as its clients know it.
type destination struct {
	tls        bool   // it is reached over TLS
	address    string // host or host:port, checked by clientAddress
	authority  authority
	registries []string // those that it mirrors, each checked by hostPort
}

// url is without a slash at its end.
func (d destination) url() string {
	if d.tls {
		return "https://" + d.address
	}
	return "http://" + d.address
}

// authorityName is host:port: a name without a port or a dot is no registry to a client.
func (d destination) authorityName() string {
	switch {
	case !strings.HasSuffix(d.address, "]") && strings.Contains(d.address, ":"):
		return d.address
	case d.tls:
		return d.address + ":443"
	default:
		return d.address + ":80"
	}
}

// setUp returns the script that sets a client up.
func (d destination) setUp(c client, o Options) (string, error) {
	if c.name == "kind" {
		containerd, err := find("containerd")
		if err != nil {
			return "", err
		}
		node, err := d.setUp(containerd, o)
		if err != nil {
			return "", err
		}
		return kind("Makes the nodes of a Kind cluster pull images through the caching proxy at "+d.url()+"/, by way of the\n# container engine: CLUSTER is the first argument, or kind. It may be run again.", node), nil
	}
	about := "Makes @CLIENT@ on this machine pull images through the caching proxy at @PROXY@/: adds its authority to the\n# trusted roots, and has @CLIENT@ use it as HTTPS_PROXY."
	pieces, mode := c.intercept, "intercept"
	if o.Mirror {
		if c.mirror == nil {
			return "", fmt.Errorf("mode=mirror: %s has none: want /setup/docker, /setup/containerd or another client by its name", c.name)
		}
		trusts, how := "no authority to trust", "mirror-plain"
		if d.tls {
			trusts, how = "its authority is trusted for nobody else", "mirror-tls"
		}
		about = "Makes @CLIENT@ on this machine pull images through the caching proxy at @PROXY@/ as a mirror: " + trusts + ",\n# and the registries themselves are asked when the proxy is away."
		pieces, mode = append([]string{how}, c.mirror...), "mirror"
	}
	about += " Run it as root. It may be run again: what is right already stays."
	pieces = append([]string{"notes", "put"}, pieces...)
	if c.name != "systemd" {
		pieces = append(pieces, "main")
	}
	v := values{
		"CLIENT": c.name, "MODE": mode, "SERVICES": c.services, "PROGRAMS": c.programs, "APPLY": c.apply,
		"PROXY": d.url(), "AUTHORITY": d.authorityName(), "REGISTRIES": strings.Join(d.registries, " "),
		"CERTIFICATES": d.authority.pem, "FINGERPRINT": d.authority.fingerprint,
	}
	settings := []string{c.prefix + "HTTPS_PROXY=" + d.url() + "/"}
	v["NO_PROXY_LINE"] = ""
	if o.NoProxy != "" {
		settings = append(settings, c.prefix+"NO_PROXY="+o.NoProxy)
		v["NO_PROXY_LINE"] = "\nEnvironment=\"NO_PROXY=" + o.NoProxy + `"`
	}
	v["SETTINGS"], v["QUOTED"] = strings.Join(settings, " "), `"`+strings.Join(settings, `", "`)+`"`
	return v.fill(join(about, pieces...)), nil
}

// kind wraps a script for containerd's machine into one that runs it in each node.
func kind(about, node string) string {
	return values{"NODE": strings.TrimSuffix(node, "\n")}.fill(join(about, "kind"))
}

// join puts pieces behind the lines that say what they do together.
func join(about string, names ...string) string {
	text := "#!/bin/sh\n# " + about + "\n"
	for i, name := range names {
		piece, err := pieces.ReadFile("scripts/" + name + ".sh")
		if err != nil {
			panic(err) // it is compiled in
		}
		if i > 0 {
			text += "\n"
		}
		text += string(piece)
	}
	return text
}

// values are what goes into a text in the place of @NAME@.
type values map[string]string

// fill looks at a text once: what has gone in is not looked at again.
func (v values) fill(text string) string {
	var pairs []string
	for name, value := range v {
		pairs = append(pairs, "@"+name+"@", value)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

const welcomeText = `container-registry-proxy: the caching proxy is working!

Set up a client, as root (read it first, it is short):
  curl -fsS @PROXY@/setup/CLIENT | sh                 it trusts this proxy's authority, and uses it for every registry
  curl -fsS '@PROXY@/setup/CLIENT?mode=mirror' | sh   it knows this proxy as a mirror, and trusts nobody new
  curl -fsS @PROXY@/setup/CLIENT/undo | sh            all is as it was
CLIENT is one of @CLIENTS@.
Set up any other client by hand: trust the certificate, and set the environment variable for it.
  @PROXY@/ca.crt   SHA-256 @FINGERPRINT@
  HTTPS_PROXY=@PROXY@/
Then pull an image twice: in the proxy's log its layers are a miss, then a hit.
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
