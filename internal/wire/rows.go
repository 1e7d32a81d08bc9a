package wire

import (
	"fmt"
	"io"
	"iter"
	"strings"
)

// A Listing is the rows of a multi-line response. They are kept as they came, in
// strings of many rows, until all are there and can be counted: then a slice of
// results is made once, and unique-ids are parts of these strings.
type Listing struct {
	lf     bool     // as in DotReader
	blocks []string // whole rows with their line ends
	lines  int
}

// ReadListing reads the rest of a listing. More than limit octets of rows, more
// than MaxRows rows, or a row of more than MaxRow octets that does not end are
// ErrTooLarge. It calls progress whenever a row has come to its end.
func ReadListing(d *DotReader, limit int, progress func()) (*Listing, error) {
	l := &Listing{lf: d.LF}
	octets := 0
	var tail []byte // a row that has not ended
	for {
		text, err := d.Next()
		if err == io.EOF {
			return l, nil // tail is empty: a line end comes before the dot
		}
		if err != nil {
			return nil, err
		}
		if end := lastEnd(text, l.lf, len(tail) > 0 && tail[len(tail)-1] == '\r'); end > 0 {
			progress()
			var b strings.Builder
			b.Grow(len(tail) + end)
			b.Write(tail)
			b.Write(text[:end])
			block := b.String()
			if hasLongRow(block, l.lf) {
				return nil, tooLarge("row", MaxRow)
			}
			l.blocks = append(l.blocks, block)
			// An LF alone is taken for the end of a row here, for it is quickly
			// counted, and in no sane row.
			lines := strings.Count(block, "\n")
			l.lines += lines
			octets += len(block) - lines
			if !l.lf {
				octets -= lines
			}
			text, tail = text[end:], tail[:0]
		}
		tail = append(tail, text...)
		switch {
		case tooLong(tail, MaxRow):
			return nil, tooLarge("row", MaxRow)
		case octets > limit:
			return nil, tooLarge("listing", limit)
		case l.lines > min(MaxRows, limit): // no sane row is empty
			return nil, fmt.Errorf("%w: listing of more than %d rows", ErrTooLarge, min(MaxRows, limit))
		}
	}
}

// lastEnd returns the place behind the last line end in text, or 0. cr tells that
// a CR is before it.
func lastEnd[T string | []byte](text T, lf, cr bool) int {
	for i := len(text) - 1; i >= 0; i-- {
		if text[i] == '\n' && (lf || i > 0 && text[i-1] == '\r' || i == 0 && cr) {
			return i + 1
		}
	}
	return 0
}

// hasLongRow looks for a row that is too long, in steps of the longest that is
// not.
func hasLongRow(rows string, lf bool) bool {
	const longest = MaxRow + len("\r\n")
	for len(rows) > longest {
		n := lastEnd(rows[:longest], lf, false)
		if n == 0 {
			return true
		}
		rows = rows[n:]
	}
	return false
}

// Len is the number of rows, or a little more.
func (l *Listing) Len() int { return l.lines }

// Rows returns an iterator over the rows, without line ends.
func (l *Listing) Rows() iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, s := range l.blocks {
			for n := 0; n < len(s); {
				n += strings.IndexByte(s[n:], '\n') + 1
				row := s[:n-1]
				if len(row) > 0 && row[len(row)-1] == '\r' {
					row = row[:len(row)-1]
				} else if !l.lf {
					continue
				}
				if !yield(row) {
					return
				}
				s, n = s[n:], 0
			}
		}
	}
}
