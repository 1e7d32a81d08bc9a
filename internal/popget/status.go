package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"strings"

	"example.com/pop3"
)

// Exit statuses, those of BSD's sysexits.h.
const (
	usageWrong   = 64
	unavailable  = 69
	cannotWrite  = 73
	tryAgain     = 75
	badProtocol  = 76
	refusedLogin = 77
)

// A failure is an error with an exit status of its own.
type failure struct {
	status int
	err    error
}

func (e *failure) Error() string { return e.err.Error() }
func (e *failure) Unwrap() error { return e.err }

type usageError string

func (e usageError) Error() string { return string(e) + "; see popget -h" }

var errLocked = errors.New("locked")

// A loginError says why the login failed.
type loginError struct{ error }

func (e *loginError) Unwrap() error { return e.error }

// A handshakeError says why TLS failed. Not all errors of crypto/tls have a type
// of their own.
type handshakeError struct{ error }

func (e *handshakeError) Unwrap() error { return e.error }

// isLocal reports whether an error is about files.
func isLocal(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	return errors.As(err, &path) || errors.As(err, &link)
}

// as is errors.As, returning the error that it finds.
func as[E error](err error) (e E, ok bool) {
	ok = errors.As(err, &e)
	return e, ok
}

// exitStatus returns the exit status for an error.
func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	if e, ok := as[*failure](err); ok {
		return e.status
	}
	if _, ok := as[usageError](err); ok || errors.Is(err, pop3.ErrInsecureAuth) {
		return usageWrong // -plain
	}
	if isLocal(err) {
		return cannotWrite
	}
	if e, ok := as[*pop3.Error](err); ok {
		return serverStatus(err, e)
	}
	if errors.Is(err, pop3.ErrUnsupported) || errors.Is(err, pop3.ErrMalformed) {
		return badProtocol
	}
	return networkStatus(err)
}

// serverStatus returns the exit status for what a server did.
func serverStatus(err error, e *pop3.Error) int {
	_, login := as[*loginError](err)
	switch {
	case e.Temporary(), errors.Is(e, io.ErrUnexpectedEOF):
		return tryAgain
	case e.Err == nil && login:
		return refusedLogin
	case e.Err == nil && e.Command == "": // the greeting
		return unavailable
	case e.Err == nil && e.Command == "STLS":
		return badProtocol
	case e.Err == nil, errors.Is(e, pop3.ErrTooLarge) && e.Command == "RETR": // over -max-size
		return 1
	}
	return badProtocol
}

// networkStatus returns the exit status for other errors.
func networkStatus(err error) int {
	if e, ok := as[net.Error](err); ok && e.Timeout() || errors.Is(err, context.Canceled) {
		return tryAgain
	}
	if e, ok := as[*net.DNSError](err); ok && !e.IsNotFound {
		return tryAgain
	}
	e, ok := as[*net.OpError](err)
	switch {
	case ok && e.Op == "dial":
		return unavailable
	case ok && (e.Op == "remote error" || e.Op == "local error"): // alerts of TLS
		return badProtocol
	case ok, errors.Is(err, pop3.ErrClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return tryAgain
	}
	if _, ok := as[*handshakeError](err); ok {
		return badProtocol
	}
	return 1
}

// explain returns the text of an error in popget's words.
func explain(err error) string { return flagNames.Replace(err.Error()) }

// flagNames replaces what the library says about its Options and functions.
var flagNames = strings.NewReplacer(advice...)

// advice is in pairs: what the library says, and what popget says instead.
var advice = []string{
	"refusing to send credentials over an unencrypted connection: use TLS, or set Options.AllowInsecureAuth",
	"refusing to send the password without TLS: -plain is for a server on this machine",
	"Options.MaxMessageSize", "-max-size",
	"add its certificate to TLSConfig.RootCAs", "pass its certificate with -ca FILE",
	"set TLSConfig.MinVersion to allow it", "popget needs TLS 1.2 or later",
	"if the server has no TLS 1.2, set TLSConfig.MinVersion to allow an older version", "popget needs TLS 1.2 or later",
	"if the server has RSA key exchange only, list its cipher suites in TLSConfig.CipherSuites", "popget has no RSA key exchange",
	"if it wants a client certificate, set TLSConfig.Certificates", "popget has no client certificates",
	"set TLSConfig.Certificates", "popget has no client certificates",
	"use DialStartTLS, or Dial, for this port", "use -starttls for this port, or -plain for a server on this machine",
	"port 995 expects DialTLS", "port 995 expects -tls",
	"the port may expect DialTLS", "the port may expect -tls",
	"DialTLS may work, on port 995", "-tls may work, on port 995",
	"(Login sends CAPA first; User and Pass do not)", "(-auth auto sends CAPA first; -auth user does not)",
	"use StartTLS or DialStartTLS", "use -starttls",
	"no login method that Login supports; try Auth", "no login method that -auth auto supports; try another -auth",
	", which Auth can try", " (see -auth)",

	// Since Go 1.26 the name of the signal is the cause.
	"context canceled: interrupt signal received", "interrupted",
	"context canceled: terminated signal received", "interrupted",
	"context canceled", "interrupted",
}
