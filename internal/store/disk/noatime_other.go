//go:build !linux

package disk

// noAtime asks for nothing here.
const noAtime = 0
