package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.com/pop3/internal/pop3test"
)

// A turn is one run of popget and what is to come of it.
type turn struct {
	change  func(w *world) // before the run
	flags   string
	status  int    // anyNumber is any but 0
	fetched int    // RETR; anyNumber if it depends on what is on the way when the session ends
	deleted int    // DELE
	odd     string // all of standard error but "popget: "; "..." is anything
}

const anyNumber = -1

const (
	stillThere = "messages still on the server after their deletion, not delivered again: "
	notListed  = "messages that were missing from an earlier listing, not delivered again: "
	renamed    = "messages with another unique-id than before, not delivered again: "
	reused     = "new messages that reuse a unique-id: "
	keptTwice  = "messages that remain after 2 accepted deletions: %d; -delete=again tries once more"
	noUIDs     = "the listing has no unique-ids: every run downloads all messages to find the new ones"
	someUIDs   = "some messages have no unique-id: every run downloads them to see whether they are new"
	sharedUIDs = "some messages share a unique-id: every run downloads them to see whether they are new"
	numberUIDs = "unique-ids are just message numbers: every run checks the headers"
	noTOP      = "the server refuses TOP: every run downloads all messages to find the new ones"
	mayBeTwin  = "messages not deleted yet, because one of about their size without a unique-id was not fetched: "
	refusal    = `pop3: RETR 2: server refused: "no"` + "\n"
	triedLater = "message 2 is tried after the others; earlier runs that failed to fetch it: 1"
)

// replyTo is a fake's reply to one command.
func replyTo(command, reply string) func(w *world) {
	return func(w *world) {
		w.reply = func(line string) (string, bool) { return reply, line == command }
	}
}

func noReply(w *world) { w.reply = nil }

// renumber has another session delete message 1 before the n-th such command, and
// new mail come.
func renumber(command string, n int, more ...posted) func(w *world) {
	return func(w *world) {
		w.reply = func(line string) (string, bool) {
			if line == command {
				if n--; n == 0 {
					w.lose()
					w.session, w.mails = append(w.session, more...), append(w.mails, more...)
					w.marked = make([]bool, len(w.session))
				}
			}
			return "", false
		}
	}
}

// later lets days pass, and then does what change does.
func later(days int, change func(w *world)) func(w *world) {
	return func(w *world) {
		w.now = w.now.AddDate(0, 0, days)
		change(w)
	}
}

// refuseOrList refuses a command, and lists no size but that of message n.
func refuseOrList(command string, n, size int) func(w *world) {
	return func(w *world) {
		w.reply = func(line string) (string, bool) {
			if line == "LIST" {
				return fmt.Sprintf("+OK\r\n%d %d\r\n.\r\n", n, size), true
			}
			return "-ERR no\r\n", line == command
		}
	}
}

// inUse is a server that has too many sessions, and says so after the login.
func inUse(w *world) {
	w.reply = func(line string) (string, bool) {
		return "-ERR [IN-USE] too many\r\n", slices.Contains([]string{"LIST", "UIDL", "STAT"}, line)
	}
}

// refuse is a server that does not know some commands.
func refuse(prefixes ...string) func(w *world) {
	return func(w *world) {
		w.reply = func(line string) (string, bool) {
			return "-ERR what?\r\n", slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) })
		}
	}
}

// TestRule has each message come once, whatever the server does.
func TestRule(t *testing.T) {
	t.Parallel()
	all := mails(9)
	a, b, c, d := all[0], all[1], all[2], all[3]
	small, middle, large := unlike(3)[0], unlike(3)[1], unlike(3)[2]
	is := func(uids string, texts ...string) func(w *world) {
		return func(w *world) { w.post(uids, texts...) }
	}
	for _, tt := range []struct {
		name  string
		turns []turn
		want  []string // in the Maildir
		left  []string // on the server
	}{
		{"what was delivered is not fetched", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{is("u1 u2 u3", a, b, c), "", 0, 1, 0, ""},
			{nil, "-delete", 0, 0, 3, ""},
		}, []string{a, b, c}, nil},
		{"an empty listing in between", []turn{
			{is("u1 u2 u3", a, b, c), "", 0, 3, 0, ""},
			{is(""), "", 0, 0, 0, ""},
			{is("u1 u2 u3", a, b, c), "", 0, 3, 0, notListed + "3"},
			{nil, "", 0, 0, 0, ""},
		}, []string{a, b, c}, []string{a, b, c}},
		{"a listing that is refused", []turn{
			{is("u1 u2 u3", a, b, c), "", 0, 3, 0, ""},
			{inUse, "", tryAgain, 0, 0, ""},
			{later(91, inUse), "", tryAgain, 0, 0, ""},
			{later(1, inUse), "", tryAgain, 0, 0, ""},
			{noReply, "", 0, 0, 0, ""},
		}, []string{a, b, c}, []string{a, b, c}},
		{"a short listing in between", []turn{
			{is("u1 u2 u3", a, b, c), "", 0, 3, 0, ""},
			{is("u1 u3", a, c), "", 0, 0, 0, ""},
			{is("u1 u2 u3", a, b, c), "-delete", 0, 1, 3, notListed + "1"},
		}, []string{a, b, c}, nil},
		{"a server that keeps everything", []turn{
			{func(w *world) { w.keeps = true; w.post("u1 u2", a, b) }, "-delete", 0, 2, 2, ""},
			{nil, "-delete", 0, 2, 2, stillThere + "2"},
			{nil, "-delete", 0, 2, 0, stillThere + "2\n" + fmt.Sprintf(keptTwice, 2)},
			{nil, "-delete", 0, 0, 0, ""},
			{nil, "", 0, 0, 0, ""},
			{nil, "-delete=again", 0, 0, 2, "..."},
			{nil, "-delete", 0, 2, 2, "..."},
			{nil, "-delete", 0, 2, 0, "..."},
			{is("u1 u3", a, c), "-delete", 0, 1, 1, "..."}, // a listing without b
			{is("u1 u2 u3", a, b, c), "-delete", 0, 2, 2, "..."},
			{func(w *world) { w.keeps = false; w.post("u1 u2", a, b) }, "-delete=again", 0, 1, 2, "..."},
		}, []string{a, b, c}, nil},
		{"kept, and not listed in between", []turn{
			{func(w *world) { w.keeps = true; w.post("u1", a) }, "-delete", 0, 1, 1, ""},
			{is(""), "-delete", 0, 0, 0, ""},
			{is("u1", a), "-delete", 0, 1, 1, notListed + "1"},
			{nil, "-delete", 0, 1, 1, stillThere + "1"}, // once in a row
		}, []string{a}, []string{a}},
		{"kept, and refused in between", []turn{
			{func(w *world) { w.keeps = true; w.post("u1 u2", small, middle) }, "-delete", 0, 2, 2, ""},
			{replyToRETR(small, "-ERR no\r\n"), "-delete", 1, 2, 1, "..."},
			{noReply, "-delete", 0, 2, 1, "..."}, // the other is kept twice
			{nil, "-delete", 0, 1, 0, "..."},     // and so is this one
		}, []string{small, middle}, []string{small, middle}},
		{"kept where there are no unique-ids, and refused in between", []turn{
			{func(w *world) { w.keeps = true; w.post("- -", small, middle) }, "-delete", 0, 2, 2, noUIDs},
			{replyToRETR(small, "-ERR no\r\n"), "-delete", 1, 2, 1, "..."},
			{noReply, "-delete", 0, 2, 1, "..."},
			{nil, "-delete", 0, 2, 0, "..."},
		}, []string{small, middle}, []string{small, middle}},
		{"no unique-ids once, when a message is not there", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{is("-", b), "", 0, 1, 0, noUIDs},
			{is("u1 u2", a, b), "", 0, 0, 0, ""}, // such a listing says nothing
		}, []string{a, b}, []string{a, b}},
		{"QUIT never answered", []turn{
			{func(w *world) { w.post("u1", a); replyTo("QUIT", pop3test.HangUp)(w) }, "-delete", tryAgain, 1, 1, ""},
			{nil, "-delete", tryAgain, 1, 1, stillThere + "1"},
			{nil, "-delete", tryAgain, 1, 1, stillThere + "1"}, // it may be another's fault
			{noReply, "-delete", 0, 1, 1, stillThere + "1"},
		}, []string{a}, nil},
		{"QUIT done without an answer", []turn{
			{func(w *world) {
				w.post("u1 u2", a, b)
				w.reply = func(line string) (string, bool) {
					if line != "QUIT" {
						return "", false
					}
					w.commit()
					return pop3test.HangUp, true
				}
			}, "-delete", tryAgain, 2, 2, ""},
			{func(w *world) { w.reply = nil; w.post("u1 u2", c, d) }, "-delete", 0, 2, 2, reused + "2"},
		}, []string{a, b, c, d}, nil},
		{"QUIT not done, without an answer", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("QUIT", pop3test.HangUp)(w) }, "-delete", tryAgain, 2, 2, ""},
			{noReply, "-delete", 0, 2, 2, stillThere + "2"},
		}, []string{a, b}, nil},
		{"QUIT refused", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("QUIT", "-ERR not all\r\n")(w) }, "-delete", 1, 2, 2, ""},
			{noReply, "-delete", 0, 2, 2, stillThere + "2"},
		}, []string{a, b}, nil},
		{"DELE accepted and the line dropped before QUIT", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("DELE 2", pop3test.HangUp)(w) }, "-delete", tryAgain, 2, 2, ""},
			{noReply, "-delete", 0, 0, 2, ""},
		}, []string{a, b}, nil},
		{"DELE refused", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("DELE 2", "-ERR not now\r\n")(w) }, "-delete", 1, 2, 2, "..."},
			{noReply, "-delete", 0, 0, 1, ""},
		}, []string{a, b}, nil},
		{"unique-ids used again behind a deletion", []turn{
			{is("u1 u2", a, b), "-delete", 0, 2, 2, ""},
			{is("u1 u2", c, b), "-delete", 0, 2, 2, stillThere + "1\n" + reused + "1"},
		}, []string{a, b, c}, nil},
		{"unique-ids used again after another client deleted", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{is("u2", b), "", 0, 0, 0, ""},
			{is("u2 u1", b, c), "", 0, 1, 0, reused + "1"},
		}, []string{a, b, c}, []string{b, c}},
		{"a unique-id used again, with another size", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{is("u1 u2", a, c+"longer\r\n"), "", 0, 1, 0, reused + "1"},
			{nil, "-delete", 0, 0, 2, ""},
		}, []string{a, b, c + "longer\r\n"}, nil},
		{"a unique-id used again, with the same size: seen before a DELE", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{is("u1 u2", a, c), "-delete", 0, 1, 2, reused + "1"},
		}, []string{a, b, c}, nil},
		{"shared unique-ids", []turn{
			{is("u1 u2 u2 u2", a, b, c, b), "", 0, 4, 0, sharedUIDs},
			{nil, "", 0, 3, 0, ""},
			{is("u1 u2 u2 u2 u2", a, b, c, b, d), "", 0, 4, 0, reused + "1"},
			{is("u1 u2", a, d), "-delete", 0, 0, 2, ""},
		}, []string{a, b, c, b, d}, nil},
		{"UIDL refused", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("UIDL", "-ERR no\r\n")(w) }, "", 0, 2, 0, `pop3: UIDL: server refused: "no"` + "\n" + noUIDs},
			{nil, "", 0, 2, 0, ""},
			{is("u1 u2 u3", a, b, b), "-delete", 0, 3, 3, ""},
			{is("u3", c), "", 0, 1, 0, ""},
			{noReply, "", 0, 1, 0, ""}, // it has unique-ids now
			{nil, "", 0, 0, 0, ""},
		}, []string{a, b, b, c}, []string{c}},
		{"UIDL refused, and the text is another each time", []turn{
			{func(w *world) {
				w.post("u1", a)
				n := 0
				w.reply = func(line string) (string, bool) {
					n++
					return fmt.Sprintf("-ERR not now [%d]\r\n", n), line == "UIDL"
				}
			}, "", 0, 1, 0, "..."},
			{nil, "", 0, 1, 0, ""},
		}, []string{a}, []string{a}},
		{"UIDL refused once", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{replyTo("UIDL", "-ERR no\r\n"), "", 0, 2, 0, "..."},
			{noReply, "", 0, 0, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"UIDL refused, and nothing deleted", []turn{
			{func(w *world) { w.keeps = true; w.post("u1", a); replyTo("UIDL", "-ERR no\r\n")(w) }, "-delete", 0, 1, 1, "..."},
			{nil, "-delete", 0, 1, 1, stillThere + "1"},
			{nil, "-delete", 0, 1, 0, "..."},
			{nil, "-delete", 0, 1, 0, ""},
		}, []string{a}, []string{a}},
		{"LIST has a message and UIDL has not", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{is("u1 - u3", a, b, c), "", 0, 2, 0, someUIDs},
			{is("u1 u2 u3", a, b, c), "-delete", 0, 1, 3, ""},
		}, []string{a, b, c}, nil},
		{"UIDL has a message and LIST has not", []turn{
			{func(w *world) {
				w.post("u1 u2", a, b)
				replyTo("LIST", fmt.Sprintf("+OK\r\n1 %d\r\n.\r\n", len(a)))(w)
			}, "", 0, 2, 0, ""},
			{nil, "", 0, 1, 0, ""}, // -1 is no size
			{noReply, "", 0, 1, 0, ""},
			{nil, "", 0, 0, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"a message listed twice", []turn{
			{func(w *world) {
				w.post("u1", a)
				replyTo("LIST", fmt.Sprintf("+OK\r\n1 %d\r\n1 %d\r\n.\r\n", len(a), len(a)))(w)
			}, "-delete", 0, 1, 1, ""},
		}, []string{a}, nil},
		{"all unique-ids changed", []turn{
			{is("u1 u2 u3", a, b, c), "", 0, 3, 0, ""},
			{is("x1 x2 x3 x4", a, b, c, d), "", 0, 4, 0, renamed + "3"},
			{nil, "", 0, 0, 0, ""},
		}, []string{a, b, c, d}, []string{a, b, c, d}},
		{"equal messages", []turn{
			{is("u1 u2", a, a), "", 0, 2, 0, ""},
			{is("u1 u2 u3", a, a, a), "", 0, 1, 0, ""},
			{is("x1 x2 x3 x4", a, a, a, a), "-delete", 0, 4, 4, renamed + "3"},
		}, []string{a, a, a, a}, nil},
		{"equal messages, one of which fails", []turn{
			{func(w *world) { w.post("u1 u2", a, a); replyTo("RETR 2", "-ERR no\r\n")(w) }, "-delete", 1, 2, 1, strings.TrimSpace(refusal)},
			{replyTo("RETR 1", "-ERR no\r\n"), "-delete", 1, 1, 0, "..."},
			{noReply, "-delete", 0, 1, 1, "..."},
		}, []string{a, a}, nil},
		{"a message fails, comes under another unique-id, and has the first one again", []turn{
			{func(w *world) { w.post("u1", a); replyTo("RETR 1", "-ERR no\r\n")(w) }, "", 1, 1, 0, "..."},
			{func(w *world) { w.reply = nil; w.post("x1", a) }, "", 0, 1, 0, ""},
			{is("u1", a), "", 0, 1, 0, "..."},
		}, []string{a}, []string{a}},
		{"UIDL n has another answer than UIDL", []turn{
			{func(w *world) {
				w.post("u1 u2", a, b)
				w.reply = func(line string) (string, bool) {
					n, ok := strings.CutPrefix(line, "UIDL ")
					return "+OK " + n + " <u>\r\n", ok
				}
			}, "-delete", 0, 2, 2, ""},
		}, []string{a, b}, nil},
		{"UIDL n is refused, and sizes change when the text is read", []turn{
			{func(w *world) {
				w.post("u1 u2", a, b)
				w.reply = func(line string) (string, bool) {
					switch {
					case strings.HasPrefix(line, "UIDL "):
						return "-ERR what?\r\n", true
					case line == "LIST" && w.count("RETR ") > 0:
						return "+OK\r\n1 999\r\n2 999\r\n.\r\n", true
					}
					return "+OK 1 999\r\n", line == "LIST 1"
				}
			}, "", 0, 2, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"a second UIDL is refused", []turn{
			{func(w *world) {
				w.post("u1 u2", a, b)
				n := 0
				w.reply = func(line string) (string, bool) {
					if line == "UIDL" {
						n++
					}
					return "-ERR once is enough\r\n", line == "UIDL" && n > 1
				}
			}, "-delete", 0, 2, 2, ""},
		}, []string{a, b}, nil},
		{"equal messages, one of which fails after the other was delivered, and is renamed", []turn{
			{is("u1", a), "", 0, 1, 0, ""},
			{func(w *world) { w.post("u2", a); replyTo("RETR 1", "-ERR no\r\n")(w) }, "", 1, 1, 0, "..."},
			{noReply, "", 0, 1, 0, "..."},
		}, []string{a}, []string{a}},
		{"equal messages without unique-ids, one of which fails", []turn{
			{func(w *world) { w.post("- -", a, a); replyTo("RETR 2", "-ERR no\r\n")(w) }, "-delete", 1, 2, 0, noUIDs + "\n" + refusal + mayBeTwin + "1"},
			{noReply, "-delete", 0, 2, 0, triedLater + "\n" + mayBeTwin + "1"},
			{nil, "-delete", 0, 2, 2, ""},
		}, []string{a, a}, nil},
		{"equal messages, one of which fails and has no size", []turn{
			{func(w *world) { w.post("u1 u2", a, a); refuseOrList("RETR 2", 1, len(a))(w) }, "-delete", 1, 2, 0, refusal + mayBeTwin + "1"},
			{noReply, "-delete", 0, 1, 2, ""},
		}, []string{a, a}, nil},
		{"equal messages, one of which has no size, and the other fails", []turn{
			{func(w *world) { w.post("u1 u2", a, a); refuseOrList("RETR 2", 2, len(a))(w) }, "-delete", 1, 2, 1, strings.TrimSpace(refusal)},
			{noReply, "-delete", 0, 1, 1, "..."},
		}, []string{a, a}, nil},
		{"numbered anew in the middle", []turn{
			{func(w *world) { w.post("u1 u2 u3 u4", a, b, c, d); renumber("RETR 3", 1)(w) }, "", tryAgain, 3, 0, ""},
			{noReply, "", 0, 3, 0, "..."},
			{nil, "-delete", 0, 0, 3, ""},
		}, []string{a, b, c, d}, nil},
		{"numbered anew in the middle, without unique-ids", []turn{
			{func(w *world) { w.post("- - - -", b, small, middle, large); renumber("RETR 3", 1)(w) }, "", tryAgain, 3, 0, noUIDs},
			{noReply, "", 0, 3, 0, "..."},
		}, []string{b, small, middle, large}, []string{small, middle, large}},
		{"numbered anew before the deletion", []turn{
			{func(w *world) { w.post("u1 u2", a, b); renumber("LIST", 2, posted{c, "u3"})(w) }, "-delete", tryAgain, 2, 0, ""},
			{noReply, "-delete", 0, 1, 2, ""},
		}, []string{a, b, c}, nil},
		{"numbered anew before the deletion, without unique-ids", []turn{
			{func(w *world) { w.post("- -", small, middle); renumber("LIST", 2, posted{large, ""})(w) }, "-delete", tryAgain, 2, 0, noUIDs},
			{noReply, "-delete", 0, 2, 2, noUIDs},
		}, []string{small, middle, large}, nil},
		{"numbered anew before the deletion, without unique-ids, and all of a size", []turn{
			{is("- -", a, b), "", 0, 2, 0, noUIDs},
			{later(31, func(w *world) { w.post("- - -", a, b, c); renumber("LIST", 2)(w) }), "-delete -keep 30d", tryAgain, 3, 0, ""},
			{noReply, "-delete", 0, 2, 2, ""},
		}, []string{a, b, c}, nil},
		{"a server that answers no questions about a message", []turn{
			{func(w *world) { w.post("u1 u2", a, b); refuse("UIDL ", "LIST ", "NOOP", "RETR 2")(w) }, "", 1, 2, 0, "..."},
			{refuse("UIDL ", "LIST ", "NOOP"), "-delete", 0, 1, 2, triedLater},
		}, []string{a, b}, nil},
		{"a server that hangs up when it is asked about a unique-id", []turn{
			{func(w *world) {
				w.reply = func(line string) (string, bool) { return pop3test.HangUp, strings.HasPrefix(line, "UIDL ") }
				w.post("u1 u2", a, b)
			}, "", tryAgain, 1, 0, ""},
			{nil, "", tryAgain, 1, 0, "..."},
			{nil, "", 0, 2, 0, "..."},
		}, []string{a, b}, []string{a, b}},
		{"a known message over -max-size", []turn{
			{is("u1", large), "", 0, 1, 0, ""},
			{func(w *world) {
				w.reply = func(line string) (string, bool) { return w.body(w.session[0].text), line == "TOP 1 0" }
				w.post("u1 u2", large, a)
			}, "-delete -max-size 1k", 0, 1, 1, ""},
		}, []string{large, a}, []string{large}},
		{"a clock that was wrong", []turn{
			{later(4000, is("u1 u2", a, b)), "", 0, 2, 0, ""},
			{later(-4000, noReply), "-delete", 0, 0, 2, ""},
		}, []string{a, b}, nil},
		{"four header fields change at each read", []turn{
			{func(w *world) {
				n := 0
				w.rewrite = func(text string) string {
					n++
					return fmt.Sprintf("Status: %d\r\nX-Keywords: %s\r\n\tx\r\n%s\r\n", n, strings.Repeat("k", n), text)
				}
				w.post("u1 u2", a, b)
			}, "", 0, 2, 0, ""},
			{nil, "", 0, 2, 0, ""}, // the sizes are others
			{nil, "", 0, 2, 0, ""},
		}, nil, []string{a, b}},
		{"header fields change, and no size", []turn{
			{func(w *world) {
				n := 0
				w.rewrite = func(text string) string {
					n = (n + 1) % 10
					return fmt.Sprintf("X-UIDL: %d\r\n%s", n, text)
				}
				w.post("u1 u2", a, b)
			}, "", 0, 2, 0, ""},
			{nil, "-delete", 0, 0, 2, ""},
		}, nil, nil},
		{"unique-ids are message numbers", []turn{
			{func(w *world) { w.numbers = true; w.post("- - -", a, b, c) }, "", 0, 3, 0, numberUIDs},
			{nil, "", 0, 0, 0, ""},
			{is("- - -", b, c, d), "", 0, 3, 0, ""}, // another client deleted a
			{is("- - - -", b, c, d, a), "-delete", 0, 1, 4, notListed + "1"},
			{is("-", all[4]), "-delete", 0, 1, 1, ""},
			{is("- -", all[5], all[6]), "-delete", 0, 2, 2, ""},
		}, []string{a, b, c, d, all[4], all[5], all[6]}, nil},
		{"unique-ids are message numbers, one not deleted", []turn{
			{func(w *world) {
				w.numbers = true
				w.post("- -", a, b)
				replyTo("DELE 1", "-ERR not now\r\n")(w)
			}, "-delete", 1, 2, 2, "..."},
			{func(w *world) { w.reply = nil; w.post("- -", a, c) }, "-delete", 0, 1, 2, ""},
		}, []string{a, b, c}, nil},
		{"TOP refused", []turn{
			{func(w *world) {
				w.reply = func(line string) (string, bool) { return "-ERR what?\r\n", strings.HasPrefix(line, "TOP ") }
				w.post("u1 u2", a, b)
			}, "", 0, 2, 0, ""},
			{is("u1 u2", a, c), "-delete", 0, 2, 2, reused + "1"},
		}, []string{a, b, c}, nil},
		{"TOP refused, and unique-ids are message numbers", []turn{
			{func(w *world) { w.numbers = true; w.post("- -", a, b); refuse("TOP ")(w) }, "", 0, 2, 0, numberUIDs},
			{nil, "", 0, 2, 0, noTOP},
			{nil, "", 0, 2, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"TOP answered twice, the second time late", []turn{
			{is("u1", a), "", 0, 1, 0, ""},
			{func(w *world) {
				late := ""
				w.reply = func(line string) (string, bool) {
					reply := late
					late = ""
					if strings.HasPrefix(line, "TOP ") {
						late = "+OK\r\n"
					}
					return reply, reply != ""
				}
			}, "-delete", badProtocol, 0, 0, ""},
			{nil, "-delete", 0, 1, 1, ""},
		}, []string{a}, nil},
		{"TOP refused for one", []turn{
			{is("u1 u2 u3", a, b, c), "", 0, 3, 0, ""},
			{replyTo("TOP 2 0", "-ERR gone\r\n"), "-delete", 0, 1, 3, ""},
		}, []string{a, b, c}, nil},
		{"TOP ends the session", []turn{
			{is("u1 u2", a, b), "", 0, 2, 0, ""},
			{func(w *world) {
				w.reply = func(line string) (string, bool) {
					return pop3test.HangUp, strings.HasPrefix(line, "TOP ")
				}
			}, "-delete", tryAgain, 0, 0, ""},
			{nil, "", 0, 0, 0, ""},        // not sent
			{nil, "-delete", 0, 2, 2, ""}, // again at once, without it
		}, []string{a, b}, nil},
		{"UIDL ends the session", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("UIDL", pop3test.HangUp)(w) }, "-delete", tryAgain, 0, 0, ""},
			{func(w *world) { w.now = w.now.AddDate(0, 0, 7) }, "", 0, 2, 0, noUIDs},
			{noReply, "", 0, 2, 0, ""},
			{func(w *world) {
				for range avoided - 4 {
					w.mustPopget()
				}
			}, "", 0, 2, 0, ""},
			{nil, "", 0, 2, 0, ""}, // with unique-ids
			{nil, "", 0, 0, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"CAPA ends the session", []turn{
			{func(w *world) { w.post("u1 u2 u3 u4 u5 u6", all...); replyTo("CAPA", pop3test.HangUp)(w) }, "", tryAgain, 0, 0, ""},
			{nil, "", 0, 6, 0, "..."},
		}, all[:6], all[:6]},
		{"CAPA ends the session before the login", []turn{
			{func(w *world) { w.auth = "auto"; w.post("u1 u2", a, b); replyTo("CAPA", pop3test.HangUp)(w) }, "", tryAgain, 0, 0, ""},
			{nil, "", 0, 2, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"CAPA ends the session after the login", []turn{
			{func(w *world) {
				w.auth = "auto"
				w.post("u1 u2", a, b)
				w.reply = func(line string) (string, bool) {
					if len(w.seen) > 1 && w.seen[len(w.seen)-2] == "PASS tides" {
						return pop3test.HangUp, line == "CAPA"
					}
					return "+OK\r\nUSER\r\n.\r\n", line == "CAPA"
				}
			}, "", tryAgain, 0, 0, ""},
			{nil, "", 0, 2, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"UIDL ends the session now and then", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("UIDL", pop3test.HangUp)(w) }, "", tryAgain, 0, 0, ""},
			{noReply, "", 0, 2, 0, ""},
			{replyTo("UIDL", pop3test.HangUp), "", tryAgain, 0, 0, ""},
			{noReply, "", 0, 0, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"a row of UIDL that cannot be read", []turn{
			{func(w *world) { w.post("u1 u2", a, b); replyTo("UIDL", "+OK\r\n1 u1\r\n2 \x01\r\n.\r\n")(w) }, "", badProtocol, anyNumber, 0, "..."},
			{noReply, "", 0, anyNumber, 0, "..."},
		}, []string{a, b}, []string{a, b}},
		{"refused once where there are no unique-ids", []turn{
			{func(w *world) { w.post("- -", a, b); replyTo("RETR 2", "-ERR no\r\n")(w) }, "", 1, 2, 0, "..."},
			{noReply, "", 0, 2, 0, triedLater},
			{nil, "", 0, 2, 0, ""},
		}, []string{a, b}, []string{a, b}},
		{"message numbers that have failed, and change", []turn{
			{func(w *world) { w.post("- - -", small, middle, large); replyTo("RETR 3", "-ERR not now\r\n")(w) }, "", 1, 3, 0, "..."},
			{noReply, "-delete", tryAgain, 2, 2, "..."},
			{nil, "-delete", 0, 1, 1, ""},
		}, []string{small, middle, large}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for i, turn := range tt.turns {
				w.turn(i, turn)
			}
			if tt.want != nil {
				w.wantMail(tt.want)
			} else if files, err := os.ReadDir(filepath.Join(w.dir, "new")); err != nil || len(files) != 2 {
				t.Errorf("there are %d messages, want 2", len(files))
			}
			if left := w.texts(); !slices.Equal(left, tt.left) {
				t.Errorf("on the server are %d messages, want %d", len(left), len(tt.left))
			}
		})
	}
}

// turn runs popget once.
func (w *world) turn(i int, turn turn) {
	w.t.Helper()
	if turn.change != nil {
		turn.change(w)
	}
	_, stderr, err := w.popget(strings.Fields(turn.flags)...)
	if status := exitStatus(err); status != turn.status && (turn.status != anyNumber || status == 0) {
		w.t.Errorf("run %d: exit status %d, want %d: %v", i, status, turn.status, err)
	}
	fetched, deleted := w.count("RETR "), w.count("DELE ")
	if fetched != turn.fetched && turn.fetched != anyNumber || deleted != turn.deleted && turn.deleted != anyNumber {
		w.t.Errorf("run %d: RETR %d times, DELE %d times; want %d, %d", i, fetched, deleted, turn.fetched, turn.deleted)
	}
	odd := strings.TrimSuffix(strings.ReplaceAll(stderr, "popget: ", ""), "\n")
	if odd != turn.odd && turn.odd != "..." {
		w.t.Errorf("run %d said %q, want %q", i, odd, turn.odd)
	}
}
