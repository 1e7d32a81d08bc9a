//go:build !amd64 || !gc || purego

package wire

import (
	"encoding/binary"
	"math/bits"
)

// nextDot returns the place of the next dot behind an LF, from buf[i] on, i > 0, or
// len(buf). It looks at 32 octets at a time, whatever the lines are like: to call
// bytes.IndexByte for each costs as much as it saves.
func nextDot(buf []byte, i int) int {
	const (
		ones = 0x0101010101010101
		high = 0x80 * ones
		lf   = '\n' * ones
		dot  = '.' * ones
	)
	for ; i+32 <= len(buf); i += 32 {
		b := buf[i-1:][:33]
		// An octet of these is 0 where an LF and a dot meet.
		z0 := (binary.LittleEndian.Uint64(b) ^ lf) | (binary.LittleEndian.Uint64(b[1:]) ^ dot)
		z1 := (binary.LittleEndian.Uint64(b[8:]) ^ lf) | (binary.LittleEndian.Uint64(b[9:]) ^ dot)
		z2 := (binary.LittleEndian.Uint64(b[16:]) ^ lf) | (binary.LittleEndian.Uint64(b[17:]) ^ dot)
		z3 := (binary.LittleEndian.Uint64(b[24:]) ^ lf) | (binary.LittleEndian.Uint64(b[25:]) ^ dot)
		m0, m1, m2, m3 := z0-ones, z1-ones, z2-ones, z3-ones
		if (m0|m1|m2|m3)&high == 0 {
			continue
		}
		// So it is if the lowest high bit of z-1 &^ z is there; others come from
		// 8-bit text.
		m0, m1, m2, m3 = m0&^z0, m1&^z1, m2&^z2, m3&^z3
		for k, m := range [...]uint64{m0, m1, m2, m3} {
			if m &= high; m != 0 {
				return i + 8*k + bits.TrailingZeros64(m)/8
			}
		}
	}
	for ; i < len(buf); i++ {
		if buf[i] == '.' && buf[i-1] == '\n' {
			break
		}
	}
	return i
}
