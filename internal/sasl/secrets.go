package sasl

import (
	"bytes"
	"encoding/base64"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.com/pop3/internal/wire"
)

// Secrets are what was sent in a login and must not be shown when a server repeats it. A
// nil *Secrets holds none.
//
// They are two pointers away from whatever holds them: package fmt follows one, if a verb
// does not fit.
type Secrets struct{ list *[][]byte }

const (
	// A shorter secret is not masked: that would garble ordinary text.
	shortSecret = 4

	// The beginning of a secret is masked from this length on.
	partOfSecret = 8
)

// NewSecrets returns Secrets that hold the list, and its base64.
func NewSecrets(list ...string) *Secrets {
	s := &Secrets{new([][]byte)}
	for _, secret := range list {
		trimmed := strings.Trim(secret, " \t") // as the text of a reply is
		s.add([]byte(trimmed))
		s.add(base64.StdEncoding.AppendEncode(nil, []byte(trimmed)))
		if trimmed != secret {
			s.add(base64.StdEncoding.AppendEncode(nil, []byte(secret)))
		}
	}
	return s
}

func (s *Secrets) add(secret []byte) {
	if fold(secret); len(secret) >= shortSecret {
		*s.list = append(*s.list, secret)
	}
}

// AddResponse adds what is secret in the n-th response of an exchange, counted from 0, and
// its form on the wire. A user name is no secret, nor is what SCRAM sends first.
func (s *Secrets) AddResponse(mech string, n int, response []byte) {
	secret := string(response) // of a mechanism that is not known here
	after := func(mark string) {
		if i := strings.LastIndex(secret, mark); i >= 0 {
			secret = secret[i+len(mark):]
		}
	}
	switch mech = strings.ToUpper(mech); {
	case mech == "EXTERNAL" || mech == "ANONYMOUS",
		mech == "LOGIN" && n == 0,
		strings.HasPrefix(mech, "SCRAM-") && n == 0:
		return
	case mech == "PLAIN":
		after("\x00")
	case mech == "CRAM-MD5":
		after(" ")
	case strings.HasPrefix(mech, "SCRAM-"):
		after(",p=")
	case IsBearer(mech):
		after("Bearer ")
		secret = strings.TrimRight(secret, "\x01")
	}
	*s.list = append(*s.list, *NewSecrets(secret).list...)
	s.add(base64.StdEncoding.AppendEncode(nil, response))
}

// Mask returns text with each secret in it replaced, in upper or lower case. It does not
// change text.
func (s *Secrets) Mask(text []byte) []byte {
	if s == nil {
		return text
	}
	folded := bytes.Clone(text)
	fold(folded)
	var masked []byte // stands for text[:end]
	end := 0
	for i := range folded {
		n := s.match(folded[i:])
		if i+n <= end {
			continue
		}
		if n > 0 && (i > end || end == 0) {
			masked = append(append(masked, text[end:i]...), wire.Mask...)
		}
		if n > 0 {
			end = i + n
		}
	}
	return append(masked, text[end:]...)
}

// match returns the length of the longest secret, or part of one, that text begins with.
func (s *Secrets) match(text []byte) (longest int) {
	for _, secret := range *s.list {
		n := 0
		for n < len(secret) && n < len(text) && secret[n] == text[n] {
			n++
		}
		if n == len(secret) || n >= partOfSecret {
			longest = max(longest, n)
		}
	}
	return longest
}

// fold makes letters alike that differ in case, in place. One whose form has another
// length stays.
func fold(b []byte) {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if lower := unicode.ToLower(unicode.ToUpper(r)); utf8.RuneLen(lower) == n {
			utf8.EncodeRune(b, lower)
		}
		b = b[n:]
	}
}
