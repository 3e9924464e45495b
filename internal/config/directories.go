package config

import (
	"errors"
	"fmt"
	"path/filepath"
)

// The originals' directories. They exist in their images and in ours, and nowhere else.
const (
	imageCache  = "/registry_proxy_mirror_cache"
	legacyCache = "/docker_mirror_cache"
	imageCA     = "/ca"
)

// directories finds the directories that are not set, and checks those that are there.
func (l *loader) directories() {
	cache, authority := l.origin["CACHE_DIRECTORY"], l.origin["CA_DIRECTORY"]
	if !cache.set {
		l.cfg.CacheDirectory = l.defaultCache(cache.label)
	}
	if !authority.set {
		l.cfg.CADirectory = l.defaultCA(authority.label)
	}
	for _, d := range []struct{ label, path string }{{cache.label, l.cfg.CacheDirectory}, {authority.label, l.cfg.CADirectory}} {
		if info, err := l.sys.stat(d.path); d.path != "" && err == nil && !info.IsDir() {
			l.refuse(d.label, fmt.Errorf("%s is not a directory: want one, which need not exist yet", show(d.path)))
		}
	}
	if l.cfg.CADirectory != "" && l.cfg.CADirectory == l.cfg.CacheDirectory {
		l.refuse(authority.label, fmt.Errorf("%s is the cache directory too, which may be deleted at any time: want another, such as /ca", show(l.cfg.CADirectory)))
	}
}

// defaultCache is the image's directory; or the older original's, where a volume is mounted at it and none in use at
// the image's; or the user's own.
func (l *loader) defaultCache(label string) string {
	current := l.isDirectory(imageCache)
	if l.isDirectory(legacyCache) && (!current || l.isEmpty(imageCache)) && (current || !l.isEmpty(legacyCache)) {
		l.say("%s is used for the cache, since it is there and %s is not in use", legacyCache, imageCache)
		return legacyCache
	}
	if current {
		return imageCache
	}
	return l.ownDirectory(label, "XDG_CACHE_HOME", ".cache", "container-registry-proxy")
}

func (l *loader) defaultCA(label string) string {
	if l.isDirectory(imageCA) {
		return imageCA
	}
	return l.ownDirectory(label, "XDG_DATA_HOME", ".local/share", "container-registry-proxy/ca")
}

// ownDirectory is where the XDG base directory specification has a user's files: below the variable's path if that is
// absolute, else below the home directory.
func (l *loader) ownDirectory(label, variable, below, name string) string {
	if base := l.env[variable]; filepath.IsAbs(base) {
		return filepath.Join(base, name)
	}
	if home := l.env["HOME"]; filepath.IsAbs(home) {
		return filepath.Join(home, below, name)
	}
	l.refuse(label, errors.New("not set, and neither is HOME to derive it from: want a directory, such as /var/lib/"+name))
	return ""
}

func (l *loader) isDirectory(path string) bool {
	info, err := l.sys.stat(path)
	return err == nil && info.IsDir()
}

// isEmpty reports whether the directory is known to hold nothing.
func (l *loader) isEmpty(path string) bool {
	entries, err := l.sys.readDir(path)
	return err == nil && len(entries) == 0
}
