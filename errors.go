package pop3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"strings"
	"time"
	"unicode"

	"example.com/pop3/internal/wire"
)

// Errors that methods return, or wrap: test for them with [errors.Is]. A call on a
// connection that an earlier failure closed returns an error that matches [ErrClosed] and
// the cause of that failure.
var (
	// ErrRefused is matched by the *Error of an ordinary refusal: the server answered
	// -ERR. From Client.Login and Client.Auth it means that the login was refused,
	// whether or not the server says why with a response code; ask Error.Temporary first.
	ErrRefused error = &sentinel{text: "server refused"}

	// ErrBusy is returned when the connection is in use by a call in another goroutine,
	// an open Message or a running loop. Nothing is sent.
	ErrBusy error = &sentinel{text: "connection is busy: a call, a message or a loop is not finished"}

	// ErrClosed is returned after Quit or Close, and after a failure that closed the
	// connection. It matches net.ErrClosed.
	ErrClosed error = &sentinel{text: "connection is closed", is: net.ErrClosed}

	// ErrInsecureAuth is returned when credentials would be sent in the clear to another
	// machine. Nothing is sent. Use DialTLS, DialStartTLS or Client.StartTLS, or set
	// Options.AllowInsecureAuth.
	ErrInsecureAuth error = &sentinel{text: "refusing to send credentials over an unencrypted connection: use TLS, or set Options.AllowInsecureAuth"}

	// ErrUnsupported is returned when the server does not offer what a call needs. It
	// matches errors.ErrUnsupported.
	ErrUnsupported error = &sentinel{text: "server does not support it", is: errors.ErrUnsupported}

	// ErrMalformed is found in Error.Err when the server broke the protocol. A fault in
	// the content of a reply, such as a row without its fields, leaves the connection
	// usable; a fault in the framing closes it. Client.Err tells them apart. A SASL
	// challenge that is not base64 is ErrMalformed too, but not an *Error: the login is
	// canceled and the connection stays usable.
	ErrMalformed = wire.ErrMalformed

	// ErrTooLarge is found in Error.Err when a reply is over one of the limits of this
	// package, or a message over Options.MaxMessageSize; the connection is closed. It is
	// also returned for a command of more than 4,096 octets, which is not sent, and for a
	// SASL exchange that is too long, which is canceled.
	ErrTooLarge = wire.ErrTooLarge
)

// A sentinel is an error that may match one of the standard library's.
type sentinel struct {
	text string
	is   error
}

func (e *sentinel) Error() string        { return prefix + e.text }
func (e *sentinel) Is(target error) bool { return target != nil && target == e.is }

const prefix = "pop3: "

// An Error reports what the server did: it refused a command, or it broke the protocol.
// It corresponds to error_proto of Python's poplib.
type Error struct {
	// Command is the verb of the command, such as "RETR" or "AUTH", without its
	// arguments. It is "" for the greeting.
	Command string

	// Number is the message number that the command was about, or 0.
	Number int

	// Code is the response code of a -ERR in upper case (RFC 2449 section 8), or "". Test
	// for it with errors.Is and one of the Code constants.
	Code Code

	// Text is the server's text without the response code, as the server sent it, control
	// octets included. Secrets in it are masked.
	Text string

	// Err is nil for an ordinary refusal. Otherwise it says what the server did wrong: it
	// is or wraps ErrMalformed, ErrTooLarge or io.ErrUnexpectedEOF. With
	// io.ErrUnexpectedEOF, Code and Text are what the server said before it closed the
	// connection, if it said anything.
	Err error

	mech     string // the mechanism, if Command is AUTH
	farewell bool   // Text is why the server ends the session
	note     string // added to the text of the error
}

// maxErrorText is how many octets of the server's text an error quotes.
const maxErrorText = 512

// Error returns the command and the message number, what happened, and at most 512 octets
// of Text, quoted.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(prefix)
	b.WriteString(op{e.Command, e.mech, e.Number}.String())
	text := e.Text
	switch {
	case e.Err == nil:
		b.WriteString(": server refused")
	case errors.Is(e.Err, io.ErrUnexpectedEOF) && (e.farewell || e.Code != "" || text != ""):
		b.WriteString(": server ended the session")
	case errors.Is(e.Err, io.ErrUnexpectedEOF):
		b.WriteString(": server closed the connection")
		if e.note == "" {
			b.WriteString(" before its reply was complete")
		}
	default:
		b.WriteString(": " + unprefixed(e.Err))
		if _, quoted := e.Err.(*rowError); quoted {
			text = ""
		}
	}
	if e.Code != "" {
		fmt.Fprintf(&b, " [%s]", printable(string(e.Code)))
	}
	if text != "" {
		b.WriteString(": " + quote(text))
	}
	b.WriteString(e.note)
	return b.String()
}

// quote quotes text from a server, or the beginning of it.
func quote(text string) string {
	return fmt.Sprintf("%q", text[:min(len(text), maxErrorText)])
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is [ErrRefused] and e is an ordinary refusal, or target is
// the response [Code] of e or a level above it: an error with the code SYS/TEMP matches
// [CodeSysTemp] and [CodeSys].
func (e *Error) Is(target error) bool {
	if target == ErrRefused {
		return e.Err == nil
	}
	code, ok := target.(Code)
	if !ok || code == "" || len(e.Code) < len(code) {
		return false
	}
	return strings.EqualFold(string(e.Code[:len(code)]), string(code)) &&
		(len(e.Code) == len(code) || e.Code[len(code)] == '/')
}

// Temporary reports whether the response code says that the same command may succeed
// later: IN-USE, LOGIN-DELAY or SYS/TEMP (RFC 2449 section 8.1, RFC 3206 section 4).
// Without a code it returns false.
func (e *Error) Temporary() bool {
	return e.Is(CodeInUse) || e.Is(CodeLoginDelay) || e.Is(CodeSysTemp)
}

// A Code is a response code of RFC 2449 section 8, in upper case and without its
// brackets. It is an error, so that [errors.Is] with [CodeAuth] reports whether the
// credentials were wrong, if the server uses response codes.
type Code string

// Error returns "pop3: response code" and the code.
func (c Code) Error() string { return prefix + "response code " + string(c) }

// The registered response codes.
const (
	CodeInUse      Code = "IN-USE"      // another session has the maildrop locked: RFC 2449 section 8.1.2
	CodeLoginDelay Code = "LOGIN-DELAY" // too soon after the last login: RFC 2449 section 8.1.1
	CodeAuth       Code = "AUTH"        // the credentials are wrong: RFC 3206 section 5
	CodeSys        Code = "SYS"         // the server has a problem; matches the two below: RFC 3206 section 4
	CodeSysTemp    Code = "SYS/TEMP"    // a problem that may pass
	CodeSysPerm    Code = "SYS/PERM"    // a problem that somebody must fix
	CodeUTF8       Code = "UTF8"        // the message is available in UTF-8 mode only: RFC 6856 section 5
)

var codes = []Code{CodeInUse, CodeLoginDelay, CodeAuth, CodeSys, CodeSysTemp, CodeSysPerm, CodeUTF8}

// isRefusal reports whether err is itself an ordinary refusal.
func isRefusal(err error) bool {
	e, ok := err.(*Error)
	return ok && e.Err == nil
}

// isFarewell reports whether err, returned by Client.arrived, carries the server's reason
// for hanging up.
func isFarewell(err error) bool {
	e, ok := err.(*Error)
	return ok && e.Err == io.ErrUnexpectedEOF
}

// isLoss reports whether err, returned by an exchange that has begun, means that the
// connection was lost, rather than closed from this side or because of what the server
// sent.
func isLoss(err error) bool {
	_, canceled := err.(*canceledError)
	return err != nil && !canceled && !isRefusal(err) &&
		!errors.Is(err, ErrClosed) && !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrTooLarge)
}

// An op is what was going on, for errors and traces: a command, or a step of the
// library's own, such as "connect" or "login".
type op struct {
	verb   string // "" is the greeting
	mech   string // of AUTH
	number int    // message number, or 0
}

var opGreeting op

func opOf(cmd *wire.Command) op {
	o := op{verb: cmd.Verb}
	if len(cmd.Numbers) > 0 {
		o.number = cmd.Numbers[0]
	}
	if o.verb == "AUTH" && len(cmd.Args) > 0 {
		o.mech = cmd.Args[0]
	}
	return o
}

func (o op) String() string {
	switch {
	case o == opGreeting:
		return "greeting"
	case o.mech != "":
		return o.verb + " " + o.mech
	case o.number > 0:
		return fmt.Sprintf("%s %d", o.verb, o.number)
	}
	return o.verb
}

// unprefixed returns an error's text without the package's prefix, which is printed once.
func unprefixed(err error) string { return strings.TrimPrefix(err.Error(), prefix) }

// detail returns an error's text without what op it was about.
func detail(o op, err error) string { return strings.TrimPrefix(unprefixed(err), o.String()+": ") }

// A callError says in which call something happened.
type callError struct {
	op   op
	text string // printed instead of err's text, or ""
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

// printable keeps what a server sent, such as the names in a certificate that crypto/x509
// quotes before anybody has verified it, from adding lines to a log or colors to a
// terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

var (
	errNilContext    = errors.New(prefix + "context is nil")
	errMessageClosed = errors.New("message is closed")
	errPanic         = errors.New(prefix + "a panic or runtime.Goexit ended the call")

	// An answer about a message that nobody asked for is a fault of framing.
	errOtherMessage = fmt.Errorf("%w: answer about another message", ErrMalformed)
)

// A rowError says that some rows of a listing are malformed.
type rowError struct {
	row  string // the first
	more int    // how many others
}

// add notes a malformed row. The first call makes the error.
func (e *rowError) add(row string) *rowError {
	if e == nil {
		return &rowError{row: row}
	}
	e.more++
	return e
}

// err returns e as an error, or nil.
func (e *rowError) err() error {
	if e == nil {
		return nil
	}
	return e
}

func (e *rowError) Error() string {
	text := "malformed row " + quote(e.row)
	if e.more > 0 {
		text += fmt.Sprintf(" (and %d more)", e.more)
	}
	return text
}

func (e *rowError) Unwrap() error { return ErrMalformed }

// A cutError says how much of a multi-line response was read before err.
type cutError struct {
	octets   int64
	draining bool // nobody wanted the rest
	err      error
}

func (e *cutError) Error() string { return e.err.Error() + " after " + e.came() }
func (e *cutError) Unwrap() error { return e.err }

func (e *cutError) came() string {
	came := fmt.Sprintf("%d octets of text", e.octets)
	if e.draining {
		came += ", while the rest was being discarded"
	}
	return came
}

// newFailure returns the error for a connection that fails because of cause: what reading
// or writing returned, or what is wrong with text, which the server sent. heard, unless
// nil, is what the server said before.
func newFailure(o op, cause error, text string, heard *Error) error {
	e := &Error{Command: o.verb, mech: o.mech, Number: o.number, Text: text, Err: cause}
	cut, _ := cause.(*cutError)
	switch {
	case errors.Is(cause, ErrMalformed) || errors.Is(cause, ErrTooLarge):
		return e
	case errors.Is(cause, io.EOF) || errors.Is(cause, io.ErrUnexpectedEOF):
		e.Err = io.ErrUnexpectedEOF
	case heard != nil:
		e.Err = fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, cause)
	default:
		return &callError{op: o, err: cause}
	}
	if heard != nil {
		e.Code, e.Text, e.farewell = heard.Code, heard.Text, true
	}
	if cut != nil {
		e.note = " after " + cut.came()
	}
	return e
}

// A closedError is what a call on a closed connection returns.
type closedError struct {
	op    op
	cause error
}

func (e *closedError) Error() string {
	text := unprefixed(ErrClosed)
	if e.cause != ErrClosed {
		text += ": " + unprefixed(e.cause)
	}
	return prefix + e.op.String() + ": " + text
}

func (e *closedError) Unwrap() []error { return []error{ErrClosed, e.cause} }

// A canceledError says that the context of a call was done. It matches ctx.Err() and
// context.Cause(ctx).
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

// Unwrap hides a cause that is an *Error: it belongs to another connection, whose refusal
// canceled a group of calls. This call was not refused.
func (e *canceledError) Unwrap() []error {
	var other *Error
	if errors.As(e.cause, &other) {
		return []error{e.err}
	}
	return []error{e.err, e.cause}
}

// Is reports whether target is the cause itself.
func (e *canceledError) Is(target error) bool {
	return target != nil && reflect.TypeOf(target).Comparable() && target == e.cause
}

// A timeoutError says that a wait took longer than Options.Timeout. It is a net.Error,
// and matches os.ErrDeadlineExceeded whatever the connection returned.
type timeoutError struct {
	op    op
	after time.Duration
	err   error
}

func (e *timeoutError) Error() string {
	text := fmt.Sprintf("timeout after %v: %v", e.after, e.err)
	if cut, ok := e.err.(*cutError); ok && cut.draining {
		text = fmt.Sprintf("timeout: discarding the rest of the text took more than %v, with %d octets read", e.after, cut.octets)
	} else if ok {
		text = fmt.Sprintf("timeout: no data for %v after %s", e.after, cut.came())
	}
	return prefix + e.op.String() + ": " + text
}

func (e *timeoutError) Unwrap() []error { return []error{os.ErrDeadlineExceeded, e.err} }
func (e *timeoutError) Timeout() bool   { return true }
func (e *timeoutError) Temporary() bool { return true }

// joinedErrors are several errors of one call, in order.
type joinedErrors []error

func (e joinedErrors) Error() string {
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

func (e joinedErrors) Unwrap() []error { return e }
