package hostile_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"slices"
	"strings"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// A dialogue is a session that is the same each time: with a server on a tape, and a
// client that makes calls until it is done, whatever they come to.
type dialogue struct {
	name    string
	opts    pop3.Options
	replies map[string]string // to whole lines, or else to verbs; nil is a server that has STLS
	client  func(*stage)
	marks   bool // messages are marked when QUIT is sent
	random  bool // it needs random octets
}

// dial returns the client's end.
func (d *dialogue) dial() net.Conn {
	if d.replies != nil {
		return pop3test.NewTape(greeting, d.answer)
	}
	srv := pop3test.NewUnstartedServer()
	srv.Mechanisms = []string{"PLAIN"}
	srv.AddUser("u", "p", awkward[0])
	near, far := pop3test.Pipe()
	go srv.ServeConn(far)
	return near
}

const greeting = "+OK <1.2@tape>\r\n"

// answer is the server.
func (d *dialogue) answer(line string) string {
	if reply, ok := d.replies[line]; ok {
		return reply
	}
	return pop3test.Replies(d.replies).Answer(line)
}

// A stage is where a dialogue is played. It sees to what holds in all of them.
type stage struct {
	ctx   context.Context
	c     *pop3.Client
	ahead bool // the context may be done between a message and what was asked for behind it

	out     []string // what each call came to
	partial string   // what had come of the message that failed
	err     error    // what ended the session, or nil
	first   error    // Client.Err then, or nil
	cause   error    // what all later errors are
	wrong   string   // what should not have happened
}

// play plays a dialogue over conn. Each command that is started is done, in order, and none
// with the reply of another.
func (d *dialogue) play(ctx context.Context, conn net.Conn, ahead bool) *stage {
	s := &stage{ctx: ctx, ahead: ahead}
	opts := d.opts
	opts.Timeout = timeout
	var started, done []string
	opts.Trace = &pop3.Trace{
		CommandStart: func(_ context.Context, info pop3.CommandInfo) {
			started = append(started, fmt.Sprint(info.Command, " ", info.Number))
		},
		CommandDone: func(_ context.Context, info pop3.CommandInfo) {
			done = append(done, fmt.Sprint(info.Command, " ", info.Number))
			status, _, _ := strings.Cut(d.answer(done[len(done)-1]), "\r\n")
			if info.Command == "RETR" && d.replies != nil && info.Reply != "" && !strings.HasSuffix(status, " "+info.Reply) {
				s.fail("RETR %d is done with the reply %q", info.Number, info.Reply)
			}
		},
	}
	s.do("greeting", func() (v any, err error) {
		s.c, err = pop3.NewClient(ctx, conn, &opts)
		return "", err
	})
	if s.c == nil {
		return s
	}
	d.client(s)
	if s.err != nil && s.first == nil { // the context was done between two exchanges
		if err := s.c.Noop(context.Background()); err != nil && kindOf(err) != "refused" {
			s.fail("Noop on what should be usable: %v", err)
		}
	}
	if s.c.Close(); !slices.Equal(started, done) {
		s.fail("started %q, done %q", started, done)
	}
	return s
}

func (s *stage) fail(format string, args ...any) {
	if s.wrong == "" {
		s.wrong = fmt.Sprintf(format, args...)
	}
}

// do makes a call. What holds for each: nil means that it is done, and so does not come
// with a connection that the context has closed, but from QUIT; behind the end of the
// session there is nothing but its cause.
func (s *stage) do(name string, call func() (any, error)) {
	v, err := call()
	var first error
	if s.c != nil {
		first = s.c.Err()
	} else if err != nil {
		first = err
	}
	switch kind := kindOf(err); {
	case s.cause != nil:
		if !errors.Is(err, s.cause) {
			s.fail("%s behind the end: %v, want %v", name, err, s.cause)
		}
	case err == nil && first != nil && name != "QUIT" && !(s.ahead && strings.HasPrefix(name, "message ")):
		s.fail("%s: nil, and the connection is closed: %v", name, first)
	case err == nil:
		s.out = append(s.out, fmt.Sprintf("%s: %q", name, v))
	case first == nil && kind != "canceled", name == "QUIT" && kind == "refused":
		s.out = append(s.out, fmt.Sprintf("%s: %q, %v", name, v, err))
	default:
		s.out = append(s.out, name+": "+kind)
		s.err, s.first, s.cause = err, first, cmp.Or(first, context.Cause(s.ctx))
		if text, ok := v.(string); strings.HasPrefix(name, "message ") {
			s.partial = text
		} else if ok && strings.Trim(text, "map[]{}0 ") != "" {
			s.fail("%s: %q beside %v", name, v, err)
		}
	}
}

func (s *stage) error(name string, call func(context.Context) error) {
	s.do(name, func() (any, error) { return "", call(s.ctx) })
}

// messages makes a loop, and leaves it in the given step, or not at all if that is 0. It
// takes all of a message by WriteTo or by Read, or some of it, in turn.
func (s *stage) messages(loop iter.Seq2[*pop3.Message, error], leave int) {
	n := 0
	for m, err := range loop {
		n++
		if m == nil {
			s.do("loop", func() (any, error) { return "", err })
			return
		}
		if n%3 == 2 && err == nil {
			io.CopyN(io.Discard, m, 4) // whatever comes of it, the loop tells
		} else {
			s.do(fmt.Sprint("message ", m.Number), func() (any, error) {
				var b strings.Builder
				switch {
				case err != nil:
				case n%3 == 0:
					_, err = m.WriteTo(&b)
				default:
					_, err = io.CopyBuffer(&b, struct{ io.Reader }{m}, make([]byte, 7))
				}
				return b.String(), err
			})
		}
		if n == leave {
			break
		}
	}
	s.do("loop", func() (any, error) { // a loop that is left tells nothing
		if s.cause != nil || leave > 0 {
			return "", s.c.Err()
		}
		return "", nil
	})
}

func get[T any](s *stage, name string, call func(context.Context) (T, error)) {
	s.do(name, func() (any, error) { v, err := call(s.ctx); return fmt.Sprint(v), err })
}

// maildrop adds the messages of awkward to a server's replies.
func maildrop(replies map[string]string) map[string]string {
	for i, text := range awkward {
		replies[fmt.Sprint("RETR ", i+1)] = fmt.Sprintf("+OK %d octets\r\n%s", len(text), stuff(text))
		replies["LIST"] += fmt.Sprintf("%d %d\r\n", i+1, len(text))
		replies["UIDL"] += fmt.Sprintf("%d uid%d\r\n", i+1, i+1)
	}
	replies["LIST"], replies["UIDL"] = "+OK\r\n"+replies["LIST"]+".\r\n", "+OK\r\n"+replies["UIDL"]+".\r\n"
	return replies
}

func fetchAll(s *stage) {
	c := s.c
	s.error("USER", func(ctx context.Context) error { return c.User(ctx, "u") })
	s.error("PASS", func(ctx context.Context) error { return c.Pass(ctx, "p") })
	get(s, "LIST", c.ListAll)
	s.messages(c.RetrAll(s.ctx, pop3test.Numbers(len(awkward))), 0)
	s.do("TOP", func() (any, error) {
		m, err := c.Top(s.ctx, 1, 2)
		if err == nil {
			err = m.Close()
		}
		return "", err
	})
	s.error("DELE of many", func(ctx context.Context) error { return c.DeleAll(ctx, pop3test.Numbers(3)) })
	s.error("DELE", func(ctx context.Context) error { return c.Dele(ctx, 4) })
	s.error("QUIT", c.Quit)
}

// underTLS is dear: TLS is worth a few cuts in the handshake, and one in each record.
var underTLS = &dialogue{name: "TLS", marks: true, random: true, client: func(s *stage) {
	s.error("STLS", func(ctx context.Context) error { return s.c.StartTLS(ctx, pop3test.ScriptTLS()) })
	s.error("Login", func(ctx context.Context) error { return s.c.Login(ctx, "u", "p") })
	s.messages(s.c.RetrAll(s.ctx, []int{1}), 0)
	s.error("DELE", func(ctx context.Context) error { return s.c.Dele(ctx, 1) })
	s.error("QUIT", s.c.Quit)
}}

// dialogues are what happens between clients and servers.
var dialogues = []*dialogue{
	{name: "fetch, pipelined", client: fetchAll, marks: true,
		replies: maildrop(map[string]string{"CAPA": pop3test.Pipelining, "TOP": "+OK\r\n..a\r\n.\r\n"})},
	{name: "fetch, one at a time", client: fetchAll, marks: true, opts: pop3.Options{Window: 1},
		replies: maildrop(map[string]string{"TOP": "+OK\r\n..a\r\n.\r\n"})},
	{name: "listings and loops left", replies: maildrop(map[string]string{"CAPA": pop3test.Pipelining, "TOP": "+OK\n..a\n.\n", "LANG": "+OK\r\nen English\r\n.\r\n"}),
		client: func(s *stage) {
			get(s, "UIDL", s.c.UIDLAll)
			get(s, "Messages", s.c.Messages)
			s.messages(s.c.RetrAll(s.ctx, pop3test.Numbers(5)), 2)
			s.messages(s.c.TopAll(s.ctx, pop3test.Numbers(4), 1), 1)
			get(s, "Messages", s.c.Messages)
			get(s, "CAPA", s.c.Capa)
			get(s, "LANG", s.c.LangAll)
			s.error("QUIT", s.c.Quit)
		}},
	{name: "Login that falls back", random: true, replies: map[string]string{"CAPA": "+OK\r\nSASL SCRAM-SHA-256 PLAIN LOGIN\r\n.\r\n",
		"AUTH": "-ERR [AUTH] no\r\n", "AUTH PLAIN AHUAcA==": "+OK in\r\n", "AUTH LOGIN": "+ VXNlcm5hbWU6\r\n", "*": "-ERR canceled\r\n"},
		client: func(s *stage) {
			s.error("AUTH", func(ctx context.Context) error { return s.c.Auth(ctx, &pop3test.SASL{Mech: "LOGIN"}) })
			s.error("STLS", func(ctx context.Context) error { return s.c.StartTLS(ctx, pop3test.ScriptTLS()) })
			s.error("Login", func(ctx context.Context) error { return s.c.Login(ctx, "u", "p") })
			s.error("NOOP", s.c.Noop)
			s.error("QUIT", s.c.Quit)
		}},
	{name: "refusals", marks: true, replies: map[string]string{"CAPA": "-ERR [SYS/TEMP] no\r\n", "PASS": "-ERR [IN-USE] no\r\n", "LIST": "-ERR empty\r\n",
		"UIDL": "-ERR what?\r\n", "STAT": "+OK 0 0\r\n", "RETR": "-ERR no\r\n", "RETR 2": "+OK\r\n.\r\n", "DELE 2": "-ERR no\r\n", "QUIT": "-ERR\r\n"},
		client: func(s *stage) {
			s.error("Login", func(ctx context.Context) error { return s.c.Login(ctx, "u", "p") })
			get(s, "LIST", s.c.ListAll)
			get(s, "Messages", s.c.Messages)
			s.messages(s.c.RetrAll(s.ctx, pop3test.Numbers(3)), 0)
			s.error("DELE", func(ctx context.Context) error { return s.c.DeleAll(ctx, pop3test.Numbers(3)) })
			s.error("RSET", s.c.Rset)
			s.error("DELE 1", func(ctx context.Context) error { return s.c.Dele(ctx, 1) })
			s.error("QUIT", s.c.Quit)
		}},
	{name: "faults of content", replies: map[string]string{"CAPA": pop3test.Pipelining, "STAT": "+OK many\r\n", "LIST": "+OK\r\n1 10\r\nx\r\n2 20\r\n\r\n.\r\n",
		"LIST 1": "+OK 1\r\n", "UIDL": "+OK\r\n1 a\r\n2 \x01\r\n.\r\n", "UIDL 1": "+OK 1 \x7f\r\n", "LANG": "+OK\r\nen x\r\n \r\n.\r\n"},
		client: func(s *stage) {
			s.error("STAT", func(ctx context.Context) error { _, _, err := s.c.Stat(ctx); return err })
			get(s, "LIST", s.c.ListAll)
			get(s, "UIDL", s.c.UIDLAll)
			get(s, "Messages", s.c.Messages)
			get(s, "LIST 1", func(ctx context.Context) (pop3.MessageInfo, error) { return s.c.List(ctx, 1) })
			get(s, "UIDL 1", func(ctx context.Context) (pop3.MessageUID, error) { return s.c.UIDL(ctx, 1) })
			get(s, "LANG", s.c.LangAll)
			s.error("QUIT", s.c.Quit)
		}},
	{name: "texts in LF", replies: map[string]string{"CAPA": "+OK\r\nPIPELINING\n.\r\n", "LIST": "+OK\r\n1 5\n2 6\n.\n", "UIDL": "+OK\n1 a\n2 b\n.\r\n",
		"RETR 1": "+OK\r\na\n..b\n.\r\n", "RETR 2": "+OK\r\n.\n", "RETR 3": "+OK\na\r\n..\r\n.\n", "RETR 4": "+OK\r\na\r\n.\nb\r\n.\r\n", "QUIT": "+OK"},
		client: func(s *stage) {
			get(s, "Messages", s.c.Messages)
			s.messages(s.c.RetrAll(s.ctx, pop3test.Numbers(4)), 0)
			s.messages(s.c.RetrAll(s.ctx, pop3test.Numbers(4)), 1)
			s.error("QUIT", s.c.Quit)
		}},
}

// whole plays a dialogue without harm.
func (d *dialogue) whole(ctx context.Context, size func(read int) int) *stage {
	tape := pop3test.NewTape(greeting, d.answer)
	tape.Size = size
	return d.play(ctx, tape, false)
}
