package hostile_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// A method is one of *pop3.Client. The tests in this file find all of them by reflection:
// one that is written tomorrow is in each test without a line. If it has a parameter of a
// type that is not in arguments below, all of them fail until it is.
type method struct{ reflect.Method }

// exchanges are the methods that take a context: they talk to the server. In FIPS 140-only
// mode APOP, which needs MD5, is none of them.
func exchanges() []method {
	return methods(func(m method) bool {
		return m.Type.NumIn() > 1 && m.Type.In(1) == typeOf[context.Context]() && (m.Name != "APOP" || pop3test.MD5Allowed())
	})
}

// anytime are the others, but Close: they may be called at any time.
func anytime() []method {
	return methods(func(m method) bool { return m.Type.NumIn() == 1 && m.Name != "Close" })
}

// Every method is in one of the lists. One that took an argument and no context would be
// in none.
func TestEveryMethodIsWalked(t *testing.T) {
	t.Parallel()
	walked := append(exchanges(), anytime()...)
	for _, m := range methods(func(m method) bool { return m.Name != "Close" && (m.Name != "APOP" || pop3test.MD5Allowed()) }) {
		if !slices.ContainsFunc(walked, func(w method) bool { return w.Name == m.Name }) {
			t.Errorf("no test here calls %s", m.Name)
		}
	}
}

func methods(which func(method) bool) (list []method) {
	for i := range typeOf[*pop3.Client]().NumMethod() {
		if m := (method{typeOf[*pop3.Client]().Method(i)}); which(m) {
			list = append(list, m)
		}
	}
	return list
}

func typeOf[T any]() reflect.Type { return reflect.TypeFor[T]() }

// credentials are the methods of rule 12: they need TLS or a local peer.
var credentials = []string{"User", "Pass", "APOP", "RPOP", "Auth", "Login"}

// mayBeZero are the numbers that may be 0, by method and position behind the context.
var mayBeZero = map[string]int{"Top": 2, "TopAll": 2}

// marker is in every argument that is wrong, and in no error.
const marker = "DELE 1"

// arguments returns, for the i-th parameter of a method, an argument that is right and
// all kinds that are wrong.
func (m method) arguments(t *testing.T, i int) (right any, wrong []any) {
	t.Helper()
	switch typ := m.Type.In(i); typ {
	case typeOf[string]():
		for b := range 0x80 {
			if b < ' ' || b == 0x7F {
				ctl := string(rune(b))
				wrong = append(wrong, ctl, "name"+ctl, ctl+marker, "na"+ctl+marker)
			}
		}
		if m.Name != "APOP" || i == 2 { // only a digest of its secret is sent
			wrong = append(wrong, strings.Repeat(marker, 1000))
		}
		return "name", wrong
	case typeOf[int]():
		if mayBeZero[m.Name] != i-1 {
			wrong = append(wrong, 0)
		}
		return 1, append(wrong, -1, math.MinInt)
	case typeOf[[]int]():
		return []int{1, 2}, []any{[]int{0}, []int{-1}, []int{1, math.MinInt}, []int{1, 2, 0}}
	case typeOf[pop3.SASL]():
		return &pop3test.SASL{Mech: "X", IR: []byte("ir")}, []any{nil}
	case typeOf[*tls.Config]():
		return pop3test.ScriptTLS(), []any{new(tls.Config)} // without a name to verify
	default:
		t.Fatalf("%s has a parameter of type %v: add to this function what is right and wrong for it", m.Name, typ)
		return nil, nil
	}
}

// call calls the method with arguments that are right, but for the one at position bad,
// unless that is 0. It runs a loop to its end, and reads a message to its end. alone
// reports whether the error was all that was returned.
func (m method) call(t *testing.T, c *pop3.Client, ctx context.Context, bad int, arg any) (err error, alone bool) {
	t.Helper()
	in := []reflect.Value{reflect.ValueOf(c), valueOf(typeOf[context.Context](), ctx)}
	for i := 2; i < m.Type.NumIn(); i++ {
		right, _ := m.arguments(t, i)
		if i == bad {
			right = arg
		}
		in = append(in, valueOf(m.Type.In(i), right))
	}
	alone = true
	for _, out := range m.Func.Call(in) {
		switch v := out.Interface().(type) {
		case error:
			err = v
		case *pop3.Message:
			if alone = v == nil; !alone {
				_, err = io.Copy(io.Discard, struct{ io.Reader }{v})
			}
		default:
			if out.Kind() != reflect.Func || !out.Type().CanSeq2() {
				alone = alone && out.IsZero()
				break
			}
			yields := 0
			for m, e := range out.Seq2() {
				err, _ = e.Interface().(error)
				yields++
				alone = m.IsNil() && yields == 1
			}
		}
	}
	return err, alone
}

func valueOf(typ reflect.Type, v any) reflect.Value {
	if v == nil {
		return reflect.Zero(typ)
	}
	return reflect.ValueOf(v)
}

// refuses fails the test unless the method refuses each wrong argument, whatever else is
// wrong with the call, and tells nothing of it.
func (m method) refuses(t *testing.T, c *pop3.Client, ctx context.Context) {
	t.Helper()
	for i := 2; i < m.Type.NumIn(); i++ {
		_, wrong := m.arguments(t, i)
		for _, arg := range wrong {
			err, alone := m.call(t, c, ctx, i, arg)
			switch kind := kindOf(err); {
			case err == nil || !alone:
				t.Errorf("%s took %.40v", m.Name, arg)
			case kind != "other" && kind != "too large" || errors.Is(err, pop3.ErrBusy) || errors.Is(err, pop3.ErrInsecureAuth):
				t.Errorf("%s(%.40v): %v, want that the argument is wrong", m.Name, arg, err)
			case strings.Contains(err.Error(), marker) || strings.ContainsAny(err.Error(), "\r\n\x00") ||
				strings.Count(err.Error(), "pop3: ") != 1:
				t.Errorf("%s(%.40v): the error is %q", m.Name, arg, err)
			}
		}
	}
}

// Of all that is wrong with a call, the first of these is reported: an argument, that
// credentials would be readable, that the connection is closed, or busy, or the context
// done. Nothing is written, and the connection is as it was. (A control octet in an
// argument: CVE-2025-15367, net-pop#31.)
func TestOrderOfChecks(t *testing.T) {
	t.Parallel()
	addr := net.Addr(pop3test.Addr{Net: "pipe", Name: "test"})
	near, far := pop3test.Pipe()
	p := pop3test.NewPeer(far, "+OK <1.2@peer>\r\n", wellBehaved)
	defer p.Stop()
	conn := &pop3test.Conn{Conn: near, RemoteAddrFunc: func() net.Addr { return addr }}
	c := client(t, conn, nil)
	var why error = &whim{"enough"}
	done, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	var open *pop3.Message
	for _, state := range []struct {
		name  string
		enter func()
		want  error
		leave func()
	}{
		{"context done", func() {}, why, func() { usable(t, c) }},
		{"and busy", func() {
			var err error
			if open, err = c.Retr(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		}, pop3.ErrBusy, func() {
			if err := open.Close(); err != nil {
				t.Fatal(err)
			}
			usable(t, c)
			open, _ = c.Retr(t.Context(), 1)
		}},
		{"and closed", func() { c.Close() }, pop3.ErrClosed, func() {}},
		{"and readable by others", func() { addr = pop3test.Elsewhere }, pop3.ErrClosed, func() {}},
	} {
		state.enter()
		conn.Sent()
		for _, m := range exchanges() {
			want := state.want
			if addr == pop3test.Elsewhere && slices.Contains(credentials, m.Name) {
				want = pop3.ErrInsecureAuth
			}
			if err, alone := m.call(t, c, done, 0, nil); !errors.Is(err, want) || want == why && !errors.Is(err, context.Canceled) || !alone {
				t.Errorf("%s, %s: %v, want %v and no more", state.name, m.Name, err, want)
			}
			m.refuses(t, c, done)
			if addr == pop3test.Elsewhere {
				continue
			}
			if err, alone := m.call(t, c, nil, 0, nil); err == nil || !alone || !strings.Contains(err.Error(), "context is nil") {
				t.Errorf("%s, %s without a context: %v", state.name, m.Name, err)
			}
		}
		for _, m := range anytime() {
			m.Func.Call([]reflect.Value{reflect.ValueOf(c)})
		}
		if sent := conn.Sent(); sent != "" {
			t.Errorf("%s: %q was written", state.name, sent)
		}
		state.leave()
	}
	if err := open.Close(); !errors.Is(err, pop3.ErrClosed) {
		t.Errorf("Close of the message: %v, want ErrClosed", err)
	}
}

// The connection is busy in every step of a loop, and while another goroutine's call waits.
func TestBusy(t *testing.T) {
	t.Parallel()
	near, far := pop3test.Pipe()
	asked, answer := make(chan bool), make(chan bool)
	p := pop3test.NewPeer(far, "+OK <1.2@peer>\r\n", func(line string) string {
		if line == "STAT" {
			asked <- true
			<-answer
		}
		return wellBehaved(line)
	})
	defer p.Stop()
	conn := &pop3test.Conn{Conn: near}
	c := client(t, conn, nil)
	walk := func(when string) {
		conn.Sent()
		for _, m := range exchanges() {
			if err, alone := m.call(t, c, t.Context(), 0, nil); !errors.Is(err, pop3.ErrBusy) || !alone {
				t.Errorf("%s, %s: %v, want ErrBusy and no more", when, m.Name, err)
			}
		}
		if sent := conn.Sent(); sent != "" {
			t.Errorf("%s: %q was written", when, sent)
		}
	}
	for m, err := range c.RetrAll(t.Context(), pop3test.Numbers(3)) {
		if err != nil {
			t.Fatal(err)
		}
		if m.Number == 2 {
			io.Copy(io.Discard, m)
		}
		walk("in a loop")
	}
	usable(t, c)
	var wg sync.WaitGroup
	wg.Go(func() {
		if n, _, err := c.Stat(t.Context()); n != 2 || err != nil {
			t.Errorf("Stat: %d, %v", n, err)
		}
	})
	done := make(chan bool)
	go func() { wg.Wait(); close(done) }()
	select {
	case <-asked:
		walk("in another goroutine's call")
		answer <- true
	case <-done:
		t.Error("Stat has ended before the server saw it")
	}
	wg.Wait()
	usable(t, c)
}

// A zero Client or Message answers with an error.
func TestZeroValues(t *testing.T) {
	t.Parallel()
	c := new(pop3.Client)
	for _, m := range exchanges() {
		if err, alone := m.call(t, c, t.Context(), 0, nil); !errors.Is(err, pop3.ErrClosed) || !alone {
			t.Errorf("%s: %v, want ErrClosed", m.Name, err)
		}
		m.refuses(t, c, t.Context())
	}
	for _, m := range anytime() {
		for _, v := range m.Func.Call([]reflect.Value{reflect.ValueOf(c)}) {
			if m.Name != "Err" && !v.IsZero() {
				t.Errorf("%s returns %v", m.Name, v)
			}
		}
	}
	if err, close := c.Err(), c.Close(); !errors.Is(err, pop3.ErrClosed) || close != nil {
		t.Errorf("Err: %v, want ErrClosed; Close: %v", err, close)
	}
	m := new(pop3.Message)
	n, err := m.Read(make([]byte, 1))
	if _, err2 := m.WriteTo(io.Discard); n != 0 || err == nil || err == io.EOF || err2 == nil || m.Close() == nil {
		t.Errorf("Message: Read %d, %v, WriteTo %v, Close %v", n, err, err2, m.Close())
	}
}

// Whatever ends the wait for a server that does not answer, every method returns at once
// and says what it was, and so does every method that is called behind it.
func TestEveryMethodWaits(t *testing.T) {
	t.Parallel()
	var why, broken error = &whim{"enough"}, errors.New("broken pipe")
	for _, end := range []struct {
		name  string
		now   func(c *pop3.Client, cancel context.CancelCauseFunc, far net.Conn)
		want  error
		quit  bool // Quit returns nil, since nothing is marked
		takes time.Duration
	}{
		{"Close", func(c *pop3.Client, _ context.CancelCauseFunc, _ net.Conn) { c.Close() }, pop3.ErrClosed, false, 0},
		{"cancel", func(_ *pop3.Client, cancel context.CancelCauseFunc, _ net.Conn) { cancel(why) }, why, false, 0},
		{"hang up", func(_ *pop3.Client, _ context.CancelCauseFunc, far net.Conn) { far.Close() }, io.ErrUnexpectedEOF, true, 0},
		{"write", nil, broken, true, 0},
		{"silence", func(*pop3.Client, context.CancelCauseFunc, net.Conn) {}, os.ErrDeadlineExceeded, true, timeout},
	} {
		for _, m := range exchanges() {
			t.Run(end.name+" "+m.Name, func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					near, far := pop3test.Pipe()
					defer far.Close()
					conn := &pop3test.Conn{Conn: near}
					io.WriteString(far, "+OK <1.2@peer>\r\n")
					c := client(t, conn, &pop3.Options{Timeout: timeout})
					ctx, cancel := context.WithCancelCause(t.Context())
					defer cancel(nil)
					if end.now == nil {
						conn.WriteFunc = func([]byte) (int, error) { return 0, broken }
					} else {
						go func() {
							synctest.Wait()
							end.now(c, cancel, far)
						}()
					}
					start := time.Now()
					err, alone := m.call(t, c, ctx, 0, nil)
					if took := time.Since(start); took != end.takes {
						t.Errorf("took %v", took)
					}
					if m.Name == "Quit" && end.quit {
						if err != nil {
							t.Errorf("%v, want nil", err)
						}
						closed(t, c, pop3.ErrClosed)
					} else {
						if !errors.Is(err, end.want) || !alone || end.want == why && !errors.Is(err, context.Canceled) {
							t.Errorf("%v, want %v", err, end.want)
						}
						closed(t, c, end.want)
					}
					if !conn.Closed() {
						t.Error("the conn is open")
					}
				})
			})
		}
	}
}

// A connection that is closed between the check and the write gets nothing.
func TestCloseBetween(t *testing.T) {
	t.Parallel()
	for _, m := range exchanges() {
		conn := &pop3test.Conn{Conn: pop3test.NewTape(greeting, wellBehaved)}
		var c *pop3.Client
		c = client(t, conn, &pop3.Options{Trace: &pop3.Trace{CommandStart: func(context.Context, pop3.CommandInfo) { c.Close() }}})
		err, alone := m.call(t, c, t.Context(), 0, nil)
		if sent := conn.Sent(); !errors.Is(err, pop3.ErrClosed) || !alone || sent != "" {
			t.Errorf("%s: %v, and %q was written", m.Name, err, sent)
		}
	}
}

// A context that is done between two commands of a call ends the call before the next is
// sent, and the connection is as it was; or, if that is in a batch, closed or all done.
func TestCancelBetween(t *testing.T) {
	t.Parallel()
	for _, m := range exchanges() {
		for at, reached := 1, true; reached; at++ {
			ctx, cancel := context.WithCancel(t.Context())
			conn := &pop3test.Conn{Conn: pop3test.NewTape(greeting, wellBehaved)}
			started := 0
			c := client(t, conn, &pop3.Options{Trace: &pop3.Trace{CommandStart: func(context.Context, pop3.CommandInfo) {
				if started++; started == at {
					cancel()
				}
			}}})
			err, _ := m.call(t, c, ctx, 0, nil)
			cancel()
			if reached = started >= at; !reached {
				break
			}
			sent := strings.Count(conn.Sent(), "\n")
			if err == nil && sent >= at && c.Err() == nil { // it was in a batch, and all is done
				err = context.Canceled
			} else if c.Err() == nil && sent >= at {
				t.Errorf("%s, canceled at command %d: %d were sent", m.Name, at, sent)
			}
			if !errors.Is(err, context.Canceled) {
				t.Errorf("%s, canceled at command %d: %v", m.Name, at, err)
			}
			if c.Err() == nil {
				usable(t, c)
			} else {
				closed(t, c, context.Canceled)
			}
		}
	}
}

// Many goroutines at once: one has the connection, the others are told so. It is the race
// detector that sees most of what can be wrong here.
func TestManyGoroutines(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, nil, wellBehaved)
	list := append(exchanges(), anytime()...)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 80 {
				m := list[(i*7+g*3)%len(list)]
				if m.Type.NumIn() == 1 {
					m.Func.Call([]reflect.Value{reflect.ValueOf(c)})
				} else if m.Name != "Quit" {
					if err, _ := m.call(t, c, t.Context(), 0, nil); kindOf(err) == "malformed" || kindOf(err) == "closed" {
						t.Errorf("%s: %v", m.Name, err)
					}
				}
			}
		})
	}
	wg.Wait()
	usable(t, c)
}
