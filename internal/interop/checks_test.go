package interop

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.com/pop3"
)

// checks are what every server with the features they need must pass.
var checks = []check{
	{name: "USER and PASS", mail: small(3), run: func(t *testing.T, s *session) {
		c := s.login(t, nil)
		count(t, c, 3)
		ok(t, c.Noop(clientContext(t)))
		quit(t, c)
		if err := c.Noop(clientContext(t)); !errors.Is(err, pop3.ErrClosed) {
			t.Errorf("after QUIT: %v", err)
		}
	}},
	{name: "capabilities", needs: capa, run: func(t *testing.T, s *session) {
		caps, err := s.dial(t, nil).Capa(clientContext(t))
		ok(t, err)
		if !slices.Equal(caps.SASL(), s.server.sasl) {
			t.Errorf("SASL %v, want %v", caps.SASL(), s.server.sasl)
		}
		for name, bit := range map[string]feature{
			"STLS": starttls, "PIPELINING": pipelining, "UTF8": utf8, "TOP": capa, "UIDL": capa, "USER": capa,
		} {
			if want := s.server.has&bit != 0; caps.Has(name) != want {
				t.Errorf("%s listed: %v, want %v", name, !want, want)
			}
		}
		after, err := s.login(t, nil).Capa(clientContext(t))
		ok(t, err)
		if !after.Has("UIDL") {
			t.Errorf("after login: %v", after)
		}
	}},
	{name: "no CAPA", lacks: capa, run: func(t *testing.T, s *session) {
		_, err := s.dial(t, nil).Capa(clientContext(t))
		s.refused(t, err, "")
	}},
	{name: "Login on loopback", mail: small(1), run: func(t *testing.T, s *session) {
		var d dialogue
		opts := s.options()
		opts.Trace = d.trace()
		c := s.dial(t, opts)
		ok(t, c.Login(clientContext(t), s.user, password))
		count(t, c, 1)
		if got, want := d.method(), strongest(s.server.sasl, false); got != want {
			t.Errorf("logged in by %s, want %s", got, want)
		}
	}},
	{name: "Login over STLS", needs: starttls, mail: small(1), run: func(t *testing.T, s *session) {
		s.loginTLS(t, pop3.DialStartTLS, s.plain)
	}},
	{name: "Login over TLS", needs: implicitTLS, mail: small(1), run: func(t *testing.T, s *session) {
		s.loginTLS(t, pop3.DialTLS, s.tls)
	}},
	{name: "Login, wrong password", run: func(t *testing.T, s *session) {
		var d dialogue
		opts := s.options()
		opts.Trace = d.trace()
		s.refused(t, s.dial(t, opts).Login(clientContext(t), s.user, "wrong"), pop3.CodeAuth)
		for _, line := range d.lines {
			if bytes.Contains([]byte(line), []byte("wrong")) {
				t.Errorf("the password is in the trace: %s", line)
			}
		}
	}},
	{name: "unknown CA", needs: implicitTLS, run: func(t *testing.T, s *session) {
		s.untrusted(t, pop3.DialTLS, s.tls)
	}},
	{name: "unknown CA by STLS", needs: starttls, run: func(t *testing.T, s *session) {
		s.untrusted(t, pop3.DialStartTLS, s.plain)
	}},
	{name: "another host's certificate", needs: implicitTLS, run: func(t *testing.T, s *session) {
		opts := s.options()
		opts.TLSConfig.ServerName = "pop.example.org"
		_, err := pop3.DialTLS(clientContext(t), s.tls, opts)
		var name x509.HostnameError
		if !errors.As(err, &name) {
			t.Errorf("got %v, want an x509.HostnameError", err)
		}
	}},
	{name: "wrong password", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		ok(t, c.User(ctx, s.user))
		s.refused(t, c.Pass(ctx, "wrong"), pop3.CodeAuth)
		err := c.User(ctx, s.user)
		if s.server.has&survives == 0 {
			// popa3d's -ERR is its last word.
			if err == nil || c.Err() == nil || !errors.Is(c.Noop(ctx), pop3.ErrClosed) {
				t.Errorf("USER after a refused PASS: %v, Err %v", err, c.Err())
			}
			return
		}
		ok(t, err)
		ok(t, c.Pass(ctx, password))
		count(t, c, 1)
	}},
	{name: "listings", mail: awkward, run: listings},
	{name: "no mail", run: func(t *testing.T, s *session) {
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
		c := s.login(t, nil)
		count(t, c, len(s.mail))
		for i, mail := range s.mail {
			info, err := c.List(clientContext(t), i+1)
			ok(t, err)
			m, err := c.Retr(clientContext(t), i+1)
			same(t, mail.name, read(t, m, err), mail.wire())
			if s.server.has&exactSizes != 0 && m.Size != -1 && m.Size != info.Size {
				t.Errorf("%s: RETR announces %d octets, LIST %d", mail.name, m.Size, info.Size)
			}
		}
		quit(t, c)
	}},
	{name: "RETR over TLS", needs: implicitTLS, mail: awkward, run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dialTLS(t, nil)
		ok(t, c.Login(ctx, s.user, password))
		i := 0
		for m, err := range c.RetrAll(ctx, numbers(len(s.mail))) {
			same(t, s.mail[i].name, read(t, m, err), s.mail[i].wire())
			i++
		}
		if i != len(s.mail) {
			t.Errorf("%d messages, want %d", i, len(s.mail))
		}
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
	{name: "a message part read", mail: awkward, run: func(t *testing.T, s *session) {
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
	{name: "refusals leave the session open", mail: small(2), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		_, err := c.Retr(ctx, 99)
		s.refused(t, err, "")
		_, err = c.List(ctx, 99)
		s.refused(t, err, "")
		_, err = c.UIDL(ctx, 99)
		s.refused(t, err, "")
		s.refused(t, c.Dele(ctx, 99), "")
		count(t, c, 2)
		quit(t, c)
	}},
	{name: "DELE and RSET", mail: small(3), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		ok(t, c.Dele(ctx, 1))
		count(t, c, 2)
		ok(t, c.Rset(ctx))
		count(t, c, 3)
		quit(t, c)
		count(t, s.login(t, nil), 3)
	}},
	{name: "DELE and Close", mail: small(3), run: func(t *testing.T, s *session) {
		c := s.login(t, nil)
		ok(t, c.DeleAll(clientContext(t), numbers(3)))
		ok(t, c.Close())
		count(t, s.login(t, nil), 3)
	}},
	{name: "DELE and QUIT", mail: small(3), run: func(t *testing.T, s *session) {
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
	}},
	{name: "a second session", needs: exclusive, mail: small(1), run: func(t *testing.T, s *session) {
		// Dovecot waits 10 s for the lock before it refuses.
		ctx := clientContext(t)
		first := s.login(t, nil)
		second := s.dial(t, nil)
		ok(t, second.User(ctx, s.user))
		err := second.Pass(ctx, password)
		if !s.refused(t, err, pop3.CodeInUse).Temporary() || !errors.Is(err, pop3.CodeInUse) {
			t.Errorf("not temporary: %v", err)
		}
		count(t, first, 1)
		quit(t, first)
		count(t, s.login(t, nil), 1)
	}},
	{name: "2,000 messages", mail: small(2000), run: bulk},
	{name: "break", mail: small(200), run: func(t *testing.T, s *session) {
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
			if m.Number == 20 { // left unread
				break
			}
		}
		m, err := c.Retr(ctx, 200)
		same(t, "message 200", read(t, m, err), s.mail[199].wire())
		count(t, c, 200)
		ok(t, c.Close())
		count(t, s.login(t, nil), 200)
	}},
	{name: "refusals in the middle of RetrAll", mail: small(20), run: func(t *testing.T, s *session) {
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
	{name: "MaxMessageSize", mail: awkward, run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		opts := s.options()
		opts.MaxMessageSize = 1 << 19
		c := s.login(t, opts)
		for m, err := range c.RetrAll(ctx, numbers(len(s.mail))) {
			if err == nil {
				_, err = m.WriteTo(io.Discard)
			}
			if err == nil {
				continue
			}
			if !errors.Is(err, pop3.ErrTooLarge) {
				t.Error(err)
			}
		}
		if !errors.Is(c.Err(), pop3.ErrTooLarge) {
			t.Errorf("Err is %v", c.Err())
		}
		if err := c.Noop(ctx); !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, pop3.ErrTooLarge) {
			t.Errorf("NOOP: %v", err)
		}
		count(t, s.login(t, nil), len(s.mail))
	}},
	{name: "cancelled in a message", mail: awkward, run: func(t *testing.T, s *session) {
		hold := make(chan struct{})
		opts := s.options()
		opts.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &heldConn{Conn: conn, hold: hold, closed: make(chan struct{})}, err
		}
		c := s.login(t, opts)
		ctx, cancel := context.WithCancel(clientContext(t))
		defer cancel()
		ok(t, c.Dele(ctx, 1))
		big := slices.IndexFunc(s.mail, func(m sample) bool { return len(m.text) > 1<<20 })
		m, err := c.Retr(ctx, big+1)
		ok(t, err)
		_, err = io.ReadFull(m, make([]byte, 100))
		ok(t, err)
		close(hold) // or all of it may have come before the client heard of the cancellation
		cancel()
		if _, err := m.WriteTo(io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("WriteTo: %v", err)
		}
		if err := c.Noop(clientContext(t)); !errors.Is(err, pop3.ErrClosed) || !errors.Is(err, context.Canceled) {
			t.Errorf("NOOP: %v", err)
		}
		count(t, s.login(t, nil), len(s.mail))
	}},
	{name: "a message vanishes", needs: maildir, mail: small(3), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		_, err := c.UIDLAll(ctx)
		ok(t, err)
		// The servers may have renamed the file, to record flags or its size.
		files, err := filepath.Glob(filepath.Join(s.dir, "home", s.user, "Maildir", "cur", "1700000001.*"))
		ok(t, err)
		if len(files) != 1 {
			t.Fatalf("found %q", files)
		}
		ok(t, os.Remove(files[0]))
		m, err := c.Retr(ctx, 2)
		if err == nil {
			t.Errorf("RETR 2 succeeds: %q", read(t, m, err))
		}
		// Whether the session lives on is the server's choice; the client knows which.
		if c.Err() == nil {
			m, err := c.Retr(ctx, 3)
			same(t, "message 3", read(t, m, err), s.mail[2].wire())
		}
	}},
	{name: "a maildrop that cannot be opened", needs: maildir, run: func(t *testing.T, s *session) {
		box := filepath.Join(s.dir, "home", s.user, "Maildir")
		ok(t, os.RemoveAll(box))
		ok(t, os.WriteFile(box, nil, 0o644))
		ctx := clientContext(t)
		c := s.dial(t, nil)
		ok(t, c.User(ctx, s.user))
		err := c.Pass(ctx, password)
		if s.server.has&authCode == 0 {
			s.refused(t, err, "")
		} else if !s.refused(t, err, pop3.CodeSysTemp).Temporary() || !errors.Is(err, pop3.CodeSys) {
			t.Errorf("not temporary, or no SYS: %v", err)
		}
	}},
	{name: "another session deletes", lacks: exclusive, mail: small(3), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		count(t, c, 3)
		other := s.dial(t, nil)
		ok(t, other.User(ctx, s.user))
		if err := other.Pass(ctx, password); err != nil {
			s.refused(t, err, "") // popa3d locks, without a code for it
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
	}},
	{name: "APOP", needs: apop, mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		s.refused(t, c.APOP(ctx, s.user, "wrong"), pop3.CodeAuth)
		ok(t, c.APOP(ctx, s.user, password))
		count(t, c, 1)
	}},
	{name: "no APOP", lacks: apop, run: func(t *testing.T, s *session) {
		c := s.dial(t, nil)
		err := c.APOP(clientContext(t), s.user, password)
		if !strings.Contains(c.Greeting(), "<") {
			if !errors.Is(err, pop3.ErrUnsupported) {
				t.Error(err)
			}
			return
		}
		s.refused(t, err, pop3.CodeAuth) // Mailutils: a timestamp that promises nothing
	}},
	{name: "UTF8 and LANG", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		if s.server.has&utf8 != 0 {
			ok(t, c.UTF8(ctx))
			ok(t, c.User(ctx, s.user))
			ok(t, c.Pass(ctx, password))
			return
		}
		s.refused(t, c.UTF8(ctx), "")
		_, err := c.LangAll(ctx)
		s.refused(t, err, "")
		_, err = c.Lang(ctx, "en")
		s.refused(t, err, "")
	}},
	{name: "AUTH after login", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.login(t, nil)
		if err := c.Auth(ctx, pop3.PlainAuth("", s.user, password)); err == nil {
			t.Error("a second login succeeds")
		}
		count(t, c, 1)
	}},
	{name: "a user name of 4,000 octets", run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		err := c.User(ctx, string(bytes.Repeat([]byte("x"), 4000)))
		if err == nil {
			err = c.Pass(ctx, password)
		}
		// Refused, disconnected or (Mailutils) echoed: an error, and at once.
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	}},
}

// gone runs last: its server is stopped under the session.
var gone = check{name: "the server stops", mail: small(1), run: func(t *testing.T, s *session) {
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

func (s *session) loginTLS(t *testing.T, dial dialFunc, addr string) {
	ctx := clientContext(t)
	var d dialogue
	opts := s.options()
	opts.Trace = d.trace()
	c := s.via(t, dial, addr, opts)
	caps, err := c.Capa(ctx)
	ok(t, err)
	ok(t, c.Login(ctx, s.user, password))
	count(t, c, 1)
	if got, want := d.method(), strongest(caps.SASL(), true); got != want {
		t.Errorf("logged in by %s, want %s", got, want)
	}
	if state, ok := c.TLSConnectionState(); !ok || state.Version != tls.VersionTLS13 {
		t.Errorf("TLS %v, version %x", ok, state.Version)
	}
	quit(t, c)
}

func (s *session) untrusted(t *testing.T, dial dialFunc, addr string) {
	ca, _ := newCA(t)
	opts := s.options()
	opts.TLSConfig.RootCAs = x509.NewCertPool()
	opts.TLSConfig.RootCAs.AddCert(ca)
	_, err := dial(clientContext(t), addr, opts)
	var unknown x509.UnknownAuthorityError
	if !errors.As(err, &unknown) {
		t.Errorf("got %v, want an x509.UnknownAuthorityError", err)
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
		size := int64(len(mail.wire()))
		// Dovecot and Courier do not count the line end that RETR adds to a mail without one.
		if mail.text[len(mail.text)-1] != '\n' && list[i].Size == size-2 {
			size -= 2
		}
		if s.server.has&exactSizes != 0 && list[i].Size != size {
			t.Errorf("%s: LIST says %d octets, want %d", mail.name, list[i].Size, size)
		}
		if list[i].Number != i+1 || uids[i].Number != i+1 || uids[i].UID == "" || seen[uids[i].UID] {
			t.Errorf("%s: %+v, %+v", mail.name, list[i], uids[i])
		}
		seen[uids[i].UID] = true
		info, err := c.List(ctx, i+1)
		ok(t, err)
		uid, err := c.UIDL(ctx, i+1)
		ok(t, err)
		if s.server.has&exactSizes == 0 {
			info.Size = list[i].Size
		}
		if info != list[i] || uid != uids[i] {
			t.Errorf("%s: %+v and %+v alone, %+v and %+v in the listings", mail.name, info, uid, list[i], uids[i])
		}
	}
	if sum != total {
		t.Errorf("STAT says %d octets, LIST %d", total, sum)
	}
	quit(t, c)

	c = s.login(t, nil)
	again, err := c.UIDLAll(ctx)
	ok(t, err)
	if !slices.Equal(again, uids) {
		t.Errorf("UIDL of the next session: %v, before: %v", again, uids)
	}
}

func bulk(t *testing.T, s *session) {
	ctx := clientContext(t)
	for _, window := range []int{0, 1} {
		if t.Failed() {
			return
		}
		var d dialogue
		opts := s.options()
		opts.Window, opts.Trace = window, d.trace()
		c := s.login(t, opts)
		i := 0
		for m, err := range c.RetrAll(ctx, numbers(len(s.mail))) {
			if m != nil && m.Number != i+1 {
				t.Fatalf("message %d, want %d", m.Number, i+1)
			}
			if got := read(t, m, err); window == 0 || s.server.has&untouched != 0 {
				same(t, fmt.Sprint("message ", i+1), got, s.mail[i].wire())
			}
			if i++; t.Failed() {
				return
			}
		}
		if i != len(s.mail) {
			t.Errorf("%d messages, want %d", i, len(s.mail))
		}
		if ahead := d.ahead("RETR"); (ahead > 1) != (window == 0 && s.server.has&pipelining != 0) {
			t.Errorf("window %d: %d RETR in a row", window, ahead)
		}
		quit(t, c)
	}
	c := s.login(t, nil)
	i := 0
	for m, err := range c.TopAll(ctx, numbers(len(s.mail)), 0) {
		if got := read(t, m, err); s.server.has&(untouched|exactTop) == untouched|exactTop {
			same(t, fmt.Sprintf("TOP %d 0", i+1), got, s.mail[i].top(0))
		}
		i++
	}
	if i != len(s.mail) {
		t.Errorf("TOP of %d messages, want %d", i, len(s.mail))
	}
	ok(t, c.DeleAll(ctx, numbers(len(s.mail)-1)))
	count(t, c, 1)
	quit(t, c)
	c = s.reopen(t, 1)
	m, err := c.Retr(ctx, 1)
	if got := read(t, m, err); s.server.has&untouched != 0 {
		same(t, "the message left", got, s.mail[len(s.mail)-1].wire())
	}
}

// mechanisms are a check for each mechanism the server offers that takes a name and a password.
func mechanisms(s *server) []check {
	if len(s.sasl) == 0 {
		return nil
	}
	list := []check{{name: "AUTH given up", mail: small(1), run: func(t *testing.T, s *session) {
		ctx := clientContext(t)
		c := s.dial(t, nil)
		if err := c.Auth(ctx, quitter{}); !errors.Is(err, errGivenUp) {
			t.Errorf("got %v, want the mechanism's error", err)
		}
		ok(t, c.Auth(ctx, pop3.PlainAuth("", s.user, password)))
		count(t, c, 1)
	}}}
	for _, mech := range s.sasl {
		auth := passwordAuth[mech]
		if auth == nil {
			continue
		}
		list = append(list, check{name: "AUTH " + mech, mail: small(1), run: func(t *testing.T, s *session) {
			ctx := clientContext(t)
			c := s.dial(t, nil)
			// Too long for the AUTH line: the response waits for a challenge (RFC 5034 4).
			s.refused(t, c.Auth(ctx, auth(s.user, strings.Repeat("wrong", 60))), pop3.CodeAuth)
			s.refused(t, c.Auth(ctx, auth("nobody-"+s.user, password)), pop3.CodeAuth)
			ok(t, c.Auth(ctx, auth(s.user, password)))
			count(t, c, 1)
			quit(t, c)
			if s.server.has&implicitTLS == 0 {
				return
			}
			c = s.dialTLS(t, nil)
			ok(t, c.Auth(ctx, auth(s.user, password)))
			count(t, c, 1)
		}})
	}
	return list
}

var passwordAuth = map[string]func(user, password string) pop3.SASL{
	"PLAIN":         func(user, password string) pop3.SASL { return pop3.PlainAuth("", user, password) },
	"LOGIN":         pop3.LoginAuth,
	"CRAM-MD5":      pop3.CRAMMD5Auth,
	"SCRAM-SHA-1":   pop3.SCRAMSHA1Auth,
	"SCRAM-SHA-256": pop3.SCRAMSHA256Auth,
}

// A quitter takes one challenge and fails, whereupon the client cancels by "*" (RFC 5034 4).
type quitter struct{}

var errGivenUp = errors.New("given up")

func (quitter) Start() (string, []byte, error) { return "LOGIN", nil, nil }
func (quitter) Next([]byte) ([]byte, error)    { return nil, errGivenUp }

// A heldConn yields nothing more once hold is closed.
type heldConn struct {
	net.Conn
	hold   chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (c *heldConn) Read(p []byte) (int, error) {
	select {
	case <-c.hold:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return c.Conn.Read(p)
	}
}

func (c *heldConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
