package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// Rows reads the rows of a multi-line response that is a listing.
type Rows struct {
	R     *bufio.Reader
	LF    bool // as in DotReader
	Limit int  // octets of all rows

	Octets, Count int // so far

	buf []byte // R's buffered octets
	pos int    // those used up
}

// Next returns the next row without its line end, valid until the next call, or
// [io.EOF] behind the last.
func (l *Rows) Next() ([]byte, error) {
	var row []byte
	for seen := l.pos; ; {
		i := bytes.IndexByte(l.buf[seen:], '\n')
		if i < 0 {
			rest := l.buf[l.pos:]
			if tooLong(rest, MaxRow) {
				return nil, tooLarge("row", MaxRow)
			}
			l.R.Discard(l.pos)
			if _, err := l.R.Peek(len(rest) + 1); err != nil {
				return nil, unexpected(err)
			}
			l.buf, _ = l.R.Peek(l.R.Buffered())
			l.pos, seen = 0, len(rest)
			continue
		}
		seen += i + 1
		row = l.buf[l.pos : seen-1]
		if n := len(row); n > 0 && row[n-1] == '\r' {
			row = row[:n-1]
		} else if !l.LF {
			continue
		}
		l.pos = seen
		break
	}
	if len(row) > MaxRow {
		return nil, tooLarge("row", MaxRow)
	}
	if len(row) > 0 && row[0] == '.' {
		if len(row) == 1 {
			l.R.Discard(l.pos)
			l.buf, l.pos = nil, 0
			return nil, io.EOF
		}
		if row[1] == '.' {
			row = row[1:]
		}
	}
	l.Octets += len(row)
	l.Count++
	if l.Octets > l.Limit {
		return nil, tooLarge("listing", l.Limit)
	}
	if l.Count > MaxRows {
		return nil, fmt.Errorf("%w: listing of more than %d rows", ErrTooLarge, MaxRows)
	}
	return row, nil
}

// A Listing holds the rows of a LIST or UIDL answer in few octets until they
// have been counted, so that the slice of results is made once.
type Listing struct {
	rows   int
	last   int      // the number of the newest row
	packed []byte   // a row: its number less the one before, and a value
	text   []byte   // unique-ids that are in no block yet
	blocks []string // unique-ids, end to end; a row's value is the length of its own
}

// textBlock is the size of a string that unique-ids share: large enough to make
// them cheap, small enough to be held on to for the sake of one.
const textBlock = 16 << 10

// Add adds a row.
func (l *Listing) Add(number int, value int64) {
	if len(l.packed)+2*binary.MaxVarintLen64 > cap(l.packed) {
		l.packed = slices.Grow(l.packed, max(len(l.packed), 256)) // append alone grows by less
	}
	delta := int64(number - l.last)
	if delta == 1 && value >= 0 && value < 64 { // as below, and as nearly always
		l.packed = append(l.packed, nextRow, byte(value)<<1)
	} else {
		l.packed = binary.AppendVarint(l.packed, delta)
		l.packed = binary.AppendVarint(l.packed, value)
	}
	l.last = number
	l.rows++
}

// nextRow is how binary.AppendVarint writes a difference of 1.
const nextRow = 2

// AddUID adds a row with a unique-id.
func (l *Listing) AddUID(number int, uid []byte) {
	l.Add(number, int64(len(uid)))
	if len(l.text)+len(uid) > textBlock {
		l.seal()
	}
	l.text = append(l.text, uid...)
}

func (l *Listing) seal() {
	if len(l.text) > 0 {
		l.blocks = append(l.blocks, string(l.text))
		l.text = l.text[:0]
	}
}

// Len is the number of rows.
func (l *Listing) Len() int { return l.rows }

// Each calls f for each row with its place.
func (l *Listing) Each(f func(i, number int, value int64)) {
	number, p := 0, l.packed
	for i := range l.rows {
		if p[0] == nextRow && p[1] < 0x80 {
			number++
			f(i, number, int64(p[1]>>1)^-int64(p[1]&1))
			p = p[2:]
			continue
		}
		delta, n := binary.Varint(p)
		value, m := binary.Varint(p[n:])
		p = p[n+m:]
		number += int(delta)
		f(i, number, value)
	}
}

// EachUID calls f for each row with its place. The unique-ids share memory.
func (l *Listing) EachUID(f func(i, number int, uid string)) {
	l.seal()
	l.text = nil
	var block string
	blocks := l.blocks
	l.Each(func(i, number int, n int64) {
		if len(block) == 0 {
			block, blocks = blocks[0], blocks[1:]
		}
		f(i, number, block[:n])
		block = block[n:]
	})
}
