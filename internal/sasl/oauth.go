package sasl

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"

	"example.com/pop3/internal/wire"
)

// A Bearer sends a token, and learns from a challenge that it was refused.
type Bearer struct{ *bearer }

type bearer struct {
	mechanism
	*credential
	err    error  // why Start must fail
	answer string // lets the server go on to its -ERR

	started, refused bool
	status           string
}

type credential struct{ token, ir string }

// XOAuth2 returns XOAUTH2, which Google and Microsoft document and no RFC does.
func XOAuth2(username, token string) Bearer {
	const m = mechanism("XOAUTH2")
	return Bearer{&bearer{
		mechanism:  m,
		err:        cmp.Or(require("user name", username), require("token", token)),
		credential: &credential{token, "user=" + username + "\x01auth=Bearer " + token + "\x01\x01"},
	}}
}

// OAuthBearer returns OAUTHBEARER, RFC 7628, without the host and port that only OAUTH10A
// needs (section 3.1). An empty user name leaves the choice to the token.
func OAuthBearer(username, token string) Bearer {
	const m = mechanism("OAUTHBEARER")
	header := "n,,"
	if username != "" {
		header = "n,a=" + saslName.Replace(username) + ","
	}
	return Bearer{&bearer{
		mechanism:  m,
		err:        cmp.Or(wire.CheckArg("user name", username), require("token", token)),
		credential: &credential{token, header + "\x01auth=Bearer " + token + "\x01\x01"},
		answer:     "\x01", // RFC 7628 section 3.2.3
	}}
}

func (b *bearer) Start() (mech string, ir []byte, err error) {
	b.started, b.refused, b.status = b.err == nil, false, ""
	if b.err != nil {
		return b.cannotStart(b.err)
	}
	return string(b.mechanism), []byte(b.ir), nil
}

// Next takes the one challenge there can be, the JSON of a failure (RFC 7628 section
// 3.2.2), and answers it: the server says nothing more until it has been.
func (b *bearer) Next(challenge []byte) (response []byte, err error) {
	if !b.started || b.refused {
		return nil, errors.New("unexpected challenge")
	}
	b.refused = true
	var failure struct{ Status any }
	if json.Unmarshal(challenge, &failure) == nil {
		switch failure.Status.(type) {
		case string, float64: // "invalid_token", "401", 401
			b.status = clean(fmt.Sprint(failure.Status), b.token, b.ir)
		}
	}
	return []byte(b.answer), nil
}

// Status returns the status of the server's failure, such as "invalid_token" or "401", or
// "" if there was none.
func (b *bearer) Status() string { return b.status }

// Finish fails if the server refused the token and reported success all the same.
func (b *bearer) Finish() error {
	switch {
	case b.refused:
		return fmt.Errorf("the server refused the token (status %q), then reported success", b.status)
	case !b.started:
		return errors.New("the exchange has not begun")
	}
	return nil
}
