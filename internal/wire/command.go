package wire

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Command is a command line: a verb, then numbers, then strings.
type Command struct {
	Verb    string
	Numbers []int // a message number, then TOP's number of lines
	Args    []string
	Secret  bool // the last of Args is one
}

// Check reports why the command must not be sent: the verb is none, a number is out
// of range, the line is too long, or an argument holds a control octet, which could
// end the line and begin another command. The error does not quote arguments.
func (c *Command) Check() error {
	notVerb := func(r rune) bool { return (r < 'A' || r > 'Z') && (r < '0' || r > '9') }
	if c.Verb == "" || strings.ContainsFunc(c.Verb, notVerb) {
		return errors.New("the verb is malformed")
	}
	for i, n := range c.Numbers {
		if i == 0 && n < 1 {
			return fmt.Errorf("message number %d is less than 1", n)
		}
		if n < 0 {
			return fmt.Errorf("number of lines %d is less than 0", n)
		}
	}
	for _, arg := range c.Args {
		if err := CheckArg("argument", arg); err != nil {
			return err
		}
	}
	if len(c.Args) == 0 {
		return nil
	}
	if size := c.Len() - len("\r\n"); size > MaxCommand {
		return fmt.Errorf("%w: command of %d octets, the limit is %d", ErrTooLarge, size, MaxCommand)
	}
	return nil
}

// CheckArg returns an error if arg holds a control octet. The error calls it what,
// such as "password", and says so if it merely ends with a line break: that is how
// a password often comes from a file.
func CheckArg(what, arg string) error {
	i := strings.IndexFunc(arg, isControl)
	switch {
	case i < 0:
		return nil
	case strings.Trim(arg[i:], "\r\n") == "":
		return fmt.Errorf("the %s ends with a line break", what)
	}
	return fmt.Errorf("the %s holds control octet %#02x", what, arg[i])
}

// Len returns the length of the line in octets, with its CRLF.
func (c *Command) Len() int {
	n := len(c.Verb) + len("\r\n")
	for _, v := range c.Numbers {
		for n += 2; v > 9; v /= 10 {
			n++
		}
	}
	for _, arg := range c.Args {
		n += 1 + len(arg)
	}
	return n
}

// Append appends the line with its CRLF to b. If the command does not pass Check,
// Append returns b as it is and the error of Check.
func (c *Command) Append(b []byte) ([]byte, error) {
	if err := c.Check(); err != nil {
		return b, err
	}
	b = append(b, c.Verb...)
	for _, n := range c.Numbers {
		b = strconv.AppendInt(append(b, ' '), int64(n), 10)
	}
	for _, arg := range c.Args {
		b = append(append(b, ' '), arg...)
	}
	return append(b, "\r\n"...), nil
}

// Mask replaces a secret.
const Mask = "***"

// Redacted returns the line without its CRLF, and with Mask for its secret.
func (c *Command) Redacted() string {
	shown := *c
	if n := len(c.Args); c.Secret && n > 0 {
		shown.Args = append(slices.Clone(c.Args[:n-1]), Mask)
	}
	line, _ := shown.Append(nil)
	return strings.TrimSuffix(string(line), "\r\n")
}
