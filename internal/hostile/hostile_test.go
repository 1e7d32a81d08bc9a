package hostile_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// A peer is a server that answers each line as the test says.
type peer struct {
	net.Conn

	mu    sync.Mutex
	lines []string
	done  chan struct{}
}

// received is every line that the client has written so far.
func (p *peer) received() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.lines)
}

// hangUp as a reply closes the connection.
const hangUp = "\x00"

// serve answers each line that comes over conn with what answer returns, octet
// for octet, until the client is gone.
func serve(t testing.TB, conn net.Conn, greeting string, answer func(line string) string) *peer {
	p := &peer{Conn: conn, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		defer conn.Close()
		if _, err := io.WriteString(conn, greeting); err != nil {
			return
		}
		r := bufio.NewReader(conn)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			line = strings.TrimSuffix(line, "\r\n")
			p.mu.Lock()
			p.lines = append(p.lines, line)
			p.mu.Unlock()
			reply := answer(line)
			if reply == hangUp {
				return
			}
			if _, err := io.WriteString(conn, reply); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		<-p.done
	})
	return p
}

// connect returns a client of a peer.
func connect(t testing.TB, opts *pop3.Options, answer func(line string) string) (*pop3.Client, *peer) {
	t.Helper()
	conn, far := pop3test.Pipe()
	p := serve(t, far, "+OK ready\r\n", answer)
	c, err := pop3.NewClient(t.Context(), conn, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, p
}

// replies answers by verb, with "+OK" where nothing is said.
func replies(m map[string]string) func(string) string {
	return func(line string) string {
		verb, _, _ := strings.Cut(line, " ")
		if reply, ok := m[verb]; ok {
			return reply
		}
		return "+OK\r\n"
	}
}

const pipelining = "+OK\r\nPIPELINING\r\n.\r\n"

// usable fails the test unless c can run a command.
func usable(t testing.TB, c *pop3.Client) {
	t.Helper()
	if err := c.Err(); err != nil {
		t.Errorf("Err: %v", err)
	}
	if err := c.Noop(context.Background()); err != nil {
		t.Errorf("Noop on a connection that should be usable: %v", err)
	}
}

// closed fails the test unless c is closed because of cause.
func closed(t testing.TB, c *pop3.Client, cause error) {
	t.Helper()
	if err := c.Err(); !errors.Is(err, cause) {
		t.Errorf("Err is %v, want %v", err, cause)
	}
	if err := c.Noop(context.Background()); !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, cause) {
		t.Errorf("Noop on a closed connection: %v, want ErrClosed and %v", err, cause)
	}
}

// mail is the sample maildrop, less messages of more than limit octets.
func mail(t testing.TB, limit int) (texts []string) {
	t.Helper()
	names, err := filepath.Glob("../../testdata/mail/*.eml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no sample maildrop: %v", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) <= limit {
			texts = append(texts, string(text))
		}
	}
	return texts
}

// delivered is a message as RETR must deliver it: a response ends with CRLF
// unless it is empty.
func delivered(text string) string {
	if text != "" && !strings.HasSuffix(text, "\r\n") {
		text += "\r\n"
	}
	return text
}

// stuff is the text of a message as it goes over the wire, by the letter of
// RFC 1939 section 3.
func stuff(text string) string {
	if strings.HasPrefix(text, ".") {
		text = "." + text
	}
	return strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n"
}

// numbers is 1 to n.
func numbers(n int) []int {
	list := make([]int, n)
	for i := range list {
		list[i] = i + 1
	}
	return list
}

// patience is for what takes no time unless it hangs.
const patience = time.Minute
