package wire

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strings"
)

// A Listing holds the rows of a multi-line response. They stay as they came, in
// strings of many rows, until all have been counted: so the caller allocates its
// slice of results once, and a million unique-ids are parts of a few strings.
type Listing struct {
	blocks []string // whole rows with their line ends
	lf     bool     // as in DotReader
	rows   int
}

// blockSize is the least size of a block but the last, so that rows that come one
// by one are still cheap.
const blockSize = 32 << 10

// ReadListing reads the rows of a multi-line response from r. lf is as in [DotReader].
// It returns ErrTooLarge for more than limit octets, for more than MaxRows rows and for
// a row of more than MaxRow octets. It calls progress each time that at least one more
// row is complete. If it fails, it returns the complete rows along with the error.
func ReadListing(r *bufio.Reader, lf bool, limit int, progress func()) (*Listing, error) {
	l := new(Listing)
	d := DotReader{LF: lf}
	var (
		block  strings.Builder
		ended  int // octets of block up to the last line end
		octets int // of all rows
	)
	for {
		text, err := d.Next(r)
		l.lf = d.LF // if the first row has ended, it is known
		block.Write(text)
		octets += len(text)
		n, tooLong := l.count(block.String()[ended:])
		if ended += n; n > 0 {
			progress()
		}
		switch {
		case err != nil:
		case tooLong:
			err = tooLarge("row", MaxRow)
		case octets > limit:
			err = tooLarge("listing", limit)
		case l.rows > MaxRows:
			err = fmt.Errorf("%w: listing of more than %d rows", ErrTooLarge, MaxRows)
		case ended < blockSize:
			continue
		}
		s := block.String()
		l.blocks = append(l.blocks, s[:ended])
		if err == io.EOF {
			return l, nil
		} else if err != nil {
			return l, err
		}
		block = strings.Builder{}
		block.Grow(len(s) + MaxRow) // about as many octets come next
		block.WriteString(s[ended:])
		ended = 0
	}
}

// count counts the rows of s, and returns their octets and whether the last one of them,
// or the unfinished one after it, is too long.
func (l *Listing) count(s string) (n int, long bool) {
	for {
		row, rest, ok := l.cut(s[n:])
		switch {
		case !ok:
			return n, tooLong(row, MaxRow)
		case len(row) > MaxRow:
			return n, true
		}
		l.rows++
		n = len(s) - len(rest)
	}
}

// cut splits s after the line end of its first row. If there is none, ok is false.
func (l *Listing) cut(s string) (row, rest string, ok bool) {
	for i := 0; ; i++ {
		n := strings.IndexByte(s[i:], '\n')
		if n < 0 {
			return s, "", false
		}
		i += n
		if i > 0 && s[i-1] == '\r' {
			return s[:i-1], s[i+1:], true
		} else if l.lf {
			return s[:i], s[i+1:], true
		}
	}
}

// Len returns the number of rows.
func (l *Listing) Len() int { return l.rows }

// Octets returns the number of octets in the rows, line ends included.
func (l *Listing) Octets() (n int64) {
	for _, block := range l.blocks {
		n += int64(len(block))
	}
	return n
}

// Rows returns an iterator over the rows, without their line ends.
func (l *Listing) Rows() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, rest := range l.blocks {
			for rest != "" {
				var row string
				if i := strings.IndexByte(rest, '\n'); i > 0 && rest[i-1] == '\r' { // nearly always
					row, rest = rest[:i-1], rest[i+1:]
				} else {
					row, rest, _ = l.cut(rest)
				}
				if !yield(row) {
					return
				}
			}
		}
	}
}
