package config

import (
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"container-registry-proxy/internal/oci"
)

// WarmList is a list of images that are pulled into the cache again and again.
type WarmList struct {
	Images []oci.Reference
	// Platforms are those of images with several, such as linux/arm64, or all; none means Linux on this machine's
	// architecture.
	Platforms []string
	// Every is the time from one beginning to the next. It is a minute at least.
	Every time.Duration
}

// leastEvery bounds how often a list is gone through: each time costs its registries a request for each image.
const leastEvery = time.Minute

// readImages takes a sequence of images.
func (f *yamlFile) readImages(key, n *yaml.Node) (refs []oci.Reference) {
	if n.Tag == "!!null" {
		return nil
	}
	names, ok := scalars(target(n))
	if !ok {
		f.refuse(f.label(key, key.Value), errors.New("want a list of images, such as [docker.io/library/alpine:3.20]"))
	}
	for _, name := range names {
		ref, err := oci.ParseReference(name)
		f.refuse(f.label(key, key.Value), err)
		refs = append(refs, ref)
	}
	return refs
}

// readWarm takes a sequence of lists.
func (f *yamlFile) readWarm(n *yaml.Node) {
	const want = "want a list of lists, such as [{images: [docker.io/library/alpine:3.20], every: 6h}]"
	if n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.SequenceNode {
		f.refuse(f.label(n, "warm"), errors.New(want))
		return
	}
	for i, entry := range n.Content {
		label := f.label(entry, fmt.Sprintf("warm[%d]", i))
		if entry.Kind != yaml.MappingNode {
			f.refuse(label, errors.New(want))
			continue
		}
		f.file.warm = append(f.file.warm, f.warmList(entry, label))
	}
}

// warmList takes one list.
func (f *yamlFile) warmList(entry *yaml.Node, label string) WarmList {
	list, problems := WarmList{Every: 24 * time.Hour}, len(f.problems)
	for key, n := range f.fields(entry, label) {
		at := f.label(key, key.Value)
		switch n = target(n); key.Value {
		case "images":
			list.Images = f.readImages(key, n)
		case "platforms":
			names, ok := scalars(n)
			if list.Platforms = names; !ok {
				f.refuse(at, errors.New("want a list of platforms, such as [linux/amd64]"))
			}
			_, err := oci.ParsePlatforms(names)
			f.refuse(at, err)
		case "every":
			every, err := ParseTime(n.Value)
			if err == nil && every < leastEvery {
				err = fmt.Errorf("%s is too often: want 1m at least, such as 6h", show(n.Value))
			}
			list.Every = every
			f.refuse(at, err)
		default:
			f.refuse(f.label(key, show(key.Value)), errors.New("unknown field: want images, platforms and every"))
		}
	}
	if len(list.Images) == 0 && len(f.problems) == problems {
		f.refuse(label, errors.New("no images: want some, such as images: [docker.io/library/alpine:3.20]"))
	}
	return list
}
