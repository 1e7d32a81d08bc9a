package pop3_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// The examples are a tutorial, to be read from here to the end. In each, addr
// and opts come from startServer, at the end of this file, which starts a server
// on this machine.

// To log in and print the subject of each message. addr is your server, such as
// "pop.example.com", and opts may be nil.
func Example() {
	addr, opts, stop := startServer()
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.ListAll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range list {
		m, err := c.Top(ctx, info.Number, 0) // the header, and no line of the body
		if err != nil {
			log.Fatal(err)
		}
		if msg, err := mail.ReadMessage(m); err == nil {
			fmt.Println(m.Number, msg.Header.Get("Subject"))
		}
		m.Close()
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 Apples on Saturday
	// 2 The plan of the garden
	// 3 Lines that begin with a dot
}

// The closing example of Python's poplib, line by line: it prints the mail of a
// maildrop. addr is your server, such as "pop.example.com", and opts may be nil.
func Example_poplib() {
	addr, opts, stop := startServer(withMail("10-header-only.eml"))
	defer stop()

	ctx := context.Background()
	a, err := pop3.DialTLS(ctx, addr, opts) // a = POP3_SSL(addr)
	if err != nil {
		log.Fatal(err)
	}
	defer a.Close()
	fmt.Println(a.Greeting())                  // print(a.getwelcome())
	if err := a.User(ctx, "ada"); err != nil { // a.user("ada")
		log.Fatal(err)
	}
	if err := a.Pass(ctx, "tides"); err != nil { // a.pass_("tides")
		log.Fatal(err)
	}
	numMsgs, _, err := a.Stat(ctx) // (numMsgs, totalSize) = a.stat()
	if err != nil {
		log.Fatal(err)
	}
	for i := 1; i <= numMsgs; i++ {
		m, err := a.Retr(ctx, i) // (header, msg, octets) = a.retr(i)
		if err != nil {
			log.Fatal(err)
		}
		msg, err := io.ReadAll(m)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("Message %d:\n", i)
		for line := range strings.Lines(string(msg)) {
			fmt.Println("  ", strings.TrimRight(line, "\r\n"))
		}
		fmt.Println("-----------------------")
	}
	a.Quit(ctx) // a.quit()
	// Output:
	// pop3test ready
	// Message 1:
	//    From: Milo <milo@example.com>
	//    To: ada@example.com
	//    Subject: On my way (nothing else to say)
	//    Date: Tue, 10 Mar 2026 17:55:00 +0000
	// -----------------------
}

// TLS by the STLS command, for a server that has no port for TLS alone. addr is
// your server, such as "pop.example.com", and opts may be nil. If the server does
// not offer STLS, DialStartTLS fails; it never goes on in the clear.
func ExampleDialStartTLS() {
	addr, opts, stop := startServer(inClear)
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialStartTLS(ctx, addr, opts)
	if errors.Is(err, pop3.ErrUnsupported) {
		log.Fatal("this server has no STLS: try pop3.DialTLS")
	}
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	count, size, err := c.Stat(ctx)
	if err != nil {
		log.Fatal(err)
	}
	_, secure := c.TLSConnectionState()
	fmt.Printf("%d messages, %d octets, under TLS: %v\n", count, size, secure)
	// Output:
	// 3 messages, 5875 octets, under TLS: true
}

// What is new since the last time, by unique-id. A message number is good for
// one session, a unique-id for the life of the message. addr is your server,
// such as "pop.example.com", and opts may be nil.
func ExampleClient_UIDLAll() {
	addr, opts, stop := startServer()
	defer stop()

	// What the sessions before have stored, from a file for instance.
	stored := map[string]bool{"38390dbb00000001": true, "38390dbb00000002": true}

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.UIDLAll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	var unseen []int
	uids := make(map[int]string)
	seen := make(map[string]bool) // stored, and still there: others may come to be used again
	for _, m := range list {
		if stored[m.UID] {
			seen[strings.Clone(m.UID)] = true // the clone lets go of the rest of the listing
			continue
		}
		unseen = append(unseen, m.Number)
		uids[m.Number] = m.UID
	}
	for m, err := range c.RetrAll(ctx, unseen) {
		switch {
		case m == nil: // the connection failed, and this is the end
			log.Fatal(err)
		case err != nil: // the server refused this one, the next may come
			log.Print(err)
			continue
		}
		n, err := m.WriteTo(io.Discard) // to where mail is kept
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("message %d is new: %d octets\n", m.Number, n)
		// To be noted, on the disk too, only now that the message is stored.
		seen[strings.Clone(uids[m.Number])] = true
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// message 3 is new: 350 octets
}

// The headers of all messages by TOP, and then the messages chosen by them. addr
// is your server, such as "pop.example.com", and opts may be nil.
func ExampleClient_TopAll() {
	addr, opts, stop := startServer(withMail("01-plain.eml", "02-encoded-words.eml", "04-attachment.eml"))
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.ListAll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	var numbers, chosen []int
	for _, info := range list {
		numbers = append(numbers, info.Number)
	}
	var words mime.WordDecoder                      // Subject: =?UTF-8?Q?...?=
	for m, err := range c.TopAll(ctx, numbers, 0) { // 0 lines of the body
		if err != nil {
			log.Fatal(err)
		}
		msg, err := mail.ReadMessage(m)
		if err != nil {
			continue // a message need not have a header
		}
		subject, err := words.DecodeHeader(msg.Header.Get("Subject"))
		fmt.Println(m.Number, subject, err)
		if strings.Contains(subject, "garden") {
			chosen = append(chosen, m.Number)
		}
	}
	for m, err := range c.RetrAll(ctx, chosen) {
		if err != nil {
			log.Fatal(err)
		}
		n, err := m.WriteTo(io.Discard)
		fmt.Println("message", m.Number, "has", n, "octets", err)
	}
	// Output:
	// 1 Apples on Saturday <nil>
	// 2 Grüße aus Köln – und 一路平安 <nil>
	// 3 The plan of the garden <nil>
	// message 3 has 5001 octets <nil>
}

// All messages, with progress. RetrAll keeps several commands on the way if the
// server can take them, so the round trips to a server far away cost little.
// addr is your server, such as "pop.example.com", and opts may be nil.
func ExampleClient_RetrAll() {
	addr, opts, stop := startServer()
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.ListAll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	var numbers []int
	var done, total int64
	for _, m := range list {
		numbers = append(numbers, m.Number)
		total += m.Size // the server's count, good for no more than progress
	}
	for m, err := range c.RetrAll(ctx, numbers) {
		switch {
		case m == nil: // the connection failed, and this is the end
			log.Fatal(err)
		case err != nil: // the server refused this one, the next may come
			log.Print(err)
			continue
		}
		n, err := m.WriteTo(io.Discard)
		if err != nil {
			log.Fatal(err)
		}
		done += n
		fmt.Printf("message %d of %d: %d of %d octets\n", m.Number, len(list), done, total)
	}
	// Output:
	// message 1 of 3: 524 of 5875 octets
	// message 2 of 3: 5525 of 5875 octets
	// message 3 of 3: 5875 of 5875 octets
}

// save writes a message to a new file in dir, octet for octet, and returns its
// name. The file has its name only when all of it is on the disk, and it takes
// the place of no other: message numbers begin at 1 again in each session.
func save(m *pop3.Message, dir string) (name string, err error) {
	f, err := os.CreateTemp(dir, "incoming-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	_, err = m.WriteTo(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", err
	}
	name = filepath.Join(dir, fmt.Sprintf("%d-%04d.eml", time.Now().UnixNano(), m.Number))
	if err := os.Link(f.Name(), name); err != nil { // unlike Rename, it fails if there is such a file
		return "", err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer folder.Close()
	// Without this a power cut may take the name away. Windows has no such call.
	if err := folder.Sync(); err != nil && runtime.GOOS != "windows" {
		return "", err
	}
	return name, nil
}

// Messages to files, byte for byte, and deletion of those that are safe and no
// others: DELE marks, QUIT deletes, and closing the connection without QUIT
// deletes nothing. addr is your server, such as "pop.example.com", opts may be nil,
// and dir is where the files go; save is the function above.
func ExampleClient_DeleAll() {
	addr, opts, stop := startServer()
	defer stop()
	dir, remove := tempDir()
	defer remove()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.ListAll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	var numbers, safe []int
	var files []string
	for _, info := range list {
		numbers = append(numbers, info.Number)
	}
	for m, err := range c.RetrAll(ctx, numbers) {
		if m != nil && err != nil { // the server refused this one: leave it there
			log.Print(err)
			continue
		}
		var file string
		if err == nil {
			file, err = save(m, dir)
		}
		if err != nil {
			c.Close() // no QUIT: some servers delete at QUIT what was sent
			log.Fatal(err)
		}
		safe, files = append(safe, m.Number), append(files, file)
	}
	if err := c.DeleAll(ctx, safe); err != nil {
		log.Fatal(err)
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal("perhaps not all was deleted: ", err)
	}
	fmt.Println(len(safe), "deleted; the file is what the server held:", sameFile(files[0], "testdata/mail/01-plain.eml"))
	// Output:
	// 3 deleted; the file is what the server held: true
}

// A message's text and its attachments, with net/mail, mime and mime/multipart,
// as they come from the server. addr is your server, such as "pop.example.com",
// and opts may be nil.
func ExampleMessage_attachments() {
	addr, opts, stop := startServer(withMail("04-attachment.eml"))
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	m, err := c.Retr(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	defer m.Close()
	msg, err := mail.ReadMessage(m)
	if err != nil {
		log.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		log.Fatal("no attachments: msg.Body is the text")
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for part, err := parts.NextPart(); err != io.EOF; part, err = parts.NextPart() {
		if err != nil {
			log.Fatal(err)
		}
		var text io.Reader = part // quoted-printable is decoded, base64 is not
		if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "base64") {
			text = base64.NewDecoder(base64.StdEncoding, part)
		}
		b, err := io.ReadAll(text)
		fmt.Printf("%q, %s: %d octets; %v\n", part.FileName(), part.Header.Get("Content-Type"), len(b), err)
	}
	// Output:
	// "", text/plain; charset=us-ascii: 62 octets; <nil>
	// "plan.bin", application/octet-stream; name="plan.bin": 3072 octets; <nil>
	// "pflanzen für Ada.csv", text/csv; charset=utf-8: 34 octets; <nil>
}

// OAuth 2.0, for Gmail and Exchange Online. The token comes from the provider;
// package golang.org/x/oauth2 gets one. addr is "pop.gmail.com" or
// "outlook.office365.com", and opts may be nil.
func ExampleXOAuth2Auth() {
	addr, opts, stop := startServer(withToken("ya29.fresh"))
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, token := range []string{"ya29.stale", "ya29.fresh"} {
		err := c.Auth(ctx, pop3.XOAuth2Auth("ada", token))
		switch {
		case errors.Is(err, pop3.CodeAuth):
			fmt.Println("this token does not do:", err)
		case err != nil:
			log.Fatal(err)
		default:
			fmt.Println("logged in")
		}
	}
	// Output:
	// this token does not do: pop3: AUTH: server refused [AUTH]: "Authentication failed (status 400)"
	// logged in
}

// SCRAM with channel binding: the server must prove that it knows the password,
// and that the TLS connection ends at it and not at somebody between. addr is
// your server, such as "pop.example.com", and opts may be nil.
func ExampleSCRAMSHA256PlusAuth() {
	addr, opts, stop := startServer()
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	caps, err := c.Capa(ctx)
	if err != nil {
		log.Fatal(err)
	}
	if !slices.Contains(caps.SASL(), "SCRAM-SHA-256-PLUS") {
		log.Fatal("the server offers only ", caps.SASL())
	}
	state, ok := c.TLSConnectionState()
	if !ok {
		log.Fatal("there is no TLS to bind to")
	}
	if err := c.Auth(ctx, pop3.SCRAMSHA256PlusAuth("ada", "tides", state)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.LastReply())
	// Output:
	// Logged in
}

// A lateToken is a SASL mechanism of one's own: OAUTHBEARER (RFC 7628) with a
// token that is got when it is needed.
type lateToken struct {
	user  string
	token func() (string, error)
}

func (t *lateToken) Start() (mech string, ir []byte, err error) {
	token, err := t.token()
	if err != nil {
		return "", nil, err
	}
	return "OAUTHBEARER", []byte("n,a=" + t.user + ",\x01auth=Bearer " + token + "\x01\x01"), nil
}

// Next is called if the token does not do. Its error cancels the login.
func (t *lateToken) Next(challenge []byte) ([]byte, error) {
	return nil, fmt.Errorf("token refused: %s", challenge)
}

// A SASL mechanism of one's own. A client mechanism of emersion/go-sasl can be
// given to Auth as it is. addr is your server, such as "pop.example.com", and opts
// may be nil; lateToken is the type above.
func ExampleClient_Auth() {
	addr, opts, stop := startServer(withToken("ya29.fresh"))
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	askProvider := func() (string, error) { return "ya29.fresh", nil }
	if err := c.Auth(ctx, &lateToken{"ada", askProvider}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.LastReply())
	// Output:
	// Logged in
}

// A tunnel is the connection behind a proxy's reply, of which r may have read
// more already.
type tunnel struct {
	net.Conn
	r io.Reader
}

func (t tunnel) Read(p []byte) (int, error) { return t.r.Read(p) }

// An HTTP proxy, by CONNECT. For SOCKS, DialContext is that of a dialer of
// golang.org/x/net/proxy. proxy is your proxy, such as "proxy.example.com:3128",
// addr your server, such as "pop.example.com", and opts may hold DialContext
// alone; tunnel is the type above.
func ExampleOptions_proxy() {
	addr, opts, stop := startServer()
	defer stop()
	proxy, stopProxy := startProxy()
	defer stopProxy()

	opts.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, proxy)
		if err != nil {
			return nil, err
		}
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", addr, addr)
		r := bufio.NewReader(conn)
		reply, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err == nil && reply.StatusCode != http.StatusOK {
			err = errors.New("proxy: " + reply.Status)
		}
		if err != nil {
			conn.Close()
			return nil, err
		}
		return tunnel{conn, r}, nil
	}
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Login(ctx, "ada", "tides"))
	// Output:
	// through the proxy
	// <nil>
}

// Three clocks. The context of a call bounds the whole of it. Options.Timeout
// bounds each silence of the server. The server has one too, which Noop starts
// anew. addr is your server, such as "pop.example.com", and opts may hold Timeout
// alone.
func Example_cancellation() {
	ctx, cancel := context.WithCancelCause(context.Background())
	inQuestion := func() { cancel(errors.New("the user pressed stop")) }
	addr, opts, stop := startServer(silentIn("LIST", inQuestion))
	defer stop()

	opts.Timeout = time.Minute // without a sign of life; 0 is three minutes
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}

	late, release := context.WithDeadline(ctx, time.Now())
	defer release()
	_, _, err = c.Stat(late) // nothing was sent yet: the connection is as it was
	fmt.Println(errors.Is(err, context.DeadlineExceeded), c.Err())

	_, err = c.ListAll(ctx) // canceled while the server thinks: closed
	fmt.Println(errors.Is(err, context.Canceled), err)
	fmt.Println(c.Err() != nil)

	err = c.Noop(context.Background()) // and closed it stays
	fmt.Println(errors.Is(err, pop3.ErrClosed), err)
	// Output:
	// true <nil>
	// true pop3: LIST: context canceled: the user pressed stop
	// true
	// true pop3: NOOP: connection is closed since: LIST: context canceled: the user pressed stop
}

// What went wrong, and what to do about it. addr is your server, such as
// "pop.example.com", and opts may be nil.
func ExampleError() {
	addr, opts, stop := startServer(moody)
	defer stop()

	advice := func(err error) string {
		var refused *pop3.Error
		var silence net.Error
		switch {
		case err == nil:
			return "all is well"
		case errors.Is(err, pop3.CodeAuth):
			return "ask for the password again"
		case errors.Is(err, pop3.CodeInUse):
			return "another program is reading this mail: wait for it"
		case errors.As(err, &refused) && refused.Temporary():
			return "try again later"
		case errors.As(err, &refused) && refused.Err == nil:
			return "the server says no: " + refused.Text
		case errors.Is(err, pop3.ErrMalformed), errors.Is(err, pop3.ErrTooLarge):
			return "this server is broken, or no POP3 server"
		case errors.As(err, &silence) && silence.Timeout(), errors.Is(err, io.ErrUnexpectedEOF):
			return "the server or the network is down: try again later"
		}
		return "look at it: " + err.Error()
	}

	ctx := context.Background()
	for _, password := range []string{"tides", "wrong", "in use", "too soon", "holidays", "babble"} {
		c, err := pop3.DialTLS(ctx, addr, opts)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(advice(c.Login(ctx, "ada", password)))
		c.Close()
	}
	// Output:
	// all is well
	// ask for the password again
	// another program is reading this mail: wait for it
	// try again later
	// the server says no: closed until Monday
	// this server is broken, or no POP3 server
}

// Watch a session with log/slog. The level of a slog.LevelVar can be changed
// while the connection is in use, as poplib's set_debuglevel does. Passwords show
// as "***". addr is your server, such as "pop.example.com", and opts may hold Trace
// alone.
func ExampleLogTrace() {
	addr, opts, stop := startServer()
	defer stop()

	var level slog.LevelVar // slog.LevelInfo: nothing is logged
	opts.Trace = pop3.LogTrace(slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: &level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { // so that it prints the same each time
			if a.Key == slog.TimeKey || a.Key == "elapsed" {
				return slog.Attr{}
			}
			return a
		},
	})))
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	level.Set(slog.LevelDebug) // set_debuglevel(1): commands
	c.User(ctx, "ada")
	level.Set(slog.LevelDebug - 4) // set_debuglevel(2): each line too
	c.Pass(ctx, "tides")
	level.Set(slog.LevelInfo) // set_debuglevel(0)
	c.Quit(ctx)
	// Output:
	// level=DEBUG msg="pop3: command" command=USER number=0 reply="Send the password" bytes=0
	// level=DEBUG-4 msg="pop3: sent" line="PASS ***"
	// level=DEBUG-4 msg="pop3: received" line="+OK Logged in"
	// level=DEBUG msg="pop3: command" command=PASS number=0 reply="Logged in" bytes=0
}

// A test of your own code needs no server and no network: net.Pipe and twenty
// lines will do. A net.Pipe has no buffer, so Window must be 1, or each side may
// wait for the other to read.
func ExampleNewClient() {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		replies := map[string]string{
			"USER ada":   "+OK",
			"PASS tides": "+OK",
			"STAT":       "+OK 1 27",
			"RETR 1":     "+OK 27 octets\r\nSubject: a test\r\n\r\n..hello\r\n.",
			"QUIT":       "+OK",
		}
		fmt.Fprint(server, "+OK ready\r\n")
		for in := bufio.NewScanner(server); in.Scan(); {
			reply, ok := replies[in.Text()]
			if !ok {
				reply = "-ERR what is " + in.Text()
			}
			fmt.Fprint(server, reply+"\r\n")
		}
	}()

	ctx := context.Background()
	c, err := pop3.NewClient(ctx, client, &pop3.Options{Window: 1})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Login(ctx, "ada", "tides")) // allowed: a pipe is local
	m, err := c.Retr(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	b, err := io.ReadAll(m)
	fmt.Printf("%q %v\n", b, err)
	fmt.Println(c.Quit(ctx))
	// Output:
	// <nil>
	// "Subject: a test\r\n\r\n.hello\r\n" <nil>
	// <nil>
}

// UTF-8 mode (RFC 6856) for mail with addresses and headers that are not ASCII,
// and replies in the user's language. addr is your server, such as
// "pop.example.com", and opts may be nil.
func ExampleClient_UTF8() {
	addr, opts, stop := startServer()
	defer stop()

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, addr, opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.UTF8(ctx) // before login, and after StartTLS if that is used
	fmt.Println(c.LastReply(), err)

	languages, err := c.LangAll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range languages {
		fmt.Println(l.Tag, l.Description)
	}
	selected, err := c.Lang(ctx, "de") // "*" is the server's choice
	fmt.Println(selected, err)
	err = c.Login(ctx, "ada", "forgotten")
	fmt.Println(err)
	// Output:
	// UTF-8 mode <nil>
	// en English
	// de Deutsch
	// es Español
	// de <nil>
	// pop3: AUTH: server refused [AUTH]: "Anmeldung fehlgeschlagen"
}

// A demo is the server of an example before it starts.
type demo struct {
	*pop3test.Server
	start func()
	mail  []string
	ada   *pop3test.Maildrop
}

// startServer starts a server with the maildrop of user "ada", whose password is
// "tides". Of the options, TLSConfig trusts the server's certificate.
func startServer(change ...func(*demo)) (addr string, opts *pop3.Options, stop func()) {
	d := &demo{Server: pop3test.NewUnstartedServer(), mail: []string{"01-plain.eml", "04-attachment.eml", "05-dots.eml"}}
	d.Greeting, d.Disable = "pop3test ready", []string{"APOP"}
	d.start, d.ada = d.StartTLS, d.AddUser("ada", "tides")
	for _, f := range change {
		f(d)
	}
	for _, name := range d.mail {
		text, err := os.ReadFile(filepath.Join("testdata/mail", name))
		if err != nil {
			log.Fatal(err)
		}
		d.ada.Add(string(text))
	}
	d.start()
	return d.Addr, &pop3.Options{TLSConfig: d.ClientTLS()}, d.Close
}

func tempDir() (dir string, remove func()) {
	dir, err := os.MkdirTemp("", "pop3-example-")
	if err != nil {
		log.Fatal(err)
	}
	return dir, func() { os.RemoveAll(dir) }
}

func sameFile(a, b string) bool {
	x, err1 := os.ReadFile(a)
	y, err2 := os.ReadFile(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func inClear(d *demo) { d.start = d.Start }

func withMail(names ...string) func(*demo) { return func(d *demo) { d.mail = names } }

func withToken(token string) func(*demo) { return func(d *demo) { d.ada.Token = token } }

// silentIn makes the server call f in place of an answer to a command.
func silentIn(command string, f func()) func(*demo) {
	return func(d *demo) {
		d.Intercept = func(line string) (string, bool) {
			if line != command {
				return "", false
			}
			f()
			return "", true
		}
	}
}

// moody makes the server answer the password with what it says.
func moody(d *demo) {
	d.Disable = append(d.Disable, "SASL")
	answers := map[string]string{
		"PASS in use":   "-ERR [IN-USE] maildrop is locked\r\n",
		"PASS too soon": "-ERR [LOGIN-DELAY] not before ten past\r\n",
		"PASS holidays": "-ERR closed until Monday\r\n",
		"PASS babble":   "220 smtp.example.com ESMTP\r\n",
	}
	d.Intercept = func(line string) (string, bool) {
		reply, ok := answers[line]
		return reply, ok
	}
}

// startProxy starts an HTTP proxy that knows CONNECT.
func startProxy() (addr string, stop func()) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server, err := net.Dial("tcp", r.Host)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer server.Close()
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer client.Close()
		fmt.Println("through the proxy")
		fmt.Fprint(client, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(server, buffered)
			server.Close()
		}()
		io.Copy(client, server)
	}))
	return s.Listener.Addr().String(), s.Close
}
