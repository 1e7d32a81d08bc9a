package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"hash"
	"strings"
)

// A digest tells whether two texts are the same message. It leaves out what some
// servers change each time they send a message: the fields in volatile (UW-IMAP
// updates Status) and line ends at the end of the text (qmail, Teapop and others
// add one). The digest of the header is the same for RETR and TOP, whatever TOP
// appends (Mailutils an empty line, Tcllib the whole body).
type digest struct {
	hash     hash.Hash
	held     []byte // line ends that may be the last ones: not hashed yet
	tooMany  bool   // of those: they are hashed after all
	inHeader bool
	line     []byte // the beginning of a header line, until its field is known
	inLine   bool   // within a header line whose field is known
	drop     bool   // that line is left out
	header   string
}

var volatile = map[string]bool{"status": true, "x-status": true, "x-uidl": true, "x-keywords": true}

const (
	maxName = 32      // longer than any name in volatile
	maxHeld = 4 << 10 // more than any server appends
)

func newDigest() *digest { return &digest{hash: sha256.New(), inHeader: true} }

// Write never fails.
func (d *digest) Write(p []byte) (int, error) {
	n := len(p)
	for d.inHeader && len(p) > 0 {
		end := bytes.IndexByte(p, '\n') + 1
		if end == 0 {
			d.headerPart(p, false)
			return n, nil
		}
		d.headerPart(p[:end], true)
		p = p[end:]
	}
	d.add(p)
	return n, nil
}

// headerPart takes a part of a header line. ends says that it is the last part.
func (d *digest) headerPart(part []byte, ends bool) {
	if !d.inLine {
		d.line = append(d.line, part...)
		if !ends && len(d.line) < maxName && bytes.IndexByte(d.line, ':') < 0 {
			return
		}
		d.begin(d.line, ends)
		part, d.line = d.line, nil
	}
	d.inLine = !ends
	if !d.drop {
		d.add(part)
	}
}

// begin decides by the beginning of a header line, or all of it, whether to drop
// the line.
func (d *digest) begin(line []byte, all bool) {
	line = bytes.TrimRight(line, "\r\n")
	switch {
	case len(line) == 0 && all: // end of the header
		d.header, d.inHeader, d.drop = d.value(), false, false
	case len(line) > 0 && (line[0] == ' ' || line[0] == '\t'): // as the line before
	default:
		name, _, ok := bytes.Cut(line, []byte(":"))
		d.drop = ok && volatile[strings.ToLower(strings.TrimRight(string(name), " \t"))]
	}
}

// add hashes p, except for line ends that may be the last ones.
func (d *digest) add(p []byte) {
	text := bytes.TrimRight(p, "\r\n")
	ends := p[len(text):]
	if len(text) > 0 {
		d.hash.Write(d.held)
		d.hash.Write(text)
		d.held, d.tooMany = d.held[:0], false
	}
	if d.tooMany = d.tooMany || len(d.held)+len(ends) > maxHeld; d.tooMany {
		d.hash.Write(d.held)
		d.hash.Write(ends)
		d.held = d.held[:0]
	} else {
		d.held = append(d.held, ends...)
	}
}

func (d *digest) value() string { return fmt.Sprintf("%x", d.hash.Sum(nil)[:16]) }

// sums returns the digests of the header and of the whole text.
func (d *digest) sums() (header, text string) {
	if d.inHeader {
		d.headerPart(nil, true)
		d.header = d.value()
	}
	return d.header, d.value()
}
