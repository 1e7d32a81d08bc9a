//go:build gc && !purego

package wire

// nextDot is that of nextdot.go. All message text goes through it: over loopback
// the portable one takes a third of the CPU time of a transfer.
//
//go:noescape
func nextDot(buf []byte, i int) int
