package hostile_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"example.com/pop3"
)

// fetch gets a maildrop from a tape with pieces of the given sizes, and fails
// the test unless each message is what it is.
func fetch(t *testing.T, texts []string, opts *pop3.Options, size func(read int) int, buffer int) bool {
	t.Helper()
	number := 0
	conn := &tape{size: size, pending: []byte("+OK\r\n"), answer: func(line string) string {
		if line == "CAPA" {
			return pipelining
		}
		number++
		return fmt.Sprintf("+OK %d octets\r\n%s", len(texts[number-1]), stuff(texts[number-1]))
	}}
	c, err := pop3.NewClient(t.Context(), conn, opts)
	if err != nil {
		t.Error(err)
		return false
	}
	got := 0
	for m, err := range c.RetrAll(t.Context(), numbers(len(texts))) {
		var b bytes.Buffer
		if err == nil {
			if buffer > 0 {
				_, err = io.CopyBuffer(&b, struct{ io.Reader }{m}, make([]byte, buffer))
			} else {
				_, err = m.WriteTo(struct{ io.Writer }{&b})
			}
		}
		if err != nil || b.String() != texts[got] || m.Size != int64(len(texts[got])) {
			t.Errorf("message %d: %.300q, %v, want %.300q", got+1, b.String(), err, texts[got])
			return false
		}
		got++
	}
	if got != len(texts) {
		t.Errorf("%d messages, want %d", got, len(texts))
	}
	return got == len(texts)
}

// However a maildrop is cut into segments, it is the same maildrop.
func TestEverySplit(t *testing.T) {
	t.Parallel()
	var sample []string
	for _, text := range mail(t, 1<<20) {
		sample = append(sample, delivered(text))
	}
	for _, window := range []int{0, 1} {
		opts := &pop3.Options{Window: window}
		// One octet a segment, all sizes alike, and sizes at random.
		for _, n := range []int{1, 2, 3, 7, 1000, 1 << 20} {
			if !fetch(t, sample, opts, func(int) int { return n }, 0) || !fetch(t, awkward, opts, func(int) int { return n }, n) {
				t.Fatalf("in segments of %d octets", n)
			}
		}
		for seed := range uint64(20) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			size := func(int) int { return 1 + rnd.IntN(1<<rnd.IntN(15)) }
			if !fetch(t, sample, opts, size, 1+rnd.IntN(5000)) || !fetch(t, awkward, opts, size, 0) {
				t.Fatalf("seed %d", seed)
			}
		}
		// Every single split: so many octets, and then the rest.
		total := 0
		fetch(t, awkward, opts, func(int) int { total++; return 1 }, 0)
		for at := range total {
			size := func(read int) int {
				if read < at {
					return at - read
				}
				return 1 << 20
			}
			if !fetch(t, awkward, opts, size, 0) {
				t.Fatalf("split at %d", at)
			}
		}
	}
}

// A line of dots, lone or not, at every place around the end of the read buffer.
func TestDotsAroundTheBuffer(t *testing.T) {
	t.Parallel()
	const buffer = 64<<10 + 64
	for _, tail := range []string{"\r\n.", "\r\n..", "\r\n.\r", "\r\n.\n", "\n.\r\n", "\r\r\n.\r\n", "\r\n.\r\n"} {
		for off := range 24 {
			text := strings.Repeat("x", buffer-16+off) + tail + strings.Repeat("y", 40) + "\r\n"
			if !fetch(t, []string{text, "second\r\n"}, nil, nil, 0) {
				t.Fatalf("%q at %d", tail, off)
			}
		}
	}
}
