package interop

import (
	"bytes"
	"fmt"
	"strings"
)

// A sample is a message as a maildrop on disk holds it: lines end in LF.
type sample struct {
	name  string
	text  string
	needs feature // the server must have, to give the message back as it is
}

// wire returns the message as RETR must send it. All lines end in CRLF, the last one too (RFC 1939 section 3).
func (m sample) wire() []byte {
	b := bytes.ReplaceAll([]byte(m.text), []byte("\r\n"), []byte("\n"))
	b = bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n"))
	if !bytes.HasSuffix(b, []byte("\r\n")) {
		b = append(b, "\r\n"...)
	}
	return b
}

const header = "From: a@example.org\nTo: b@example.org\nSubject: interop\nDate: Mon, 01 Jan 2024 00:00:00 +0000\n"

// added returns how many octets wire has for the line end that the message lacks. Dovecot and Courier do not count them.
func (m sample) added() int64 {
	if strings.HasSuffix(m.text, "\n") {
		return 0
	}
	return int64(len("\r\n"))
}

// awkward holds messages of kinds that clients and servers have damaged.
var awkward = withIDs([]sample{
	{name: "plain", text: header + "\nHello.\n\nBye.\n"},
	{name: "dots", text: header + "\n.\n..\n...\n.leading\n..leading\nin. the. middle.\n \n.\nend\n.\n"},
	{name: "first line is a dot", text: header + "\n.\nsecond\n"},
	{name: "dots alone", text: header + "\n" + strings.Repeat(".\n", 500)},
	{name: "UTF-8", text: header + "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\nGrüße aus Köln, 日本語.\n"},
	{name: "all octets from 80 to FF", text: header + "\n" + highOctets() + "\n"},
	{name: "one line of 1 MiB", text: header + "\n" + strings.Repeat("0123456789abcdef", 1<<16) + "\nshort\n"},
	{name: "a dot every 70,000 octets", text: header + "\n" + strings.Repeat("."+strings.Repeat("x", 69999)+"\n", 4)},
	{name: "blank lines at the end", text: header + "\ntext\n\n\n\n"},
	{name: "no newline at the end", text: header + "\nfirst\nlast has none", needs: exactSizes},
	{name: "no body", text: header + "\n", needs: emptyBody},
	{name: "From lines", text: header + "\npara\n\nFrom me to you\n>From quoted\n", needs: fromLines},
	{name: "UTF-8 header", text: "X-City: Köln\n" + header + "\ntext\n", needs: rawHeaders},
	{name: "NUL", text: header + "\na\x00b\n\x00\n", needs: keepsNUL},
	{name: "CR in a line", text: header + "\na\rb\n\rc\n", needs: keepsCR},
	{name: "lines that end in CRLF already", text: header + "\nbefore\r\n.\r\n+OK forged\r\nafter\n", needs: mixedLines},
})

// withIDs makes the headers differ, of which popa3d's unique-ids are a hash.
func withIDs(mail []sample) []sample {
	for i := range mail {
		mail[i].text = fmt.Sprintf("Message-ID: <%d@example.org>\n", i+1) + mail[i].text
	}
	return mail
}

func highOctets() string {
	var b [128]byte
	for i := range b {
		b[i] = byte(128 + i)
	}
	return string(b[:])
}

// small returns n short messages.
func small(n int) []sample {
	mail := make([]sample, n)
	for i := range mail {
		mail[i].text = fmt.Sprintf("%s\nThis is message %d.\n.\n", header, i+1)
	}
	return withIDs(mail)
}

// top returns what TOP must send (RFC 1939 section 7): the headers, the empty line, and as many lines of the body.
func (m sample) top(lines int) []byte {
	wire := m.wire()
	end := bytes.Index(wire, []byte("\r\n\r\n")) + len("\r\n\r\n")
	for range lines {
		next := bytes.IndexByte(wire[end:], '\n')
		if next < 0 {
			break
		}
		end += next + 1
	}
	return wire[:end]
}
