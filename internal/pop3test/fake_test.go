package pop3test

import (
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// It is not parallel, for it counts allocations.
func TestTape(t *testing.T) {
	tape := NewTape("+OK\r\n", func(line string) string { return "<" + line + ">" })
	tape.Size = func(read int) int { return 5 - read%2*2 } // 5, then 3 and 3
	io.WriteString(tape, "ON")
	io.WriteString(tape, "E\r\nTWO\r\nTHR")
	var pieces []string
	for b := make([]byte, 9); ; {
		n, err := tape.Read(b)
		if err != nil {
			pieces = append(pieces, err.Error())
			break
		}
		pieces = append(pieces, string(b[:n]))
	}
	if want := []string{"+OK\r\n", "<ON", "E><TW", "O>", "EOF"}; !slices.Equal(pieces, want) {
		t.Errorf("read %q, want %q", pieces, want)
	}
	tape.Close()
	if _, err := tape.Write(nil); !tape.Closed() || !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed Tape: Closed %t, Write %v", tape.Closed(), err)
	}

	tape = &Tape{Replies: Replies{"NOOP": "+OK bye" + HangUp, "": "-ERR\r\n"}}
	command, b := []byte("STAT\r\n"), make([]byte, 9)
	if n := testing.AllocsPerRun(100, func() {
		tape.Write(command)
		tape.Read(b)
	}); n > 0 {
		t.Errorf("%.0f allocations for a command", n)
	}
	io.WriteString(tape, "NOOP\r\nSTAT\r\n")
	if got, err := io.ReadAll(tape); err != nil || string(got) != "+OK bye" {
		t.Errorf("before it hung up the Tape said %q, %v", got, err)
	}
}

func TestPeer(t *testing.T) {
	t.Parallel()
	near, far := Pipe()
	conn := &Conn{Conn: near}
	p := NewPeer(far, "+OK\r\n", Replies{"QUIT": "+OK bye" + HangUp}.Answer)
	io.WriteString(conn, "NOOP 1\r\nQUIT\r\n")
	if got, err := io.ReadAll(conn); err != nil || string(got) != "+OK\r\n+OK\r\n+OK bye" {
		t.Errorf("read %q, %v", got, err)
	}
	p.Wait()
	if got := p.Lines(); !slices.Equal(got, []string{"NOOP 1", "QUIT"}) {
		t.Errorf("Lines = %q", got)
	}
	if got := conn.Sent() + conn.Sent(); got != "NOOP 1\r\nQUIT\r\n" {
		t.Errorf("Sent = %q", got)
	}

	near, far = Pipe()
	p = NewPeer(far, "", nil)
	p.Stop()
	if _, err := near.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("behind Stop: Read %v, want io.EOF", err)
	}
}

func TestAuthority(t *testing.T) {
	t.Parallel()
	a := NewAuthority("of a test")
	leaf := a.Issue(&x509.Certificate{DNSNames: []string{"example.com"}}).Leaf
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: a.Pool(), DNSName: "example.com"}); err != nil {
		t.Error(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: NewAuthority("of a test").Pool()}); err == nil {
		t.Error("another authority vouches for it")
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(AuthorityPEM())
	if _, err := serverCertificate().Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "localhost"}); err != nil {
		t.Errorf("AuthorityPEM: %v", err)
	}
}

func TestMadeUpSASL(t *testing.T) {
	t.Parallel()
	s := &SASL{Responses: []string{"one"}}
	first, err := s.Next([]byte("a"))
	if _, end := s.Next([]byte("b")); string(first) != "one" || err != nil || end == nil || strings.Join(s.Challenges, "") != "ab" {
		t.Errorf("got %q, %v, then %v; challenges %q", first, err, end, s.Challenges)
	}
}
