package config

import (
	"slices"
	"strings"
	"testing"
)

func TestWhereTheCacheIs(t *testing.T) {
	t.Parallel()
	const (
		current = "registry_proxy_mirror_cache"
		legacy  = "docker_mirror_cache"
	)
	for _, tt := range []struct {
		name    string
		machine machine
		environ []string
		want    string
		says    bool
	}{
		{"nothing there", machine{}, nil, "/srv/user/.cache/container-registry-proxy", false},
		{"a cache home", machine{}, []string{"XDG_CACHE_HOME=/xdg"}, "/xdg/container-registry-proxy", false},
		{"a relative cache home counts for nothing", machine{}, []string{"XDG_CACHE_HOME=xdg"}, "/srv/user/.cache/container-registry-proxy", false},
		{"the image's directory", machine{current: aDirectory}, nil, "/" + current, false},
		{"the image's directory in use, the older one too", machine{current + "/x": aFile, legacy + "/y": aFile}, nil, "/" + current, false},
		{"the older directory in use", machine{legacy + "/y": aFile}, nil, "/" + legacy, true},
		{"the older directory in use, the image's empty", machine{current: aDirectory, legacy + "/y": aFile}, nil, "/" + legacy, true},
		{"a new volume at the older place in the image", machine{current: aDirectory, legacy: aDirectory}, nil, "/" + legacy, true},
		{"the older directory empty, outside the image", machine{legacy: aDirectory}, nil, "/srv/user/.cache/container-registry-proxy", false},
		{"a setting wins", machine{current: aDirectory, legacy + "/y": aFile}, []string{"CACHE_DIRECTORY=/data"}, "/data", false},
		{"a relative setting", machine{}, []string{"CACHE_DIRECTORY=./data/"}, "data", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			cfg := mustLoad(t, tt.machine, tt.environ...)
			if cfg.CacheDirectory != tt.want {
				t.Errorf("cache directory %q, want %q", cfg.CacheDirectory, tt.want)
			}
			if got := says(cfg, legacy); got != tt.says {
				t.Errorf("notices %q: name %s: %v, want %v", cfg.Notices, legacy, got, tt.says)
			}
		})
	}
}

func TestWhereTheAuthorityIs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		machine machine
		environ []string
		want    string
	}{
		{"nothing there", machine{}, nil, "/srv/user/.local/share/container-registry-proxy/ca"},
		{"a data home", machine{}, []string{"XDG_DATA_HOME=/xdg"}, "/xdg/container-registry-proxy/ca"},
		{"the image's directory", machine{"ca": aDirectory}, nil, "/ca"},
		{"a file of that name", machine{"ca": aFile}, nil, "/srv/user/.local/share/container-registry-proxy/ca"},
		{"a setting wins", machine{"ca": aDirectory}, []string{"CA_DIRECTORY=/data/ca"}, "/data/ca"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := mustLoad(t, tt.machine, tt.environ...).CADirectory; got != tt.want {
				t.Errorf("CA directory %q, want %q", got, tt.want)
			}
		})
	}
}

func TestWithoutAHomeTheDirectoriesMustBeSet(t *testing.T) {
	t.Parallel()
	_, err := loadAt(machine{}, "HOME=")
	problems := problemsOf(t, err)
	if len(problems) != 2 || !strings.Contains(problems[0], "CACHE_DIRECTORY: not set") || !strings.Contains(problems[1], "CA_DIRECTORY: not set") {
		t.Errorf("problems %q, want one for each directory", problems)
	}
	mustLoad(t, machine{}, "HOME=", "CACHE_DIRECTORY=/c", "CA_DIRECTORY=/a")
}

func TestCacheAndAuthorityAreApart(t *testing.T) {
	t.Parallel()
	_, err := loadAt(machine{}, "CACHE_DIRECTORY=/data", "CA_DIRECTORY=/data/")
	if problems := problemsOf(t, err); len(problems) != 1 || !strings.Contains(problems[0], "CA_DIRECTORY: /data is the cache directory too") {
		t.Errorf("problems %q, want one about CA_DIRECTORY", problems)
	}
}

func says(cfg *Config, text string) bool {
	return slices.ContainsFunc(cfg.Notices, func(n string) bool { return strings.Contains(n, text) })
}
