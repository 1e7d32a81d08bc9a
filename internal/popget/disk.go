package main

import (
	"errors"
	"io"
	"os"
	"runtime"
	"syscall"
)

// A disk is how popget changes files. Tests have one that stops at any step, as a
// kill does.
type disk interface {
	mkdir(dir string) error
	open(name string, flag int) (file, error)
	rename(from, to string) error
	remove(name string) error
	syncDir(dir string) error
}

type file interface {
	io.WriteCloser
	Sync() error
}

type osDisk struct{}

func (osDisk) mkdir(dir string) error       { return os.Mkdir(dir, 0o700) }
func (osDisk) rename(from, to string) error { return os.Rename(from, to) }
func (osDisk) remove(name string) error     { return os.Remove(name) }

func (osDisk) open(name string, flag int) (file, error) {
	return os.OpenFile(name, flag|os.O_WRONLY|os.O_CREATE, 0o600)
}

// syncDir waits until the names in a folder are on disk. Windows cannot do that,
// nor can some file systems, which return EINVAL (CIFS).
func (osDisk) syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil
	}
	return errors.Join(err, f.Close())
}
