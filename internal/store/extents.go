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

// Total is the number of bytes in the set.
func (e Extents) Total() (n int64) {
	for _, x := range e {
		n += x.End - x.Start
	}
	return n
}
