//go:build !windows

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// isTerminal reports whether f is a terminal. The only other character device that
// is seen in its place is /dev/null.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

func (t tty) hideInput() (restore func(), ok bool) {
	stty := func(args ...string) (string, error) {
		cmd := exec.Command("stty", args...)
		cmd.Stdin = t.File
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	before, err := stty("-g")
	if err == nil {
		_, err = stty("-echo")
	}
	return func() { stty(before) }, err == nil
}
