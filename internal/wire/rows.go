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

// blockSize is the least size of a block but the last, so that rows that come one
// by one are still cheap.
const blockSize = 32 << 10

// ReadListing reads the rest of a listing. More than limit octets of rows, more
// than MaxRows rows, or a row of more than MaxRow octets are ErrTooLarge. It calls
// progress whenever a row has come to its end. With an error it returns the rows
// until then.
func ReadListing(d *DotReader, limit int, progress func()) (*Listing, error) {
	l := &Listing{lf: d.LF}
	var (
		rows  strings.Builder // in no block yet
		whole int             // octets of them before the row that has not ended
		all   int             // octets of rows that have ended, and of their line ends
		ends  int             // of these, the line ends'; not counted until it matters
	)
	fail := func(err error) (*Listing, error) {
		l.blocks = append(l.blocks, rows.String()[:whole])
		return l, err
	}
	for {
		text, err := d.Next()
		if err == io.EOF {
			l.blocks = append(l.blocks, rows.String()) // a line end came before the dot
			return l, nil
		}
		if err != nil {
			return fail(err)
		}
		rows.Write(text)
		tail := rows.String()[whole:]
		if ended := tail[:l.lastEnd(tail)]; len(ended) > 0 {
			progress()
			if l.hasLongRow(ended) {
				return fail(tooLarge("row", MaxRow))
			}
			// An LF alone is taken for the end of a row here, for it is quickly
			// counted, and in no sane row.
			l.lines += strings.Count(ended, "\n")
			whole += len(ended)
			tail = tail[len(ended):]
			if all += len(ended); all > limit {
				if ends == 0 {
					for _, block := range l.blocks {
						ends += l.endOctets(block)
					}
					ended = rows.String()[:whole]
				}
				ends += l.endOctets(ended)
			}
		}
		switch {
		case tooLong(tail, MaxRow):
			return fail(tooLarge("row", MaxRow))
		case all-ends > limit:
			return fail(tooLarge("listing", limit))
		case l.lines > min(MaxRows, limit): // no sane row is empty
			return fail(fmt.Errorf("%w: listing of more than %d rows", ErrTooLarge, min(MaxRows, limit)))
		}
		if whole >= blockSize {
			block := rows.String()
			l.blocks = append(l.blocks, block[:whole])
			rows = strings.Builder{}
			rows.Grow(len(block) + MaxRow) // about as many come next
			rows.WriteString(tail)
			whole = 0
		}
	}
}

// lastEnd returns the place behind the last line end in s, or 0.
func (l *Listing) lastEnd(s string) int {
	for i := len(s); ; {
		i = strings.LastIndexByte(s[:i], '\n')
		if i < 0 || l.lf || i > 0 && s[i-1] == '\r' {
			return i + 1
		}
	}
}

// endOctets counts the octets of the line ends in s.
func (l *Listing) endOctets(s string) int {
	crlf := strings.Count(s, "\r\n")
	if l.lf {
		return crlf + strings.Count(s, "\n")
	}
	return 2 * crlf
}

// hasLongRow looks for a row that is too long. Where all line ends are CRLF, the
// end of one is in as many octets as the longest row has, and in these the last
// one is the next to start from.
func (l *Listing) hasLongRow(rows string) bool {
	const longest = MaxRow + len("\r\n")
	for !l.lf && len(rows) > longest {
		n := l.lastEnd(rows[:longest])
		if n == 0 {
			return true
		}
		rows = rows[n:]
	}
	for l.lf && rows != "" {
		n, next := l.end(rows)
		if n > MaxRow {
			return true
		}
		rows = rows[next:]
	}
	return false
}

// Len is the number of rows, or a little more.
func (l *Listing) Len() int { return l.lines }

// Rows returns an iterator over the rows, without line ends. A row is plain if it
// is known to hold no control octet.
func (l *Listing) Rows() iter.Seq2[string, bool] {
	return func(yield func(row string, plain bool) bool) {
		for _, s := range l.blocks {
			for len(s) > 0 {
				n, next, plain := control(s), 0, true
				switch end := s[n:]; {
				case len(end) > 1 && end[0] == '\r' && end[1] == '\n':
					next = n + len("\r\n")
				case l.lf && len(end) > 0 && end[0] == '\n':
					next = n + len("\n")
				default:
					n, next = l.end(s)
					plain = false
				}
				if !yield(s[:n], plain) {
					return
				}
				s = s[next:]
			}
		}
	}
}

// end returns the length of the first row of s, which has a line end, and the
// place of the next.
func (l *Listing) end(s string) (n, next int) {
	for {
		next += strings.IndexByte(s[next:], '\n') + 1
		if next > 1 && s[next-2] == '\r' {
			return next - 2, next
		} else if l.lf {
			return next - 1, next
		}
	}
}
