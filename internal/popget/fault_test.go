package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.com/pop3/internal/pop3test"
)

// TestOneBadMessage has a message that cannot be fetched keep neither the
// others nor their deletion.
func TestOneBadMessage(t *testing.T) {
	t.Parallel()
	six := mails(6)
	all, more, good := six[:5], six[5], slices.Concat(six[:1], six[2:5])
	big := all[1] + strings.Repeat("x", 9000) + "\r\n"
	looksLike := "Subject: how POP3 works\r\n\r\nIt ends with\r\n.\r\n+OK is the reply to what comes next.\r\n" + strings.Repeat("x", 5000) + "\r\n"
	unstuffed := "Subject: x\r\n\r\nbefore\r\n.\r\nbehind\r\n" + strings.Repeat("text\r\n", 1000)
	tried := func(n, runs int) string {
		return fmt.Sprintf("message %d is tried after the others; earlier runs that failed to fetch it: %d", n, runs)
	}
	tooBig := fmt.Sprintf("message 2 skipped: %d octets exceed -max-size", len(big))
	for _, tt := range []struct {
		name  string
		bad   string // message 2
		turns []turn
		want  []string
		left  []string
	}{
		{"RETR ends the session", all[1], []turn{
			{replyToRETR(all[1], pop3test.HangUp), "-delete", tryAgain, anyNumber, 0, ""},
			{nil, "-delete", tryAgain, 4, 4, tried(2, 1)},
			{nil, "-delete", tryAgain, 1, 0, tried(1, 2)},
			{noReply, "-delete", 0, 1, 1, tried(1, 3)},
			{nil, "-delete", 0, 0, 0, ""},
		}, all, nil},
		{"no end comes", all[1], []turn{
			{replyToRETR(all[1], "+OK\r\nSubject: half\r\n"+pop3test.HangUp), "-delete", tryAgain, anyNumber, 0, ""},
			{nil, "-delete", tryAgain, 4, 4, tried(2, 1)},
			{nil, "-delete", tryAgain, 1, 0, tried(1, 2)},
		}, good, all[1:2]},
		{"it is over -max-size", big, []turn{
			{nil, "-delete -max-size 8k", 0, 4, 4, tooBig},
			{nil, "-delete -max-size 8k", 0, 0, 0, ""},
		}, good, []string{big}},
		{"it is over -max-size, and LIST does not say so", big, []turn{
			{func(w *world) {
				w.reply = func(line string) (string, bool) {
					return strings.ReplaceAll(w.listing("LIST"), fmt.Sprint(" ", len(big)), " 5000"), line == "LIST"
				}
			}, "-delete -max-size 8k", 1, anyNumber, 0, ""},
			{nil, "-delete -max-size 8k", 1, 4, 4, tried(2, 1)},
		}, good, []string{big}},
		{"it is refused", all[1], []turn{
			{replyToRETR(all[1], "-ERR not now\r\n"), "-delete", 1, 5, 4, `pop3: RETR 2: server refused: "not now"`},
			{noReply, "-delete", 0, 1, 1, tried(1, 1)},
		}, all, nil},
		{"it is refused, and the others are kept", all[1], []turn{
			{func(w *world) { w.keeps = true; replyToRETR(all[1], "-ERR not now\r\n")(w) }, "-delete", 1, 5, 4, "..."},
			{nil, "-delete", 1, 5, 4, "..."},
			{nil, "-delete", 1, 5, 0, "..."}, // here it says that they are kept
			{nil, "-delete", 1, 1, 0, tried(2, 3) + "\n" + `pop3: RETR 2: server refused: "not now"`},
		}, good, all},
		{"the second login is refused", all[1], []turn{
			{replyToRETR(all[1], "-ERR not now\r\n"), "-delete", 1, 5, 4, "..."},
			{func(w *world) {
				logins := 0
				w.reply = func(line string) (string, bool) {
					if line == "PASS tides" {
						logins++
					}
					return "-ERR too soon\r\n", line == "PASS tides" && logins == 2
				}
				w.mails = append(w.mails, posted{more, "uid-6"})
			}, "-delete", tryAgain, 1, 1, tried(1, 1)},
			{nil, "-delete", 0, 1, 1, tried(1, 1)},
		}, append(slices.Clone(all), more), nil},
		{"the second listing is refused", all[1], []turn{
			{replyToRETR(all[1], "-ERR not now\r\n"), "-delete", 1, 5, 4, "..."},
			{func(w *world) {
				w.reply = func(line string) (string, bool) {
					return "-ERR [IN-USE] too many\r\n", slices.Contains([]string{"LIST", "UIDL", "STAT"}, line) && w.count("PASS") == 2
				}
			}, "-delete", tryAgain, 0, 0, tried(1, 1)},
			{func(w *world) { w.mails = append(w.mails, posted{more, "uid-6"}) }, "-delete", 0, 2, 2, tried(1, 1)},
		}, six, nil},
		{"the second session ends before the login", all[1], []turn{
			{replyToRETR(all[1], "-ERR not now\r\n"), "-delete", 1, 5, 4, "..."},
			{func(w *world) {
				logins := 0
				w.reply = func(line string) (string, bool) {
					if line == "USER ada" {
						logins++
					}
					return pop3test.HangUp, line == "USER ada" && logins == 2
				}
			}, "-delete", tryAgain, 0, 0, tried(1, 1)},
			{nil, "-delete", 0, 1, 1, tried(1, 1)},
		}, all, nil},
		{"a server without dot-stuffing ends it early", unstuffed, []turn{
			{func(w *world) { w.unstuffed = true; refuse("CAPA")(w) }, "-delete", badProtocol, 3, 0, ""},
			{nil, "-delete", badProtocol, 3, 3, tried(2, 1) + "\n" + tried(3, 1)}, // 3 was asked for next
			{nil, "-delete", badProtocol, 2, 0, tried(1, 2) + "\n" + tried(2, 1)},
			{nil, "-delete", badProtocol, 1, 1, tried(1, 3)},
		}, good, []string{unstuffed}},
		{"a server without dot-stuffing ends it early, before what looks like a reply", looksLike, []turn{
			{func(w *world) { w.unstuffed = true; refuse("CAPA")(w) }, "-delete", badProtocol, 3, 0, ""},
			{nil, "-delete", badProtocol, 3, 3, tried(2, 1) + "\n" + tried(3, 1)},
			{nil, "-delete", badProtocol, 2, 0, tried(1, 2) + "\n" + tried(2, 1)},
			{nil, "-delete", badProtocol, 1, 1, tried(1, 3)},
		}, good, []string{looksLike}},
		{"the line drops when a batch has come", all[1], []turn{
			{replyTo("UIDL 3", pop3test.HangUp), "-delete", tryAgain, 3, 0, ""},
			{nil, "-delete", 0, 4, 5, tried(3, 1)},
		}, all, nil},
		{"it has no end", all[1], []turn{
			{replyToRETR(all[1], "+OK\r\n"+strings.Repeat(strings.Repeat("x", 998)+"\r\n", 1200)+pop3test.HangUp), "-delete", badProtocol, anyNumber, 0, ""},
			{nil, "-delete", badProtocol, 4, 4, tried(2, 1)},
			{nil, "-delete", badProtocol, 1, 0, tried(1, 2)},
		}, good, all[1:2]},
		{"another one fails in the meantime", all[1], []turn{
			{replyToRETR(all[1], "-ERR not now\r\n"), "", 1, 5, 0, "..."},
			{func(w *world) {
				w.reply = func(line string) (string, bool) { return "-ERR no\r\n", line == "RETR 2" || line == "RETR 6" }
				w.mails = append(w.mails, posted{more, "uid-6"})
			}, "", 1, 2, 0, tried(2, 1) + "\n" + `pop3: RETR 6: server refused: "no"` + "\n" + `pop3: RETR 2: server refused: "no"`},
			{noReply, "", 0, 2, 0, tried(2, 2) + "\n" + tried(6, 1)},
		}, six, six},
		{"it has failed, and is gone", all[1], []turn{
			{replyToRETR(all[1], "-ERR not now\r\n"), "", 1, 5, 0, "..."},
			{func(w *world) {
				w.reply = func(line string) (string, bool) {
					if line != "QUIT" {
						return "", false
					}
					w.mails = slices.DeleteFunc(w.mails, func(m posted) bool { return m.text == all[1] })
					return "+OK\r\n", true
				}
			}, "", 0, 0, 0, tried(2, 1)},
		}, good, good},
		{"a cut text, and then a refusal that nothing asked for", all[1], []turn{ // Inbucket 2
			{replyToRETR(all[1], "+OK\r\nSubject: mail 001\r\n.\r\n-ERR Failed to RETR\r\n"), "-delete", badProtocol, anyNumber, 0, "..."},
			{nil, "-delete", anyNumber, anyNumber, anyNumber, "..."},
			{nil, "-delete", anyNumber, anyNumber, anyNumber, "..."},
			{nil, "-delete", anyNumber, 1, anyNumber, "..."},
		}, good, all[1:2]},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, all...)
			w.mails[1].text = tt.bad
			for i, turn := range tt.turns {
				w.turn(i, turn)
			}
			w.wantMail(tt.want)
			if left := w.texts(); !slices.Equal(left, tt.left) {
				t.Errorf("on the server are %d messages, want %d", len(left), len(tt.left))
			}
		})
	}
}

// replyToRETR is a fake's reply to RETR of a message.
func replyToRETR(text, reply string) func(w *world) {
	return func(w *world) {
		w.reply = func(line string) (string, bool) {
			for i, m := range w.session {
				if m.text == text && line == fmt.Sprintf("RETR %d", i+1) {
					return reply, true
				}
			}
			return "", false
		}
	}
}

// What has failed has a session of its own, and a NOOP on each side.
func TestSecondSession(t *testing.T) {
	t.Parallel()
	all := unlike(4)
	w := newWorld(t, all...)
	replyToRETR(all[1], "-ERR not now\r\n")(w)
	if _, _, err := w.popget(); exitStatus(err) != 1 {
		t.Errorf("err = %v", err)
	}
	w.reply = func(line string) (string, bool) { return "-ERR not now\r\n", line == "DELE 1" }
	if _, _, err := w.popget("-delete"); exitStatus(err) != 1 {
		t.Errorf("err = %v", err)
	}
	got := strings.ReplaceAll(strings.Join(w.seen, " "), "CAPA ", "")
	const want = "USER ada PASS tides LIST UIDL TOP 1 0 TOP 3 0 TOP 4 0 UIDL 4 LIST UIDL DELE 1 DELE 3 DELE 4 QUIT " +
		"USER ada PASS tides LIST UIDL NOOP RETR 2 UIDL 2 LIST UIDL DELE 2 QUIT"
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	w.wantMail(all)
}

// What a second login that was refused leaves is tried in the next session, and
// in one of its own after that.
func TestSecondLoginRefused(t *testing.T) {
	t.Parallel()
	all := mails(2)
	w := newWorld(t, all...)
	logins, refused := 0, false
	w.reply = func(line string) (string, bool) {
		switch line {
		case "PASS tides":
			logins++
			return "-ERR [LOGIN-DELAY] wait\r\n", refused && logins == 2
		case "RETR 2":
			return "-ERR not now\r\n", true
		}
		return "", false
	}
	for i, want := range []struct{ logins, status int }{{1, 1}, {2, tryAgain}, {1, 1}, {2, tryAgain}} {
		logins, refused = 0, true
		if _, _, err := w.popget(); logins != want.logins || exitStatus(err) != want.status {
			t.Errorf("run %d: %d logins, err = %v; want %v", i, logins, err, want)
		}
	}
	w.wantMail(all[:1])
}

// What has failed is tried although no session ends well.
func TestTriedAfterLostDele(t *testing.T) {
	t.Parallel()
	all := mails(3)
	w := newWorld(t, all...)
	fails := true
	w.reply = func(line string) (string, bool) {
		if line == "RETR 2" && fails {
			fails = false
			return "-ERR not now\r\n", true
		}
		return pop3test.HangUp, line == "DELE 1"
	}
	for range 3 {
		if _, _, err := w.popget("-delete"); exitStatus(err) != tryAgain {
			t.Errorf("err = %v", err)
		}
	}
	w.wantMail(all)
}

// A stray refusal makes each reply that of the command before.
func TestOneReplyLate(t *testing.T) {
	t.Parallel()
	all := mails(2)
	w := newWorld(t, all...)
	w.reply = func(line string) (string, bool) {
		reply, ok := map[string]string{
			"RETR 1": "+OK\r\nSubject: cut\r\n.\r\n",
			"UIDL 1": "-ERR Failed to RETR\r\n",
			"LIST 1": "+OK 1 uid-1\r\n",
			"NOOP":   fmt.Sprintf("+OK 1 %d\r\n", len(all[0])),
		}[line]
		return reply, ok
	}
	if _, _, err := w.popget("-delete"); exitStatus(err) != badProtocol {
		t.Errorf("err = %v", err)
	}
	w.wantMail(nil)
	if len(w.mails) != 2 || w.count("DELE") > 0 {
		t.Errorf("DELE was sent, and %d messages are left", len(w.mails))
	}
}

// A fault that is not repeated is forgotten after 90 days.
func TestForgetsFaults(t *testing.T) {
	t.Parallel()
	all := mails(2)
	for days, count := range map[int]int{89: 1, 91: 0} {
		w := newWorld(t, all...)
		replyToRETR(all[1], "-ERR not now\r\n")(w)
		w.popget()
		gone := w.mails[1:]
		w.mails, w.reply, w.now = w.mails[:1], nil, w.now.AddDate(0, 0, days)
		w.mustPopget()
		w.mails = append(w.mails, gone...)
		if _, stderr, _ := w.popget(); strings.Count(stderr, "failed to fetch it: 1") != count {
			t.Errorf("after %d days it said %q", days, stderr)
		}
	}
}
