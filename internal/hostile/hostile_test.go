package hostile_test

import (
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// timeout is Options.Timeout.
const timeout = time.Minute

// connect returns a client of a peer.
func connect(t testing.TB, opts *pop3.Options, answer func(line string) string) (*pop3.Client, *pop3test.Peer) {
	t.Helper()
	near, far := pop3test.Pipe()
	p := pop3test.NewPeer(far, "+OK <1.2@peer>\r\n", answer)
	t.Cleanup(p.Stop)
	return client(t, near, opts), p
}

// client returns a client over conn.
func client(t testing.TB, conn net.Conn, opts *pop3.Options) *pop3.Client {
	t.Helper()
	c, err := pop3.NewClient(t.Context(), conn, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// wellBehaved answers every command as a server should that has two messages.
func wellBehaved(line string) string {
	switch verb, arg, _ := strings.Cut(line, " "); verb {
	case "CAPA":
		return pop3test.Pipelining
	case "STAT":
		return "+OK 2 12\r\n"
	case "LIST", "UIDL":
		if arg == "" {
			return "+OK\r\n1 6\r\n2 6\r\n.\r\n"
		}
		return "+OK " + arg + " 6\r\n"
	case "LANG":
		if arg == "" {
			return "+OK\r\nen English\r\n.\r\n"
		}
		return "+OK " + arg + "\r\n"
	case "RETR", "TOP":
		return "+OK 6 octets\r\ntext\r\n.\r\n"
	case "AUTH":
		return "-ERR\r\n"
	}
	return "+OK\r\n"
}

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

// A whim is a cause that is found by errors.As too.
type whim struct{ text string }

func (w *whim) Error() string { return w.text }

// closed fails the test unless c is closed because of cause.
func closed(t testing.TB, c *pop3.Client, cause error) {
	t.Helper()
	first := c.Err()
	if first == nil || !errors.Is(first, cause) {
		t.Errorf("Err is %v, want %v", first, cause)
	}
	for _, err := range []error{c.Noop(context.Background()), c.Quit(context.Background())} {
		if !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, net.ErrClosed) || !errors.Is(err, cause) || !errors.Is(err, first) {
			t.Errorf("on a closed connection: %v, want ErrClosed and %v", err, cause)
		}
		if w := new(whim); errors.As(cause, &w) && !errors.As(err, &w) {
			t.Errorf("errors.As does not find the cause in %v", err)
		}
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close of a closed connection: %v", err)
	}
	if err := c.Err(); err != first {
		t.Errorf("Err changed from %v to %v", first, err)
	}
}

// lost is the kind of an error about a connection that the server has closed.
const lost = "unexpected EOF"

// kindOf sorts errors by what a caller can do about them.
func kindOf(err error) string {
	var e *pop3.Error
	var timeout net.Error
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, pop3.ErrMalformed):
		return "malformed"
	case errors.Is(err, pop3.ErrTooLarge):
		return "too large"
	case errors.Is(err, io.ErrUnexpectedEOF) && errors.As(err, &e):
		return lost
	case errors.As(err, &timeout) && timeout.Timeout() && errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, pop3.ErrRefused) && errors.As(err, &e):
		return "refused"
	case errors.Is(err, pop3.ErrClosed):
		return "closed"
	}
	return "other"
}

// last runs a loop to its end and returns its last error.
func last(loop iter.Seq2[*pop3.Message, error]) (err error) {
	for _, e := range loop {
		err = e
	}
	return err
}

// retr retrieves message 1.
func retr(ctx context.Context, c *pop3.Client) error {
	m, err := c.Retr(ctx, 1)
	if err == nil {
		_, err = m.WriteTo(io.Discard)
	}
	return err
}

// awkward is a maildrop of a few hundred octets with all that is hard about mail: dots,
// lone CR and LF, NUL, 8-bit octets, nothing at all.
var awkward = []string{
	"Subject: dots\r\n\r\n.\r\n..\r\n...a\r\n.b\r\n",
	"",
	"lone \r\n \n and \n.\n and \n.\r and \r\r\n.\r\n\r.\n\r\n",
	"\x00\xff\x80 8-bit\r\n\r\n\r\n",
	"\r\n",
	".\r\n",
	"+O\r\n.\n+OK 3 4\n-ERR\n.\r\n+OK\r\n",
	"x\r\r\n\r\r\n.\r\r\n",
}

// stuff is the text of a message as it goes over the wire, by the letter of RFC 1939
// section 3.
func stuff(text string) string {
	if strings.HasPrefix(text, ".") {
		text = "." + text
	}
	return strings.ReplaceAll(text, "\r\n.", "\r\n..") + ".\r\n"
}
