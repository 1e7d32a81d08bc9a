package hostile_test

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// TLS's goodbye in the middle of a message, which whoever sits in between cannot make but a
// server can, does not make it whole.
func TestTruncatedUnderTLS(t *testing.T) {
	t.Parallel()
	near, far := pop3test.Pipe()
	p := pop3test.NewPeer(tls.Server(far, pop3test.ServerTLS()), greeting, func(string) string { return "+OK\r\nhalf a message\r\n" + pop3test.HangUp })
	defer p.Stop()
	c := client(t, tls.Client(near, pop3test.ScriptTLS()), nil)
	if err := retr(t.Context(), c); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	closed(t, c, io.ErrUnexpectedEOF)
}

// What lies behind the +OK to STLS, seen in time or not, is not taken for a reply under TLS
// (CVE-2026-41319), and nothing is sent in the clear behind it.
func TestInjectedBehindSTLS(t *testing.T) {
	t.Parallel()
	for _, injected := range []string{"+OK injected\r\n", "-ERR no\r\n", "\r\n", "\x15", "\x16\x03\x01\x00\x01"} {
		replies := pop3test.Replies{"CAPA": "+OK\r\nSTLS\r\n.\r\n", "STLS": "+OK\r\n" + injected}
		for at := range len(greeting+replies["CAPA"]+replies["STLS"]) + 1 {
			tape := pop3test.NewTape(greeting, replies.Answer)
			tape.Size = splitAt(at)
			conn := &pop3test.Conn{Conn: tape}
			c, err := pop3.DialStartTLS(t.Context(), "mail.example", &pop3.Options{DialContext: pop3test.DialTo(conn)})
			if c != nil || err == nil || at == 0 && !errors.Is(err, pop3.ErrMalformed) || !conn.Closed() {
				t.Errorf("%q, split at %d: %v, closed %v", injected, at, err, conn.Closed())
			}
			if sent, _, _ := strings.Cut(conn.Sent(), "\x16"); sent != "CAPA\r\nSTLS\r\n" { // then a ClientHello
				t.Errorf("%q, split at %d: %q was sent", injected, at, sent)
			}
		}
	}
}

// The name in a certificate is the server's text too, and crypto/x509's error has it in
// clear before the certificate has been verified.
func TestServerTextInCertificate(t *testing.T) {
	t.Parallel()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	certificate := new(pop3test.Authority).IssueFor(&x509.Certificate{
		Subject: pkix.Name{CommonName: "a\nb\x1b"}, DNSNames: []string{"evil\nlevel=INFO msg=forged\x1b[2J"},
	}, key)
	near, far := pop3test.Pipe()
	defer near.Close()
	go tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate}}).Handshake()
	_, err = pop3.NewClient(t.Context(), tls.Client(near, &tls.Config{ServerName: "localhost"}), nil)
	var unknown x509.UnknownAuthorityError
	var hostname x509.HostnameError
	if !errors.As(err, &unknown) && !errors.As(err, &hostname) || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("the error is %q", err)
	}
}

// A peer that does not read QUIT's farewell under TLS keeps the call no longer than its
// context, Options.Timeout or Close allows, also over a net.Pipe. (crypto/tls waits for 5 s.)
func TestFarewellUnderTLS(t *testing.T) {
	pop3test.NeedRandom(t)
	t.Parallel()
	for by, want := range map[string]time.Duration{"Timeout": time.Second, "context": time.Second, "Close": time.Second, "context done": 0} {
		synctest.Test(t, func(t *testing.T) {
			near, far := net.Pipe()
			defer far.Close()
			go func() {
				conn := tls.Server(far, pop3test.ServerTLS())
				fmt.Fprint(conn, greeting)
				conn.Read(make([]byte, 100))
				fmt.Fprint(conn, "-ERR not all\r\n")
			}()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			opts := &pop3.Options{Timeout: time.Hour, Trace: new(pop3.Trace)}
			if by == "Timeout" {
				opts.Timeout = time.Second
			}
			c := client(t, tls.Client(near, pop3test.ScriptTLS()), opts)
			switch by {
			case "context":
				time.AfterFunc(time.Second, cancel)
			case "Close":
				time.AfterFunc(time.Second, func() { c.Close() })
			case "context done": // when the reply has been read
				opts.Trace.CommandDone = func(context.Context, pop3.CommandInfo) { cancel(); synctest.Wait() }
			}
			start := time.Now()
			if err := c.Quit(ctx); !errors.Is(err, pop3.ErrRefused) {
				t.Errorf("%s: Quit: %v", by, err)
			}
			if took := time.Since(start); took != want {
				t.Errorf("%s: Quit took %v, want %v", by, took, want)
			}
			closed(t, c, pop3.ErrClosed)
		})
	}
}
