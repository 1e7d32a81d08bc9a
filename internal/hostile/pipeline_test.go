package hostile_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
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

// A single-minded server reads one command, and nothing more until the client
// has taken its reply. So do most of them: Dovecot, Courier, Cyrus.
func singleMinded(conn net.Conn, size func(int) int) {
	defer conn.Close()
	io.WriteString(conn, "+OK\r\n")
	var line []byte
	octet := make([]byte, 1) // and reads no octet that it does not need
	for {
		if _, err := conn.Read(octet); err != nil {
			return
		}
		if line = append(line, octet[0]); octet[0] != '\n' {
			continue
		}
		reply := "+OK\r\n"
		if string(line) == "CAPA\r\n" {
			reply = pipelining
		}
		var n int
		if _, err := fmt.Sscanf(string(line), "RETR %d\r\n", &n); err == nil {
			reply = "+OK\r\n" + body(n, size(n)) + ".\r\n"
		}
		if _, err := io.WriteString(conn, reply); err != nil {
			return
		}
		line = line[:0]
	}
}

// A greedy server reads all that it can get before it answers any of it: it has
// waited for a second in vain.
func greedy(conn net.Conn, size func(int) int) {
	defer conn.Close()
	io.WriteString(conn, "+OK\r\n")
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
			reply := "+OK\r\n"
			if line == "CAPA\r\n" {
				reply = pipelining
			}
			var n int
			if _, err := fmt.Sscanf(line, "RETR %d\r\n", &n); err == nil {
				reply = "+OK\r\n" + body(n, size(n)) + ".\r\n"
			}
			if _, err := io.WriteString(conn, reply); err != nil {
				return
			}
		}
	}
}

// fetchSizes runs a loop against one of these servers.
func fetchSizes(t *testing.T, conn net.Conn, window, count int, size func(int) int) {
	t.Helper()
	c, err := pop3.NewClient(t.Context(), conn, &pop3.Options{Window: window, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	n := 0
	var b bytes.Buffer
	for m, err := range c.RetrAll(t.Context(), numbers(count)) {
		n++
		b.Reset()
		if err == nil {
			_, err = m.WriteTo(&b)
		}
		if err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		if b.String() != body(n, size(n)) {
			t.Fatalf("message %d has %d octets, and not its own", n, b.Len())
		}
	}
	if n != count {
		t.Fatalf("%d messages, not %d", n, count)
	}
	usable(t, c)
}

// TestNoDeadlock: neither side ever waits for the other for good, whatever the
// window, if only the transport takes 16 KiB of commands unread. (MailKit wrote
// all its commands before it read a reply.)
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

// And over sockets that send with the smallest buffers that the system gives.
// Those that receive have the 16 KiB: with less, Linux drops what does not fit,
// and the acknowledgements with it, and everything takes minutes.
func TestNoDeadlockSmallestBuffers(t *testing.T) {
	t.Parallel()
	for _, d := range maildrops {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Skip(err)
			}
			defer l.Close()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				conn.(*net.TCPConn).SetReadBuffer(16 << 10)
				conn.(*net.TCPConn).SetWriteBuffer(1)
				singleMinded(conn, d.size)
			})
			conn, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn.(*net.TCPConn).SetReadBuffer(16 << 10)
			conn.(*net.TCPConn).SetWriteBuffer(1)
			fetchSizes(t, conn, 0, d.count, d.size)
		})
	}
}

// Two clients at once, whose connections break at all times: no message ever has
// an octet of another's, and what is kept of an old one gives an error.
func TestBuffersNeverCross(t *testing.T) {
	t.Parallel()
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			letter := string(rune('a' + g))
			text := strings.Repeat(strings.Repeat(letter, 70)+"\r\n", 200)
			var stale []*pop3.Message
			buf := make([]byte, 900)
			pure := func(n int) bool {
				for _, b := range buf[:n] {
					if b != letter[0] && b != '\r' && b != '\n' {
						return false
					}
				}
				return true
			}
			for i := range 60 {
				near, far := pop3test.Pipe()
				p := serve(t, far, "+OK\r\n", replies(map[string]string{"RETR": "+OK\r\n" + text + ".\r\n", "CAPA": pipelining}))
				c, err := pop3.NewClient(t.Context(), near, nil)
				if err != nil {
					t.Error(err)
					return
				}
				steps := 0
				for m, err := range c.RetrAll(t.Context(), numbers(5)) {
					if err != nil {
						if m != nil || c.Err() == nil {
							t.Error(err)
						}
						break
					}
					stale = append(stale, m)
					n, _ := m.Read(buf)
					if !pure(n) {
						t.Errorf("an octet of another: %q", buf[:n])
					}
					if steps++; steps == 1+i%4 {
						switch i % 3 {
						case 0:
							go c.Close()
						case 1:
							c.Close()
						case 2:
							far.Close()
						}
					}
				}
				for _, m := range stale {
					if n, err := m.Read(buf); n != 0 || err == nil {
						t.Errorf("a message of old gives %d octets, %v", n, err)
					}
					if n, err := m.WriteTo(io.Discard); n != 0 || err == nil {
						t.Errorf("a message of old gives %d octets, %v", n, err)
					}
					m.Close()
				}
				stale = stale[:0]
				c.Close()
				<-p.done
			}
		})
	}
	wg.Wait()
}

// Close while another goroutine reads: the reader gets its own octets or an error,
// and the buffer stays its own until it knows.
func TestCloseMidRead(t *testing.T) {
	t.Parallel()
	for range 50 {
		near, far := pop3test.Pipe()
		go func() {
			r := bufio.NewReader(far)
			io.WriteString(far, "+OK\r\n")
			r.ReadString('\n')
			flood{"+OK\r\n", "aaaaaaaa\r\n", -1, ""}.pour(far)
			far.Close()
		}()
		c, err := pop3.NewClient(t.Context(), near, nil)
		if err != nil {
			t.Fatal(err)
		}
		m, err := c.Retr(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		started := make(chan bool)
		var wg sync.WaitGroup
		wg.Go(func() {
			once := sync.OnceFunc(func() { close(started) })
			_, err := m.WriteTo(writerFunc(func(p []byte) (int, error) {
				once()
				if i := bytes.IndexFunc(p, func(r rune) bool { return r != 'a' && r != '\r' && r != '\n' }); i >= 0 {
					t.Errorf("an octet of another: %q", p[i])
				}
				return len(p), nil
			}))
			if !errors.Is(err, pop3.ErrClosed) {
				t.Errorf("WriteTo: %v", err)
			}
		})
		wg.Go(func() { // takes the pooled buffers as soon as they are free
			fetch(t, []string{"bbbbbbbb\r\n", "bb\r\n"}, nil, nil, 0)
		})
		<-started
		c.Close()
		wg.Wait()
	}
}

// A context that is done when the call is over concerns nobody: the next exchange
// has another.
func TestLateCancel(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, replies(map[string]string{"RETR": "+OK\r\ntext\r\n.\r\n", "CAPA": pipelining}))
	for i := range 400 {
		ctx, cancel := context.WithCancel(t.Context())
		var err error
		switch i % 3 {
		case 0:
			err = c.Noop(ctx)
		case 1:
			err = retr(ctx, c)
		case 2:
			err = last(c.RetrAll(ctx, numbers(3)))
		}
		if err != nil {
			t.Fatal(err)
		}
		go cancel()
		if err := c.Noop(t.Context()); err != nil {
			t.Fatalf("a cancel of old reached the next exchange: %v", err)
		}
	}
	usable(t, c)
}

// A cancel that meets the end of a call lets it succeed or fail, and the client
// and the call agree which.
func TestCancelAtTheEnd(t *testing.T) {
	t.Parallel()
	for range 300 {
		c, p := connect(t, nil, replies(nil))
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			runtime.Gosched()
			cancel()
		}()
		switch err := c.Noop(ctx); {
		case err == nil:
			if err := c.Err(); err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("Err: %v", err)
			}
		case !errors.Is(err, context.Canceled):
			t.Errorf("Noop: %v", err)
		case c.Err() == nil:
			if len(p.received()) > 0 {
				t.Error("a command was sent and its reply is owed")
			}
			usable(t, c)
		}
		c.Close()
	}
}

// What is thrown away takes at most one timeout, however steadily it comes.
func TestDrainIsBounded(t *testing.T) {
	t.Parallel()
	for name, leave := range map[string]func(ctx context.Context, c *pop3.Client){
		"Message.Close": func(ctx context.Context, c *pop3.Client) {
			if m, err := c.Retr(ctx, 1); err == nil {
				m.Close()
			}
		},
		"break": func(ctx context.Context, c *pop3.Client) {
			for range c.RetrAll(ctx, numbers(30)) {
				break
			}
		},
		"the next step": func(ctx context.Context, c *pop3.Client) { last(c.RetrAll(ctx, numbers(30))) },
	} {
		for _, drip := range []string{"x\r\n", "x", ".\r\n+OK\r\n", "..\r\n"} {
			t.Run(fmt.Sprintf("%s, %q", name, drip), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					near, far := pop3test.Pipe()
					var wg sync.WaitGroup
					defer wg.Wait()
					wg.Go(func() {
						defer far.Close()
						io.WriteString(far, "+OK\r\n")
						b := make([]byte, 100)
						far.Read(b)
						if string(b[:4]) == "CAPA" {
							io.WriteString(far, pipelining)
							far.Read(b)
						}
						io.WriteString(far, "+OK\r\n")
						for {
							if _, err := io.WriteString(far, drip); err != nil {
								return
							}
							time.Sleep(time.Second)
						}
					})
					c, err := pop3.NewClient(t.Context(), near, &pop3.Options{Timeout: timeout})
					if err != nil {
						t.Fatal(err)
					}
					start := time.Now()
					leave(t.Context(), c)
					// A drip of whole messages is a loop that goes on, and ends.
					whole := strings.HasPrefix(drip, ".\r\n")
					if took := time.Since(start); took > timeout+time.Second {
						t.Errorf("took %v", took)
					}
					if !whole {
						if kindOf(c.Err()) != "timeout" {
							t.Errorf("Err: %v", c.Err())
						}
						closed(t, c, os.ErrDeadlineExceeded)
					}
					c.Close()
				})
			})
		}
	}
}
