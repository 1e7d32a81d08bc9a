package main

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// lockFile opens a file that nobody else can open until it is closed or the
// process ends, or fails with errLocked.
func lockFile(name string) (io.Closer, error) {
	const sharingViolation = syscall.Errno(32)
	path, err := syscall.UTF16PtrFromString(name)
	if err != nil {
		return nil, err
	}
	h, err := syscall.CreateFile(path, syscall.GENERIC_READ|syscall.GENERIC_WRITE, 0, nil,
		syscall.OPEN_ALWAYS, syscall.FILE_ATTRIBUTE_NORMAL, 0)
	switch {
	case errors.Is(err, sharingViolation):
		return nil, errLocked
	case err != nil:
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	return os.NewFile(uintptr(h), name), nil
}

func foreign(fs.FileInfo) bool { return false }
