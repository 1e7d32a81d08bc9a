//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package main

import (
	"io"
	"io/fs"
	"os"
)

// lockFile locks a file on Plan 9, by its mode. Elsewhere there is no lock
// that a kill would release, and it only opens the file.
func lockFile(name string) (io.Closer, error) {
	return os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600|os.ModeExclusive)
}

func foreign(fs.FileInfo) bool { return false }
