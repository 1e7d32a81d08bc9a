package wire

import (
	"fmt"
	"strconv"
)

// A Command is a command line: verb, then message number and lines, or strings.
type Command struct {
	Verb    string
	Numbers []int
	Args    []string
	Secret  bool // the last of Args must never be seen
}

// Number is the message number, or 0.
func (c *Command) Number() int {
	if len(c.Numbers) > 0 {
		return c.Numbers[0]
	}
	return 0
}

// Check reports what forbids to send the command: a control octet in an
// argument, which could end the line and begin another, or its length. The
// error never holds the argument.
func (c *Command) Check() error {
	for i, n := range c.Numbers {
		if i == 0 && n < 1 {
			return fmt.Errorf("message number %d is less than 1", n)
		}
		if n < 0 {
			return fmt.Errorf("number of lines %d is less than 0", n)
		}
	}
	for _, arg := range c.Args {
		if err := CheckArg(arg); err != nil {
			return err
		}
	}
	if size := c.Len() - len("\r\n"); size > MaxCommand {
		return fmt.Errorf("%w: command of %d octets, %d are the most", ErrTooLarge, size, MaxCommand)
	}
	return nil
}

// CheckArg refuses control octets.
func CheckArg(arg string) error {
	for i := range len(arg) {
		if c := arg[i]; c < ' ' || c == 0x7F {
			return fmt.Errorf("argument holds control octet %#02x", c)
		}
	}
	return nil
}

// Len is the length of the line in octets, with its CRLF.
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

// Append appends the line with its CRLF.
func (c *Command) Append(b []byte) []byte {
	return append(c.append(b, false), "\r\n"...)
}

// Redacted is the line for the eyes of others.
func (c *Command) Redacted() string {
	return string(c.append(nil, true))
}

// Mask stands where a secret was.
const Mask = "***"

func (c *Command) append(b []byte, mask bool) []byte {
	b = append(b, c.Verb...)
	for _, n := range c.Numbers {
		b = strconv.AppendInt(append(b, ' '), int64(n), 10)
	}
	for i, arg := range c.Args {
		if mask && c.Secret && i == len(c.Args)-1 {
			arg = Mask
		}
		b = append(append(b, ' '), arg...)
	}
	return b
}
