package sasl

import (
	"bytes"
	"encoding/base64"
	"slices"
)

// Secrets are what was sent in a login and must not be shown when a server
// repeats it. A nil *Secrets holds none.
//
// They are two pointers away from whatever holds them: package fmt follows one,
// with a verb that does not fit.
type Secrets struct{ list *[][]byte }

// mask stands where a secret was.
const mask = "***"

// shortSecret is the least length of a secret that is masked: shorter ones would
// turn ordinary text into a riddle.
const shortSecret = 4

// NewSecrets returns Secrets that hold the list.
func NewSecrets(list ...[]byte) *Secrets {
	s := &Secrets{new([][]byte)}
	s.add(list...)
	return s
}

func (s *Secrets) add(list ...[]byte) {
	for _, b := range list {
		// The text of a reply comes without the blanks around it.
		if b = bytes.Trim(b, " \t"); len(b) >= shortSecret {
			*s.list = append(*s.list, b)
		}
	}
	// The longest first: it may hold a shorter one.
	slices.SortFunc(*s.list, func(a, b []byte) int { return len(b) - len(a) })
}

// AddResponse adds a response as it goes over the wire, and what is secret in it:
// PLAIN's password behind the last NUL, a bearer token, CRAM-MD5's digest behind
// the last space, SCRAM's proof.
func (s *Secrets) AddResponse(response []byte) {
	s.add(response, []byte(base64.StdEncoding.EncodeToString(response)))
	for _, mark := range []string{"\x00", "Bearer ", " ", ",p="} {
		if i := bytes.LastIndex(response, []byte(mark)); i >= 0 {
			s.add(bytes.TrimRight(response[i+len(mark):], "\x01"))
		}
	}
}

// Mask returns text with each secret replaced. It does not change text.
func (s *Secrets) Mask(text []byte) []byte {
	if s == nil {
		return text
	}
	for _, b := range *s.list {
		text = bytes.ReplaceAll(text, b, []byte(mask))
	}
	return text
}
