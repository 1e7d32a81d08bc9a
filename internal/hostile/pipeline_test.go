package hostile_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// body is the text of a message of about so many octets, told from any other.
func body(number, size int) string {
	line := fmt.Sprintf("message %d ..................................................\r\n", number)
	return strings.Repeat(line, size/len(line)) + fmt.Sprintf("%d\r\n", number)
}

// maildrops are such that a window that was right becomes wrong.
var maildrops = []struct {
	name  string
	count int
	size  func(number int) int
}{
	{"tiny", 4000, func(int) int { return 0 }},
	{"of 20 KiB", 20, func(int) int { return 20 << 10 }},
	{"tiny, then of 20 KiB", 610, func(n int) int { return n / 600 * 20 << 10 }},
	{"tiny and of 40 KiB", 500, func(n int) int { return n % 100 / 99 * 40 << 10 }},
	{"of 40 KiB, then tiny", 600, func(n int) int { return 40 << 10 / (n * n) }},
}

func answerSizes(line string, size func(int) int) string {
	var n int
	if _, err := fmt.Sscanf(line, "RETR %d", &n); err == nil {
		return "+OK\r\n" + body(n, size(n)) + ".\r\n"
	}
	return wellBehaved(strings.TrimSpace(line))
}

// A single-minded server reads one command, and nothing more until the client has taken
// its reply. So do most of them: Dovecot, Courier, Cyrus.
func singleMinded(conn net.Conn, size func(int) int) {
	defer conn.Close()
	io.WriteString(conn, greeting)
	var line []byte
	octet := make([]byte, 1) // and reads no octet that it does not need
	for {
		if _, err := conn.Read(octet); err != nil {
			return
		}
		if line = append(line, octet[0]); octet[0] == '\n' {
			if _, err := io.WriteString(conn, answerSizes(string(line), size)); err != nil {
				return
			}
			line = line[:0]
		}
	}
}

// A greedy server reads all that it can get before it answers any of it: it has waited for
// a second in vain.
func greedy(conn net.Conn, size func(int) int) {
	defer conn.Close()
	io.WriteString(conn, greeting)
	b := make([]byte, 64<<10)
	for {
		conn.SetReadDeadline(time.Time{})
		n, err := conn.Read(b)
		got := append([]byte(nil), b[:n]...)
		for err == nil {
			conn.SetReadDeadline(time.Now().Add(time.Second))
			n, err = conn.Read(b)
			got = append(got, b[:n]...)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		for line := range strings.Lines(string(got)) {
			if _, err := io.WriteString(conn, answerSizes(line, size)); err != nil {
				return
			}
		}
	}
}

// fetchSizes runs a loop against one of these servers, in the order of its listings.
func fetchSizes(t *testing.T, conn net.Conn, window, count int, size func(int) int) {
	t.Helper()
	c := client(t, conn, &pop3.Options{Window: window, Timeout: 20 * time.Second})
	if list, err := c.Messages(t.Context()); len(list) != 2 || err != nil {
		t.Fatalf("Messages: %v, %v", list, err)
	}
	n := 0
	var b bytes.Buffer
	for m, err := range c.RetrAll(t.Context(), pop3test.Numbers(count)) {
		n++
		b.Reset()
		if err == nil {
			_, err = m.WriteTo(&b)
		}
		if err != nil || b.String() != body(n, size(n)) {
			t.Fatalf("message %d: %d octets, %v", n, b.Len(), err)
		}
	}
	if n != count {
		t.Fatalf("%d messages, not %d", n, count)
	}
	usable(t, c)
}

// TestNoDeadlock: neither side ever waits for the other for good, whatever the window, if
// only the transport takes 16 KiB of commands unread. (MailKit wrote all its commands
// before it read a reply.)
func TestNoDeadlock(t *testing.T) {
	t.Parallel()
	for server, serve := range map[string]func(net.Conn, func(int) int){"single-minded": singleMinded, "greedy": greedy} {
		for _, window := range []int{0, 1, 2, 3000, math.MaxInt} {
			for _, d := range maildrops {
				if 0 < window && window < 3000 && d.count > 500 {
					continue // as good as none
				}
				t.Run(fmt.Sprintf("%s server, %s, window %d", server, d.name, window), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						near, far := pop3test.PipeSize(16 << 10)
						go serve(far, d.size)
						fetchSizes(t, near, window, d.count, d.size)
					})
				})
			}
		}
	}
}

// And over sockets that send with the smallest buffers that the system gives. Those that
// receive have the 16 KiB: with less, Linux drops what does not fit, and the
// acknowledgements with it, and everything takes minutes.
func TestNoDeadlockSmallestBuffers(t *testing.T) {
	t.Parallel()
	for _, d := range maildrops {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l, err := pop3test.Listen()
			if err != nil {
				t.Skip(err)
			}
			small := func(conn net.Conn, err error) net.Conn {
				if err != nil {
					return nil
				}
				conn.(*net.TCPConn).SetReadBuffer(16 << 10)
				conn.(*net.TCPConn).SetWriteBuffer(1)
				return conn
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				if conn := small(l.Accept()); conn != nil {
					singleMinded(conn, d.size)
				}
			})
			conn := small(net.Dial("tcp", l.Addr().String()))
			defer wg.Wait()
			defer l.Close() // ends Accept if nothing was dialed
			if conn == nil {
				t.Skip("no connection to this machine")
			}
			defer conn.Close()
			fetchSizes(t, conn, 0, d.count, d.size)
		})
	}
}

// A net.Pipe holds nothing, and works without being told, below TLS too. Its server reads
// nothing while it answers.
func TestNetPipe(t *testing.T) {
	pop3test.NeedRandom(t)
	t.Parallel()
	for _, secure := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			if secure {
				near, far = tls.Client(near, pop3test.ScriptTLS()), tls.Server(far, pop3test.ServerTLS())
			}
			go singleMinded(far, func(int) int { return 1000 })
			fetchSizes(t, near, 0, 20, func(int) int { return 1000 })
		})
	}
}

// Four clients at once, whose connections break at all times: no message ever has an octet
// of another's, and what is kept of an old one gives an error.
func TestBuffersNeverCross(t *testing.T) {
	t.Parallel()
	for _, letter := range []string{"a", "b", "c", "d"} {
		t.Run(letter, func(t *testing.T) {
			t.Parallel()
			text := strings.Repeat(strings.Repeat(letter, 70)+"\r\n", 200)
			for i := range 60 {
				c, p := connect(t, nil, pop3test.Replies{"RETR": "+OK\r\n" + text + ".\r\n", "CAPA": pop3test.Pipelining}.Answer)
				var stale []*pop3.Message
				for m, err := range c.RetrAll(t.Context(), pop3test.Numbers(5)) {
					if err != nil {
						if m != nil || c.Err() == nil {
							t.Error(err)
						}
						break
					}
					if stale = append(stale, m); len(stale) == 1+i%4 && i%3 == 0 {
						go c.Close() // the buffer stays the reader's until it knows
					}
					if _, err := m.WriteTo(pop3test.WriterFunc(func(p []byte) (int, error) {
						if other := bytes.Trim(p, letter+"\r\n"); len(other) > 0 {
							t.Errorf("an octet of another: %q", other)
						}
						return min(len(p), 97), nil
					})); err == nil {
						t.Error("a Writer that takes no more has taken all")
					}
					switch {
					case len(stale) < 1+i%4:
					case i%3 == 1:
						c.Close()
					case i%3 == 2:
						p.Stop()
					}
				}
				for _, m := range stale {
					n, err := m.Read(make([]byte, 9))
					if n2, err2 := m.WriteTo(io.Discard); n != 0 || err == nil || n2 != 0 || err2 == nil {
						t.Errorf("a message of old gives %d octets, %v, and %d, %v", n, err, n2, err2)
					}
				}
				c.Close()
			}
		})
	}
}

// A context that is done when the call is over concerns nobody, however late that is
// noticed: the next exchange has another.
func TestLateCancel(t *testing.T) {
	t.Parallel()
	cancel := func() {}
	tape := pop3test.NewTape(greeting, wellBehaved)
	conn := &pop3test.Conn{Conn: tape, ReadFunc: func(p []byte) (int, error) { yield(20); return tape.Read(p) }}
	c := client(t, conn, &pop3.Options{Trace: &pop3.Trace{CommandDone: func(context.Context, pop3.CommandInfo) { cancel() }}})
	for _, call := range []func(context.Context, *pop3.Client) error{noop, retr, listAll, capa} {
		var ctx context.Context
		ctx, cancel = context.WithCancel(t.Context())
		err := call(ctx, c)
		if usable(t, c); err != nil {
			t.Error(err)
		}
		cancel()
	}
}
