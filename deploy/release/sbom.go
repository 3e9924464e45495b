package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"container-registry-proxy/deploy/internal/build"
)

// A bill of materials in the words of CycloneDX 1.5:
//
//	{"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
//	 "metadata": {"timestamp": …, "component": {"type": "application", "name": "container-registry-proxy", …}},
//	 "components": [{"type": "library", "name": "golang.org/x/net", "version": "v0.62.0", "purl": "pkg:golang/…"}]}
type bom struct {
	Format     string      `json:"bomFormat"`
	Spec       string      `json:"specVersion"`
	Version    int         `json:"version"`
	Metadata   metadata    `json:"metadata"`
	Components []component `json:"components"`
}

type metadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// billOfMaterials says what a program is made of, by what the compiler has put into it.
func billOfMaterials(about build.About, version string, program []byte, when time.Time) ([]byte, error) {
	sum := sha256.Sum256(program)
	b := bom{Format: "CycloneDX", Spec: "1.5", Version: 1, Metadata: metadata{
		Timestamp: when.Format(time.RFC3339),
		Component: component{
			Type: "application", Ref: build.Name, Name: build.Name, Version: version, PURL: purl(build.Name, "v"+version),
			Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
		},
	}}
	for _, s := range about.Info.Settings {
		if strings.HasPrefix(s.Key, "vcs.") || strings.HasPrefix(s.Key, "GO") {
			b.Metadata.Component.Properties = append(b.Metadata.Component.Properties, property{"go:" + s.Key, s.Value})
		}
	}
	b.Components = append(b.Components, component{
		Type: "library", Ref: "std", Name: "std", Version: about.Info.GoVersion, PURL: purl("std", strings.TrimPrefix(about.Info.GoVersion, "go")),
	})
	for _, dep := range about.Info.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		b.Components = append(b.Components, component{
			Type: "library", Ref: dep.Path + "@" + dep.Version, Name: dep.Path, Version: dep.Version, PURL: purl(dep.Path, dep.Version),
			Properties: []property{{"go:sum", dep.Sum}},
		})
	}
	text, err := json.MarshalIndent(b, "", "  ")
	return append(text, '\n'), err
}

func purl(path, version string) string {
	return "pkg:golang/" + path + "@" + url.PathEscape(version)
}
