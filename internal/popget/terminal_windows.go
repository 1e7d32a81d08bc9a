package main

import (
	"os"
	"syscall"
)

// isTerminal reports whether f is a console.
func isTerminal(f *os.File) bool {
	var mode uint32
	return syscall.GetConsoleMode(syscall.Handle(f.Fd()), &mode) == nil
}

func (t tty) hideInput() (restore func(), ok bool) {
	const echoInput = 4 // ENABLE_ECHO_INPUT
	var mode uint32
	if syscall.GetConsoleMode(syscall.Handle(t.Fd()), &mode) != nil {
		return nil, false
	}
	setMode := syscall.NewLazyDLL("kernel32.dll").NewProc("SetConsoleMode")
	done, _, _ := setMode.Call(t.Fd(), uintptr(mode&^echoInput))
	return func() { setMode.Call(t.Fd(), uintptr(mode)) }, done != 0
}
