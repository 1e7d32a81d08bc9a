package pop3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
	"unicode"

	"example.com/pop3/internal/wire"
)

// What a method reports besides the server's own refusals. An error matches at
// most one of them with [errors.Is]. The exception is a call on a closed
// connection: its error matches ErrClosed, and also the reason why it was
// closed.
var (
	// ErrBusy: another exchange holds the connection: a call in another
	// goroutine, an open [Message] or a running loop. Nothing was written.
	ErrBusy error = &sentinel{text: "connection is busy: a call, a message or a loop is not finished"}

	// ErrClosed: Quit or Close was called, or an earlier failure closed the
	// connection. It is [net.ErrClosed].
	ErrClosed error = &sentinel{text: "connection is closed", is: net.ErrClosed}

	// ErrInsecureAuth: the connection is neither TLS nor local, so a password
	// would be readable on its way. Nothing was written. Use [DialTLS],
	// [DialStartTLS] or [Client.StartTLS], or set Options.AllowInsecureAuth.
	ErrInsecureAuth error = &sentinel{text: "refused to send credentials over an unencrypted connection: use TLS, or set Options.AllowInsecureAuth"}

	// ErrUnsupported: the server does not offer what was asked for. It is
	// [errors.ErrUnsupported].
	ErrUnsupported error = &sentinel{text: "server does not support it", is: errors.ErrUnsupported}

	// ErrMalformed: the server broke the protocol. It is found in Error.Err,
	// and the connection is closed. A SASL challenge that is not base64 is
	// ErrMalformed too, but no *Error: the login is canceled and the connection
	// usable.
	ErrMalformed = wire.ErrMalformed

	// ErrTooLarge: the server's answer is over a bound, or a message over
	// Options.MaxMessageSize, and the connection is closed; or a command is
	// longer than 4,096 octets, and nothing was written; or a SASL exchange is
	// too long, and was canceled.
	ErrTooLarge = wire.ErrTooLarge
)

// A sentinel is an error that is also one of the standard library's.
type sentinel struct {
	text string
	is   error
}

func (e *sentinel) Error() string        { return prefix + e.text }
func (e *sentinel) Is(target error) bool { return target != nil && target == e.is }

const prefix = "pop3: "

// An Error reports what the server did: it refused a command, or it broke the
// protocol. It is what Python's poplib raises as error_proto.
type Error struct {
	// Command is the verb alone, such as "RETR" or "AUTH"; "" for the greeting.
	Command string

	// Number is the message number the command was about, or 0.
	Number int

	// Code is the response code of a refusal in upper case (RFC 2449 section 8),
	// or "". Test for it with errors.Is and one of the Code constants.
	Code Code

	// Text is the server's text, without the code. It is what the server sent,
	// control octets included, but for secrets, which are masked.
	Text string

	// Err is nil for an ordinary refusal (-ERR), after which the connection is
	// usable. Otherwise it says what the server did wrong: ErrMalformed,
	// ErrTooLarge or io.ErrUnexpectedEOF; the connection is closed.
	Err error
}

// maxErrorText is how many octets of the server's text Error prints.
const maxErrorText = 512

// Error names the command and the message number, and quotes at most 512 octets
// of Text.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(prefix)
	b.WriteString(op{e.Command, e.Number}.String())
	switch {
	case e.Err == nil:
		b.WriteString(": server refused")
		if e.Code != "" {
			fmt.Fprintf(&b, " [%s]", string(e.Code))
		}
	case errors.Is(e.Err, io.ErrUnexpectedEOF):
		b.WriteString(": server closed the connection before its reply was complete")
	default:
		b.WriteString(": " + unprefixed(e.Err))
	}
	if text := e.Text; text != "" {
		if len(text) > maxErrorText {
			text = text[:maxErrorText]
		}
		fmt.Fprintf(&b, ": %q", text)
	}
	return b.String()
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the error's response [Code] or a level above it:
// an error with code SYS/TEMP is CodeSysTemp and CodeSys.
func (e *Error) Is(target error) bool {
	code, ok := target.(Code)
	if !ok || code == "" || len(e.Code) < len(code) {
		return false
	}
	return strings.EqualFold(string(e.Code[:len(code)]), string(code)) &&
		(len(e.Code) == len(code) || e.Code[len(code)] == '/')
}

// Temporary reports whether the response code says that the same may succeed
// later: IN-USE, LOGIN-DELAY or SYS/TEMP (RFC 2449 section 8.1, RFC 3206
// section 4). Without a code nobody knows, and it is false.
func (e *Error) Temporary() bool {
	return e.Is(CodeInUse) || e.Is(CodeLoginDelay) || e.Is(CodeSysTemp)
}

// A Code is a response code of RFC 2449 section 8, in upper case and without
// its brackets. It is an error, so that errors.Is(err, pop3.CodeAuth) tells a
// wrong password from the rest, where the server uses codes at all.
type Code string

// Error is "pop3: response code" and the code.
func (c Code) Error() string { return prefix + "response code " + string(c) }

// The registered response codes.
const (
	CodeInUse      Code = "IN-USE"      // the maildrop is locked by another session: RFC 2449 section 8.1.2
	CodeLoginDelay Code = "LOGIN-DELAY" // too soon after the login before: RFC 2449 section 8.1.1
	CodeAuth       Code = "AUTH"        // the credentials are at fault: RFC 3206 section 5
	CodeSys        Code = "SYS"         // the server is at fault, and matches the two below: RFC 3206 section 4
	CodeSysTemp    Code = "SYS/TEMP"    // a fault that may pass
	CodeSysPerm    Code = "SYS/PERM"    // a fault that somebody must repair
	CodeUTF8       Code = "UTF8"        // the message can be had in UTF-8 mode only: RFC 6856 section 5
)

var codes = []Code{CodeInUse, CodeLoginDelay, CodeAuth, CodeSys, CodeSysTemp, CodeSysPerm, CodeUTF8}

// isRefusal reports whether err is an ordinary -ERR, which is not wrapped here.
func isRefusal(err error) bool {
	e, ok := err.(*Error)
	return ok && e.Err == nil
}

// An op is what was going on, for errors and traces: a command, or a step of the
// library's own, such as "connect" or "login".
type op struct {
	verb   string // "" is the greeting
	number int    // message number, or 0
}

func opOf(cmd *wire.Command) op { return op{cmd.Verb, cmd.Number()} }

func (o op) String() string {
	switch {
	case o.verb == "":
		return "greeting"
	case o.number > 0:
		return fmt.Sprintf("%s %d", o.verb, o.number)
	}
	return o.verb
}

// unprefixed is an error's text without the package's prefix, which is printed
// once.
func unprefixed(err error) string { return strings.TrimPrefix(err.Error(), prefix) }

// A callError says in which command something happened.
type callError struct {
	op   op
	text string // printed in place of err's, or ""
	err  error
}

func (e *callError) Error() string {
	text := e.text
	if text == "" {
		text = unprefixed(e.err)
	}
	return prefix + e.op.String() + ": " + printable(text)
}

func (e *callError) Unwrap() error { return e.err }

// printable keeps a certificate's names, which crypto/x509 quotes before anybody
// has verified it, from adding lines to a log or colours to a terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

var errNilContext = errors.New(prefix + "context is nil")

// A closedError is what a call on a closed connection gets: ErrClosed, and why.
type closedError struct {
	op    op
	cause error
}

func (e *closedError) Error() string {
	text := unprefixed(ErrClosed)
	if e.cause != ErrClosed {
		text += " since: " + unprefixed(e.cause)
	}
	return prefix + e.op.String() + ": " + text
}

func (e *closedError) Unwrap() []error { return []error{ErrClosed, e.cause} }

// A canceledError is ctx.Err() and context.Cause(ctx).
type canceledError struct {
	op         op
	err, cause error
}

func newCanceledError(o op, ctx context.Context) *canceledError {
	return &canceledError{o, ctx.Err(), context.Cause(ctx)}
}

func (e *canceledError) Error() string {
	text := prefix + e.op.String() + ": " + e.err.Error()
	if e.cause != e.err {
		text += ": " + unprefixed(e.cause)
	}
	return text
}

func (e *canceledError) Unwrap() []error { return []error{e.err, e.cause} }

// A timeoutError is what Options.Timeout cut. It is a net.Error, and
// os.ErrDeadlineExceeded whatever the conn made of it.
type timeoutError struct {
	op    op
	after time.Duration
	err   error
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("%s%s: timeout after %v: %v", prefix, e.op, e.after, e.err)
}

func (e *timeoutError) Unwrap() []error { return []error{os.ErrDeadlineExceeded, e.err} }
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }

// refusals is DeleAll's error: the refusals in order, then what ended it.
type refusals []error

func (e refusals) Error() string {
	if len(e) == 1 {
		return e[0].Error()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s%d errors: ", prefix, len(e))
	for i, err := range e {
		if i == 3 {
			b.WriteString("; ...")
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(unprefixed(err))
	}
	return b.String()
}

func (e refusals) Unwrap() []error { return e }
