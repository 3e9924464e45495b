package config

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"container-registry-proxy/internal/freshness"
)

const (
	envConfigFile   = "CONFIG_FILE"
	envInactive     = "CACHE_INACTIVE"
	envInactiveTime = "CACHE_INACTIVE_TIME"
	envDebug        = "DEBUG"
	envDebugNginx   = "DEBUG_NGINX"
)

// Error is everything that is wrong with a configuration.
type Error struct {
	// Problems has one line each: the setting, what is wrong with its value, and a right one.
	Problems []string
}

// Error has one problem a line.
func (e *Error) Error() string { return strings.Join(e.Problems, "\n") }

// Load reads the configuration out of environ, as in [os.Environ], and of the file that CONFIG_FILE names there. The
// environment wins over the file, and both over the defaults. All that is wrong is in one [*Error].
func Load(environ []string) (*Config, error) {
	return load(environ, system{stat: os.Stat, readDir: os.ReadDir, readFile: readFile})
}

// system is what Load looks at beside environ.
type system struct {
	stat     func(path string) (fs.FileInfo, error)
	readDir  func(path string) ([]fs.DirEntry, error)
	readFile func(path string) ([]byte, error) // refuses what is larger than maxFile
}

// loader is one run of Load.
type loader struct {
	env      map[string]string
	sys      system
	file     file
	origin   map[string]value // by the setting's name in the environment
	cfg      *Config
	listed   HostSet  // what REGISTRIES names, and Docker Hub
	unlisted []string // the registries that have entries in the file and are not in REGISTRIES
	replaced []string // the hosts of credentials in the file that AUTH_REGISTRIES has others for
	problems []string
}

// value is what a setting was given, and where.
type value struct {
	text  string
	label string // "CACHE_MAX_SIZE", or "config.yaml:3: cache_max_size"
	set   bool   // not the default
	env   bool   // by the environment
}

func load(environ []string, sys system) (*Config, error) {
	l := &loader{env: map[string]string{}, sys: sys, origin: map[string]value{}, cfg: &Config{Registries: newHostSet(), texts: map[string]string{}}}
	for _, entry := range environ {
		if name, value, found := strings.Cut(entry, "="); found {
			l.env[name] = value // the last one counts, as for a process that is started so
		}
	}
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"} {
		if lower, present := l.env[strings.ToLower(name)]; present && l.env[name] == "" {
			l.env[name] = lower // as most programs take them
		}
	}
	if path := strings.TrimSpace(l.env[envConfigFile]); path != "" {
		l.readConfigFile(path)
	}
	for _, s := range settings() {
		l.set(s)
	}
	l.inactive()
	l.debug()
	l.patterns()
	l.upstreams()
	l.tags()
	l.credentials()
	l.clients()
	l.directories()
	l.files()
	l.listeners()
	if len(l.problems) > 0 {
		return nil, &Error{Problems: l.problems}
	}
	l.notice()
	return l.cfg, nil
}

// set finds out the setting's value and parses it.
func (l *loader) set(s setting) {
	v := l.lookup(s)
	l.origin[s.env] = v
	l.cfg.texts[s.env] = v.text
	if v.text == "" && !v.set {
		return
	}
	l.refuse(v.label, s.parse(l.cfg, v.text))
}

func (l *loader) lookup(s setting) value {
	if text, present := l.env[s.env]; present {
		if text = strings.TrimFunc(text, isSpace); text != "" || s.keepsEmpty {
			return value{text: text, label: s.env, set: true, env: true}
		}
	}
	if v, present := l.file.values[s.field()]; present && (v.text != "" || s.keepsEmpty) {
		return v
	}
	return value{text: s.fallback, label: s.env}
}

// refuse notes the problems of err, one for each error that is joined in it, under a name.
func (l *loader) refuse(label string, err error) {
	if err == nil {
		return
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, err := range joined.Unwrap() {
			l.refuse(label, err)
		}
		return
	}
	l.problems = append(l.problems, label+": "+err.Error())
}

// inactive has CACHE_INACTIVE count where CACHE_INACTIVE_TIME is not set, or in the file only and the other is not.
func (l *loader) inactive() {
	older, newer := l.origin[envInactive], l.origin[envInactiveTime]
	if !older.set || newer.set && (newer.env || !older.env) {
		return
	}
	if d, err := ParseTime(older.text); err == nil { // set has refused it otherwise
		l.cfg.CacheInactive = d
	}
}

// debug has the originals' two switches mean the debug level.
func (l *loader) debug() {
	for _, name := range []string{envDebug, envDebugNginx} {
		if on, err := parseBool(l.origin[name].text); err == nil && on {
			l.cfg.LogLevel = slog.LevelDebug
		}
	}
}

// patterns checks the fragments of the manifest cache, which mean nothing while it is off.
func (l *loader) patterns() {
	if !l.cfg.ManifestCache.Enabled {
		return
	}
	for _, name := range []string{"MANIFEST_CACHE_PRIMARY_REGEX", "MANIFEST_CACHE_SECONDARY_REGEX"} {
		v := l.origin[name]
		l.refuse(v.label, freshness.CheckFragment(v.text, l.cfg.ManifestCache.AllowPCRE))
	}
}

// files checks that the files that are named are there.
func (l *loader) files() {
	cert, key := l.origin["CA_CRT_FILE"], l.origin["CA_KEY_FILE"]
	// To name what would be there anyway is to name nothing: the originals make these two if need be.
	if filepath.Clean(cert.text) == filepath.Join(l.cfg.CADirectory, "ca.crt") && filepath.Clean(key.text) == filepath.Join(l.cfg.CADirectory, "ca.key") {
		l.cfg.CACertFile, l.cfg.CAKeyFile, cert.set, key.set = "", "", false, false
	}
	switch {
	case cert.set && !key.set:
		l.refuse(cert.label, errors.New("the certificate alone cannot sign: want its key in CA_KEY_FILE too, such as /run/secrets/ca.key"))
	case key.set && !cert.set:
		l.refuse(key.label, errors.New("the key alone is nothing clients could trust: want its certificate in CA_CRT_FILE too, such as /run/secrets/ca.crt"))
	}
	own, ownKey := l.origin["TLS_CRT_FILE"], l.origin["TLS_KEY_FILE"]
	switch {
	case own.set && !ownKey.set:
		l.refuse(own.label, errors.New("the certificate alone is of no use: want its key in TLS_KEY_FILE too, such as /run/secrets/tls.key"))
	case ownKey.set && !own.set:
		l.refuse(ownKey.label, errors.New("the key alone is of no use: want its certificate in TLS_CRT_FILE too, such as /run/secrets/tls.crt"))
	}
	for _, v := range []value{cert, key, own, ownKey, l.origin["UPSTREAM_CA_FILE"]} {
		if !v.set {
			continue
		}
		info, err := l.sys.stat(v.text)
		switch {
		case err != nil:
			l.refuse(v.label, fmt.Errorf("%s: %s: want the path of a PEM file that is there", show(v.text), cause(err)))
		case info.IsDir():
			l.refuse(v.label, fmt.Errorf("%s is a directory: want the path of a PEM file", show(v.text)))
		case v != key && v != ownKey && !l.mayHoldCertificate(v.text):
			l.refuse(v.label, fmt.Errorf("%s holds no certificate: want a PEM file with -----BEGIN CERTIFICATE----- in it", show(v.text)))
		}
	}
}

// mayHoldCertificate reports whether the file has a certificate in it, or cannot be read: a health check, for one, need not be
// allowed to.
func (l *loader) mayHoldCertificate(path string) bool {
	rest, err := l.sys.readFile(path)
	if err != nil {
		return true
	}
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return false
		}
		if block.Type == "CERTIFICATE" {
			return true
		}
	}
}

// listeners refuses two listeners at one address. Port 0 is a fresh one each time.
func (l *loader) listeners() {
	if l.cfg.Listen == l.cfg.AdminListen && l.cfg.Listen != "" && !strings.HasSuffix(l.cfg.Listen, ":0") {
		l.refuse(l.origin["ADMIN_LISTEN"].label, fmt.Errorf("%s is LISTEN's address too: want another port, such as 127.0.0.1:3129", show(l.cfg.AdminListen)))
	}
}

// cause is the error without the operation and the path, which the message has already.
func cause(err error) string {
	var perr *fs.PathError
	if errors.As(err, &perr) {
		return perr.Err.Error()
	}
	return err.Error()
}

// readFile reads a file of at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}
