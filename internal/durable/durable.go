// Package durable writes files that survive a power cut. Its invariant: what it has reported as written is either
// whole under its name after any crash, or absent.
//
// The order that makes it so (a rename without the first fsync leaves an empty file after a power cut, measured on
// ext4): write a temporary file in the same directory, fsync it, rename it, fsync the directory.
package durable
