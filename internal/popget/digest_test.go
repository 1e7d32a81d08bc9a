package main

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestDigest(t *testing.T) {
	t.Parallel()
	const header, body = "From: ada\r\nX: y\r\n", "\r\nbody\r\n\r\nmore\r\n"
	long := strings.Repeat("x", 100)
	for _, tt := range []struct {
		name         string
		a, b         string
		header, text bool // are the same
	}{
		{"equal", header + body, header + body, true, true},
		{"another body", header + body, header + body + "x", true, false},
		{"another header", header + body, "From: bob\r\n" + body, false, false},
		{"a status", header + body, "Status: RO\r\n" + header + "X-Status: A\r\n" + body, true, true},
		{"in any case", header + body, "STATUS : RO\r\n" + header + "x-uidl:1\r\n" + body, true, true},
		{"folded keywords", header + body, "X-Keywords: a\r\n b\r\n\tc\r\n" + header + body, true, true},
		{"a folded line of a field that counts", header + body, header + " z\r\n" + body, false, false},
		{"a field that begins with such a name", header + body, "Status-Code: 1\r\n" + header + body, false, false},
		{"no field", header + body, "Status\r\n" + header + body, false, false},
		{"a status in the body", header + body, header + body + "Status: RO\r\n", true, false},
		{"empty lines at the end", header + body, header + body + "\r\n\r\n\n", true, true},
		{"no last line end", header + body, strings.TrimSuffix(header+body, "\r\n"), true, true},
		{"an empty line in the middle", header + body, header + "\r\n" + body, true, false},
		{"a blank at the end", header + body, header + body + " ", true, false},
		{"a header only", header, header + "\r\n", true, true},
		{"a header only, with a status", header, header + "Status: RO", true, true},
		{"TOP", header + body, header + "\r\n", true, false},
		{"TOP with an empty line more", header + body, header + "\r\n\r\n", true, false},
		{"lone LF", header + body, strings.ReplaceAll(header+body, "\r\n", "\n"), false, false},
		{"empty", "", "\r\n", true, true},
		{"no header", "\r\nbody", "\r\nbody\r\n", true, true},
		{"a long line in the header", long + header + body, long + header + body + "\r\n", true, true},
		{"CR alone in the header", strings.Repeat("\r", 100) + "x\r\n" + header + body, header + body, false, false},
		{"no more than some empty lines", header + body + strings.Repeat("\r\n", maxHeld), header + body, true, false},
		{"many empty lines", header + body + strings.Repeat("\r\n", maxHeld), header + body + strings.Repeat("\r\n", maxHeld), true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for range 10 {
				header1, text1 := digestOf(tt.a)
				header2, text2 := digestOf(tt.b)
				if (header1 == header2) != tt.header || (text1 == text2) != tt.text {
					t.Fatalf("header and text are the same: %v, %v; want %v, %v", header1 == header2, text1 == text2, tt.header, tt.text)
				}
			}
		})
	}
}

// digestOf feeds a digest in random pieces.
func digestOf(text string) (header, whole string) {
	d := newDigest()
	for p := []byte(text); len(p) > 0; {
		n := 1 + rand.IntN(min(len(p), 40+len(text)/10))
		d.Write(p[:n])
		p = p[n:]
	}
	return d.sums()
}
