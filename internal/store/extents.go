package store

import (
	"cmp"
	"slices"
)

// Extents is a set of bytes as runs in order that neither touch nor overlap. The zero value is empty.
type Extents []Extent

// Add puts the bytes from start up to end into the set.
func (e *Extents) Add(start, end int64) {
	if start >= end {
		return
	}
	// The runs that touch the new one are replaced by one that spans them all.
	first, _ := slices.BinarySearchFunc(*e, start, func(x Extent, at int64) int { return cmp.Compare(x.End, at) })
	last := first
	for last < len(*e) && (*e)[last].Start <= end {
		start = min(start, (*e)[last].Start)
		end = max(end, (*e)[last].End)
		last++
	}
	*e = slices.Replace(*e, first, last, Extent{Start: start, End: end})
}

// End returns where the run that holds the byte at off ends, or off if that byte is not in the set.
func (e Extents) End(off int64) int64 {
	i, _ := slices.BinarySearchFunc(e, off, func(x Extent, at int64) int { return cmp.Compare(x.End, at+1) })
	if i < len(e) && e[i].Start <= off {
		return e[i].End
	}
	return off
}

// Next returns where the first run that begins after off begins, or -1.
func (e Extents) Next(off int64) int64 {
	for _, x := range e {
		if x.Start > off {
			return x.Start
		}
	}
	return -1
}

// Without returns the bytes of e that are not in other.
func (e Extents) Without(other Extents) (rest Extents) {
	for _, x := range e {
		for at := x.Start; at < x.End; {
			if end := other.End(at); end > at {
				at = end
				continue
			}
			end := x.End
			if next := other.Next(at); next >= 0 {
				end = min(end, next)
			}
			rest.Add(at, end)
			at = end
		}
	}
	return rest
}

// Total is the number of bytes in the set.
func (e Extents) Total() (n int64) {
	for _, x := range e {
		n += x.End - x.Start
	}
	return n
}
