package interop

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// checks are the checks that every server goes through.
var checks = slices.Concat(loginChecks, []check{
	{name: "CAPA, or its refusal", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		caps, err := s.dial(t, nil).Capa(ctx)
		if s.server.has&capa == 0 {
			s.refused(t, err, "")
			return
		}
		ok(t, err)
		// Cyrus lists them in the order in which it finds its plug-ins.
		got, want := slices.Sorted(slices.Values(caps.SASL())), slices.Sorted(slices.Values(s.server.sasl))
		if !slices.Equal(got, want) {
			t.Errorf("SASL %v, want %v", got, want)
		}
		s.lists(t, caps, map[string]feature{"STLS": starttls, "UTF8": utf8, "USER": capa, "UIDL": capa})
		caps, err = s.login(t, nil).Capa(ctx)
		ok(t, err)
		s.lists(t, caps, map[string]feature{"PIPELINING": pipelining, "TOP": capa, "UIDL": capa})
	}},
	{name: "certificate that is not trusted", needs: implicitTLS, run: untrusted},
	{name: "UTF8 and LANG", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		if s.server.has&utf8 != 0 {
			ok(t, c.UTF8(ctx))
			ok(t, s.userPass(ctx, c))
			return
		}
		s.refused(t, c.UTF8(ctx), "")
		_, err := c.LangAll(ctx)
		s.refused(t, err, "")
		_, err = c.Lang(ctx, "en")
		s.refused(t, err, "")
	}},
	{name: "STAT, LIST and UIDL", mail: awkward, run: listings},
	{name: "empty maildrop", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		count(t, c, 0)
		list, err := c.ListAll(ctx)
		ok(t, err)
		uids, err := c.UIDLAll(ctx)
		ok(t, err)
		if len(list)+len(uids) != 0 {
			t.Errorf("LIST %v, UIDL %v", list, uids)
		}
		_, err = c.Retr(ctx, 1)
		s.refused(t, err, "")
		quit(t, c)
	}},
	{name: "RETR", mail: awkward, run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		for i, mail := range s.mail {
			info, err := c.List(ctx, i+1)
			ok(t, err)
			m, err := c.Retr(ctx, i+1)
			same(t, mail.name, read(t, m, err), mail.wire())
			if s.server.has&exactSizes != 0 && m.Size != -1 && m.Size != info.Size {
				t.Errorf("%s: RETR announces %d octets, LIST %d", mail.name, m.Size, info.Size)
			}
		}
		quit(t, c)
	}},
	{name: "RetrAll over TLS", needs: implicitTLS, mail: awkward, run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dialTLS(t, nil)
		ok(t, s.userPass(ctx, c))
		s.retrieve(t, c, true)
		quit(t, c)
	}},
	{name: "TOP", needs: exactTop, mail: awkward, run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		for _, lines := range []int{0, 1, 3, 10000} {
			i := 0
			for m, err := range c.TopAll(ctx, numbers(len(s.mail)), lines) {
				same(t, fmt.Sprintf("TOP %d of %s", lines, s.mail[i].name), read(t, m, err), s.mail[i].top(lines))
				i++
			}
			if i != len(s.mail) {
				t.Errorf("%d messages, want %d", i, len(s.mail))
			}
		}
		m, err := c.Top(ctx, 1, 0)
		same(t, "TOP 1 0", read(t, m, err), s.mail[0].top(0))
		quit(t, c)
	}},
	{name: "message read in part", mail: awkward, run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		for i, mail := range s.mail {
			m, err := c.Retr(ctx, i+1)
			ok(t, err)
			head := make([]byte, 50)
			_, err = io.ReadFull(m, head)
			ok(t, err)
			same(t, mail.name, head, mail.wire()[:50])
			if err := c.Noop(ctx); !errors.Is(err, pop3.ErrBusy) {
				t.Errorf("NOOP during RETR: %v", err)
			}
			ok(t, m.Close())
		}
		ok(t, c.Noop(ctx))
		quit(t, c)
	}},
	{name: "600 messages", mail: small(600), run: func(t *testing.T, s *session) {
		for _, window := range []int{0, 1} {
			var d dialogue
			opts := s.options()
			opts.Window, opts.Trace = window, d.trace()
			c := s.login(t, opts)
			s.retrieve(t, c, window == 0 || s.server.has&untouched != 0)
			if ahead := d.ahead("RETR"); (ahead > 1) != (window == 0 && s.server.has&pipelining != 0) {
				t.Errorf("window %d: %d RETR in a row", window, ahead)
			}
			quit(t, c)
		}
		s.deleteAllButOne(t)
	}},
	{name: "loop that is left", mail: small(200), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		i := 0
		for m, err := range c.RetrAll(ctx, numbers(200)) {
			same(t, fmt.Sprint("message ", i+1), read(t, m, err), s.mail[i].wire())
			if i++; i == 50 {
				break
			}
		}
		for m, err := range c.RetrAll(ctx, numbers(200)) {
			ok(t, err)
			if m.Number == 20 { // unread
				break
			}
		}
		m, err := c.Retr(ctx, 200)
		same(t, "message 200", read(t, m, err), s.mail[199].wire())
		count(t, c, 200)
		ok(t, c.Close())
		count(t, s.login(t, nil), 200)
	}},
	{name: "refusals", mail: small(2), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		_, err := c.Retr(ctx, 99)
		s.refused(t, err, "")
		_, err = c.List(ctx, 99)
		s.refused(t, err, "")
		_, err = c.UIDL(ctx, 99)
		s.refused(t, err, "")
		if s.server.has&standardDELE != 0 {
			s.refused(t, c.Dele(ctx, 99), "")
		}
		count(t, c, 2)
		quit(t, c)
	}},
	{name: "refusals within a loop", needs: standardDELE, mail: small(20), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		ok(t, c.Dele(ctx, 7))
		var got, refused []int
		for m, err := range c.RetrAll(ctx, numbers(21)) {
			if m == nil {
				t.Fatal(err)
			}
			if err != nil {
				refused = append(refused, m.Number)
				continue
			}
			same(t, fmt.Sprint("message ", m.Number), read(t, m, err), s.mail[m.Number-1].wire())
			got = append(got, m.Number)
		}
		if len(got) != 19 || !slices.Equal(refused, []int{7, 21}) {
			t.Errorf("got %v, refused %v", got, refused)
		}
		if err := c.DeleAll(ctx, []int{1, 7, 2}); s.server.has&refusesDeleted != 0 {
			s.refused(t, err, "")
		} else {
			ok(t, err)
		}
		count(t, c, 17)
		ok(t, c.Rset(ctx))
		quit(t, c)
	}},
	{name: "DELE and RSET", needs: standardDELE, mail: small(3), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		ok(t, c.Dele(ctx, 1))
		count(t, c, 2)
		ok(t, c.Rset(ctx))
		count(t, c, 3)
		quit(t, c)
		count(t, s.login(t, nil), 3)
	}},
	{name: "DELE and Close", needs: standardDELE, mail: small(3), run: func(t *testing.T, s *session) {
		c := s.login(t, nil)
		ok(t, c.DeleAll(clientContext(t), numbers(3)))
		ok(t, c.Close())
		count(t, s.login(t, nil), 3)
	}},
	{name: "DELE and QUIT", needs: standardDELE, mail: small(3), run: deleQuit},
	{name: "MaxMessageSize", mail: awkward, run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		opts := s.options()
		opts.MaxMessageSize = 1 << 19
		c := s.login(t, opts)
		for m, err := range c.RetrAll(ctx, numbers(len(s.mail))) {
			if err == nil {
				_, err = m.WriteTo(io.Discard)
			}
			if err != nil && !errors.Is(err, pop3.ErrTooLarge) {
				t.Error(err)
			}
		}
		if err := c.Noop(ctx); !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, pop3.ErrTooLarge) {
			t.Errorf("NOOP: %v", err)
		}
		count(t, s.login(t, nil), len(s.mail))
	}},
	{name: "message canceled", mail: awkward, run: canceled},
	{name: "locked maildrop", needs: exclusive, mail: small(1), run: func(t *testing.T, s *session) {
		// Dovecot waits 10 s for the lock before it refuses.
		ctx := clientContext(t)
		first := s.login(t, nil)
		err := s.userPass(ctx, s.dial(t, nil))
		if !s.refused(t, err, pop3.CodeInUse).Temporary() || !errors.Is(err, pop3.CodeInUse) {
			t.Errorf("not temporary: %v", err)
		}
		count(t, first, 1)
		quit(t, first)
		count(t, s.login(t, nil), 1)
	}},
	{name: "maildrop that cannot be opened", needs: maildir, run: func(t *testing.T, s *session) {
		box := filepath.Join(s.dir, "home", s.user, "Maildir")
		ok(t, os.RemoveAll(box))
		ok(t, os.WriteFile(box, nil, 0o644))
		ctx := clientContext(t)
		c := s.dial(t, nil)
		err := s.userPass(ctx, c)
		if err == nil {
			// A Dovecot that does not lock says +OK, and its refusal behind it. Perdition drops the latter.
			_, _, err = c.Stat(ctx)
		}
		var e *pop3.Error
		switch {
		case err == nil:
			t.Error("STAT succeeds")
		case s.server.has&temporary == 0:
		case !errors.As(err, &e) || !e.Temporary() || e.Code != pop3.CodeSysTemp || !errors.Is(err, pop3.CodeSys):
			t.Errorf("not temporary, or no SYS: %v", err)
		}
	}},
	{name: "message that vanishes", needs: maildir, mail: small(3), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		_, err := c.UIDLAll(ctx)
		ok(t, err)
		// The server may have renamed the file, to record flags or the size.
		files, err := filepath.Glob(filepath.Join(s.dir, "home", s.user, "Maildir", "cur", "1700000001.*"))
		ok(t, err)
		if len(files) != 1 {
			t.Fatalf("found %q", files)
		}
		ok(t, os.Remove(files[0]))
		if m, err := c.Retr(ctx, 2); err == nil {
			t.Errorf("RETR 2 succeeds: %q", read(t, m, err))
		}
		// Servers differ in whether the session goes on.
		if c.Err() == nil {
			m, err := c.Retr(ctx, 3)
			same(t, "message 3", read(t, m, err), s.mail[2].wire())
		}
	}},
	{name: "message that another session deletes", needs: standardDELE, lacks: exclusive, mail: small(3), run: deletedElsewhere},
})

// gone runs last, because it stops the server.
var gone = check{name: "server that stops", mail: small(1), run: func(t *testing.T, s *session) {
	ctx := clientContext(t)
	c := s.login(t, nil)
	ok(t, c.Dele(ctx, 1))
	s.stop()
	err := c.Quit(ctx)
	var refusal *pop3.Error
	var network net.Error
	if err == nil || !errors.As(err, &refusal) && !errors.As(err, &network) {
		t.Errorf("QUIT after DELE: %v", err)
	}
	if err := c.Noop(ctx); !errors.Is(err, pop3.ErrClosed) {
		t.Errorf("NOOP: %v", err)
	}
	if _, err := pop3.Dial(ctx, s.plain, nil); err == nil {
		t.Error("Dial succeeds")
	}
}}

// lists checks that caps has those of the names whose feature the server has.
func (s *session) lists(t *testing.T, caps pop3.Capabilities, names map[string]feature) {
	t.Helper()
	for name, bit := range names {
		if want := s.server.has&bit != 0; caps.Has(name) != want {
			t.Errorf("%s listed: %v, want %v", name, !want, want)
		}
	}
}

func untrusted(t *testing.T, s *session) {
	ctx := clientContext(t)
	opts := s.options()
	opts.TLSConfig.RootCAs = pop3test.NewAuthority("another CA").Pool()
	var unknown x509.UnknownAuthorityError
	if _, err := pop3.DialTLS(ctx, s.tls, opts); !errors.As(err, &unknown) {
		t.Errorf("got %v, want an x509.UnknownAuthorityError", err)
	}
	if s.server.has&starttls != 0 {
		if _, err := pop3.DialStartTLS(ctx, s.plain, opts); !errors.As(err, &unknown) {
			t.Errorf("STLS: got %v, want an x509.UnknownAuthorityError", err)
		}
	}
	opts = s.options()
	opts.TLSConfig.ServerName = "pop.example.org"
	var name x509.HostnameError
	if _, err := pop3.DialTLS(ctx, s.tls, opts); !errors.As(err, &name) {
		t.Errorf("got %v, want an x509.HostnameError", err)
	}
}

func listings(t *testing.T, s *session) {
	ctx := clientContext(t)
	c := s.login(t, nil)
	n, total, err := c.Stat(ctx)
	ok(t, err)
	list, err := c.ListAll(ctx)
	ok(t, err)
	uids, err := c.UIDLAll(ctx)
	ok(t, err)
	if n != len(s.mail) || len(list) != n || len(uids) != n {
		t.Fatalf("STAT %d, LIST %d, UIDL %d messages, want %d", n, len(list), len(uids), len(s.mail))
	}
	sum := int64(0)
	seen := map[string]bool{}
	for i, mail := range s.mail {
		sum += list[i].Size
		if list[i].Number != i+1 || uids[i].Number != i+1 || uids[i].UID == "" || seen[uids[i].UID] {
			t.Errorf("%s: %+v, %+v", mail.name, list[i], uids[i])
		}
		seen[uids[i].UID] = true
		info, err := c.List(ctx, i+1)
		ok(t, err)
		uid, err := c.UIDL(ctx, i+1)
		ok(t, err)
		if s.server.has&exactSizes == 0 {
			info.Size = list[i].Size // Mailutils changes its mind
		} else if size := int64(len(mail.wire())); info.Size != size && info.Size != size-mail.added() {
			t.Errorf("%s: LIST says %d octets, want %d", mail.name, info.Size, size)
		}
		if info != list[i] || uid != uids[i] {
			t.Errorf("%s: %+v and %+v alone, %+v and %+v in the listings", mail.name, info, uid, list[i], uids[i])
		}
	}
	if sum != total {
		t.Errorf("STAT says %d octets, LIST %d", total, sum)
	}
	quit(t, c)

	again, err := s.login(t, nil).UIDLAll(ctx)
	ok(t, err)
	if !slices.Equal(again, uids) {
		t.Errorf("UIDL of the next session: %v, before: %v", again, uids)
	}
}

// retrieve checks that RetrAll yields all messages, and if exact that they are those on disk.
func (s *session) retrieve(t *testing.T, c *pop3.Client, exact bool) {
	t.Helper()
	i := 0
	for m, err := range c.RetrAll(clientContext(t), numbers(len(s.mail))) {
		got := read(t, m, err)
		if m.Number != i+1 {
			t.Fatalf("message %d, want %d", m.Number, i+1)
		}
		if exact {
			same(t, fmt.Sprintf("message %d %s", i+1, s.mail[i].name), got, s.mail[i].wire())
		}
		if i++; t.Failed() {
			t.FailNow()
		}
	}
	if i != len(s.mail) {
		t.Fatalf("%d messages, want %d", i, len(s.mail))
	}
}

func (s *session) deleteAllButOne(t *testing.T) {
	ctx := clientContext(t)
	c := s.login(t, nil)
	ok(t, c.DeleAll(ctx, numbers(len(s.mail)-1)))
	if s.server.has&standardDELE != 0 {
		count(t, c, 1)
	}
	quit(t, c)
	m, err := s.reopen(t, 1).Retr(ctx, 1)
	if got := read(t, m, err); s.server.has&untouched != 0 {
		same(t, "the message left", got, s.mail[len(s.mail)-1].wire())
	}
}

func deleQuit(t *testing.T, s *session) {
	ctx := clientContext(t)
	c := s.login(t, nil)
	ok(t, c.Dele(ctx, 2))
	list, err := c.ListAll(ctx)
	ok(t, err)
	if len(list) != 2 || list[0].Number != 1 || list[1].Number != 3 {
		t.Errorf("LIST after DELE 2: %v", list)
	}
	uids, err := c.UIDLAll(ctx)
	ok(t, err)
	if len(uids) != 2 || uids[0].Number != 1 || uids[1].Number != 3 {
		t.Errorf("UIDL after DELE 2: %v", uids)
	}
	_, err = c.Retr(ctx, 2)
	s.refused(t, err, "")
	if s.server.has&refusesDeleted != 0 {
		s.refused(t, c.Dele(ctx, 2), "")
	}
	quit(t, c)

	c = s.reopen(t, 2)
	for i, n := range []int{0, 2} {
		m, err := c.Retr(ctx, i+1)
		got := read(t, m, err)
		if s.server.has&untouched != 0 {
			same(t, fmt.Sprint("message ", n+1), got, s.mail[n].wire())
		}
	}
}

func deletedElsewhere(t *testing.T, s *session) {
	ctx := clientContext(t)
	c := s.login(t, nil)
	count(t, c, 3)
	other := s.dial(t, nil)
	if err := s.userPass(ctx, other); err != nil {
		s.refused(t, err, "") // popa3d has a lock, and no code for it
		quit(t, c)
		return
	}
	ok(t, other.Dele(ctx, 2))
	quit(t, other)
	quit(t, s.reopen(t, 2))
	for n := 1; n <= 3 && c.Err() == nil; n++ {
		m, err := c.Retr(ctx, n)
		if err == nil {
			same(t, fmt.Sprint("message ", n), read(t, m, err), s.mail[n-1].wire())
		} else if n != 2 && c.Err() == nil {
			t.Error(err)
		}
	}
}

func canceled(t *testing.T, s *session) {
	hold := make(chan struct{})
	opts := s.options()
	opts.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := s.dialTCP(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		closed := make(chan struct{})
		return &pop3test.Conn{Conn: conn, ReadFunc: func(p []byte) (int, error) {
			select {
			case <-hold:
				<-closed
				return 0, net.ErrClosed
			default:
				return conn.Read(p)
			}
		}, CloseFunc: sync.OnceValue(func() error { close(closed); return conn.Close() })}, nil
	}
	c := s.login(t, opts)
	ctx, cancel := context.WithCancel(clientContext(t))
	defer cancel()
	if s.server.has&standardDELE != 0 {
		ok(t, c.Dele(ctx, 1))
	}
	big := slices.IndexFunc(s.mail, func(m sample) bool { return len(m.text) > 1<<20 })
	m, err := c.Retr(ctx, big+1)
	ok(t, err)
	_, err = io.ReadFull(m, make([]byte, 100))
	ok(t, err)
	close(hold) // or the whole message might come before the client hears of the cancellation
	cancel()
	if _, err := m.WriteTo(io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("WriteTo: %v", err)
	}
	if err := c.Noop(clientContext(t)); !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, context.Canceled) {
		t.Errorf("NOOP: %v", err)
	}
	count(t, s.login(t, nil), len(s.mail)) // what DELE marked is still there
}
