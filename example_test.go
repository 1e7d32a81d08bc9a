package pop3_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/mail"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"example.com/pop3"
)

// This example logs in and prints the subject of each message.
func Example() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.Messages(ctx)
	if err != nil {
		log.Print(err) // what the server could list is in list, perhaps without unique-ids
	}
	var numbers []int
	for _, info := range list {
		numbers = append(numbers, info.Number)
	}
	for m, err := range c.TopAll(ctx, numbers, 0) { // the header, and no line of the body
		if m == nil {
			log.Fatal(err) // no more messages come
		}
		if err != nil {
			log.Print(err) // the server refused this message
			continue
		}
		msg, err := mail.ReadMessage(m)
		if err != nil {
			log.Print("message ", m.Number, " cannot be parsed: ", err)
			continue
		}
		fmt.Println(m.Number, msg.Header.Get("Subject"))
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 1 Apples on Saturday
	// 2 The plan of the garden
	// 3 Lines that begin with a dot
}

// This example is that of Python's poplib, line by line: it prints all messages.
func Example_poplib() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil) // M = poplib.POP3_SSL('pop.example.com')
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.User(ctx, "milo@example.com"); err != nil { // M.user('milo@example.com')
		log.Fatal(err)
	}
	if err := c.Pass(ctx, "apples"); err != nil { // M.pass_('apples')
		log.Fatal(err)
	}
	list, err := c.ListAll(ctx) // M.list()[1]
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range list {
		m, err := c.Retr(ctx, info.Number) // M.retr(i+1)
		if errors.Is(err, pop3.ErrRefused) {
			log.Print(err) // poplib.error_proto
			continue
		}
		if err != nil {
			log.Fatal(err)
		}
		text, err := io.ReadAll(m)
		if err != nil {
			log.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			fmt.Println(strings.TrimRight(line, "\r\n")) // print(j)
		}
	}
	if err := c.Quit(ctx); err != nil { // M.quit()
		log.Fatal(err)
	}
	// Output:
	// From: Milo <milo@example.com>
	// To: ada@example.com
	// Subject: On my way (nothing else to say)
	// Date: Tue, 10 Mar 2026 17:55:00 +0000
}

// This example shows calls whose context is done, one before anything was sent and one in
// the middle of a message.
func Example_cancellation() {
	ctx, cancel := context.WithCancelCause(context.Background())
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}

	expired, release := context.WithTimeout(ctx, 0)
	defer release()
	_, _, err = c.Stat(expired)
	fmt.Println(errors.Is(err, context.DeadlineExceeded), c.Err()) // nothing was sent

	m, err := c.Retr(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	cancel(errors.New("the user pressed stop"))
	_, err = m.WriteTo(io.Discard)
	fmt.Println(errors.Is(err, context.Canceled), err)

	err = c.Noop(context.Background())
	fmt.Println(errors.Is(err, pop3.ErrClosed), err)
	// Output:
	// true <nil>
	// true pop3: RETR 1: context canceled: the user pressed stop
	// true pop3: NOOP: connection is closed: RETR 1: context canceled: the user pressed stop
}

// This example uses TLS on a server that has no port for it. If the server does not offer
// STLS, DialStartTLS fails; it never goes on in the clear.
func ExampleDialStartTLS() {
	ctx := context.Background()
	c, err := pop3.DialStartTLS(ctx, "pop.example.com", nil)
	if errors.Is(err, pop3.ErrUnsupported) {
		log.Fatal("this server has no STLS; try DialTLS: ", err)
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

// This example tests your own code without a network: the server is a goroutine at the
// other end of a net.Pipe. It can run in a testing/synctest bubble too, where a timeout
// takes no time. If the code under test dials, give its Options a DialContext that returns
// client, and let it dial localhost, where a login needs no TLS.
func ExampleNewClient() {
	client, server := net.Pipe()
	go func() {
		defer server.Close()
		replies := map[string]string{
			"USER ada":   "+OK",
			"PASS tides": "+OK",
			"LIST":       "+OK\r\n1 27\r\n.",
			"RETR 1":     "+OK\r\nSubject: a test\r\n\r\n..hello\r\n.", // dots are stuffed
			"QUIT":       "+OK",
		}
		io.WriteString(server, "+OK ready\r\n")
		for in := bufio.NewScanner(server); in.Scan(); {
			reply, ok := replies[in.Text()]
			if !ok {
				reply = "-ERR no such command" // to CAPA, which Login sends first
			}
			io.WriteString(server, reply+"\r\n")
		}
	}()

	ctx := context.Background()
	c, err := pop3.NewClient(ctx, client, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil { // allowed: a pipe is local
		log.Fatal(err)
	}
	m, err := c.Retr(ctx, 1)
	if err != nil {
		log.Fatal(err)
	}
	text, err := io.ReadAll(m)
	fmt.Printf("%q %v\n", text, err)
	fmt.Println(c.Quit(ctx))
	// Output:
	// "Subject: a test\r\n\r\n.hello\r\n" <nil>
	// <nil>
}

// A lateToken is the mechanism XOAUTH2 with a token that is fetched when it is needed.
type lateToken struct {
	pop3.SASL
	user  string
	fetch func() (string, error)
}

func (t *lateToken) Start() (mech string, ir []byte, err error) {
	token, err := t.fetch()
	if err != nil {
		return "", nil, err
	}
	t.SASL = pop3.XOAuth2Auth(t.user, token)
	return t.SASL.Start()
}

// This example logs in with a mechanism of its own, which fetches an OAuth token when it
// is needed. Client mechanisms of emersion/go-sasl can be given to Auth as they are.
func ExampleClient_Auth() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fetch := func() (string, error) { return "ya29.fresh", nil } // such as a TokenSource's Token
	if err := c.Auth(ctx, &lateToken{user: "ada", fetch: fetch}); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.LastReply())
	// Output:
	// Logged in
}

// This example deletes several messages in one session. A refusal does not keep the
// others from being deleted.
func ExampleClient_DeleAll() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	numbers := []int{1, 3, 9} // from a listing of this session
	if err := c.DeleAll(ctx, numbers); err != nil {
		fmt.Println(err) // if the connection failed, Quit returns an error
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal("perhaps not all were deleted: ", err)
	}
	// Output:
	// pop3: DELE 9: server refused: "No such message"
}

// This example checks the sizes first and leaves large messages on the server. The sizes
// may be wrong, so it sets MaxMessageSize as well.
func ExampleClient_ListAll() {
	const limit = 4096
	ctx := context.Background()
	opts := &pop3.Options{MaxMessageSize: 2 * limit}
	c, err := pop3.DialTLS(ctx, "pop.example.com", opts)
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
	for _, info := range list {
		if info.Size > limit {
			fmt.Printf("message %d has %d octets and stays\n", info.Number, info.Size)
			continue
		}
		numbers = append(numbers, info.Number)
		total += info.Size
	}
	for m, err := range c.RetrAll(ctx, numbers) {
		if m == nil {
			log.Fatal(err) // no more messages come
		}
		if err != nil {
			log.Print(err) // the server refused this message
			continue
		}
		n, err := m.WriteTo(io.Discard)
		if err != nil {
			c.Close() // not Quit, and before the loop is left
			log.Fatal(err)
		}
		done += n
		fmt.Printf("message %d: %d of %d octets\n", m.Number, done, total)
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// message 2 has 5001 octets and stays
	// message 1: 524 of 874 octets
	// message 3: 874 of 874 octets
}

// This example retrieves what is new since the last session. A message number is valid for
// one session, a unique-id for the life of the message.
func ExampleClient_Messages() {
	// The unique-ids of what earlier sessions have stored, from a file for instance.
	stored := map[string]bool{"38390dbb00000001": true, "38390dbb00000002": true}

	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.Messages(ctx)
	if err != nil {
		log.Fatal(err) // also if the server has no unique-ids
	}
	var unseen []int
	uids, listed := make(map[int]string), make(map[string]bool)
	for _, info := range list {
		uids[info.Number], listed[info.UID] = info.UID, true
		if info.UID == "" || !stored[info.UID] { // "" is unknown
			unseen = append(unseen, info.Number)
		}
	}
	// Forget what is gone, since the server may use its unique-id again.
	maps.DeleteFunc(stored, func(uid string, _ bool) bool { return !listed[uid] })
	for m, err := range c.RetrAll(ctx, unseen) {
		if m == nil {
			log.Fatal(err) // no more messages come
		}
		if err != nil {
			log.Print(err) // the server refused this message
			continue
		}
		n, err := m.WriteTo(io.Discard) // rather to where mail is kept
		if err != nil {
			c.Close() // not Quit, and before the loop is left
			log.Fatal(err)
		}
		stored[uids[m.Number]] = true // now that the message is safe; on the disk, too
		fmt.Printf("message %d is new: %d octets\n", m.Number, n)
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// message 3 is new: 350 octets
}

// This example lists the messages of a server that has no unique-ids: Messages returns
// their numbers and sizes together with the refusal. If the server refuses LIST as well,
// the list is empty.
func ExampleClient_Messages_refused() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "old.pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	list, err := c.Messages(ctx)
	if errors.Is(err, pop3.ErrRefused) {
		fmt.Println(err)
	} else if err != nil {
		log.Fatal(err)
	}
	for _, info := range list {
		fmt.Println(info.Number, info.Size)
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// pop3: UIDL: server refused: "Unknown command"
	// 1 524
	// 2 5001
	// 3 350
}

// save writes a message to a new file in dir. The file gets its name when all of it is on
// the disk, and replaces no other file: message numbers begin at 1 in each session. Without
// the Sync of the folder, which Windows does not have, the name may be lost in a power cut.
func save(m *pop3.Message, dir string) error {
	f, err := os.CreateTemp(dir, "incoming-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = m.WriteTo(f)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	name := fmt.Sprintf("%d-%d.eml", time.Now().UnixNano(), m.Number)
	if err := os.Link(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil && runtime.GOOS != "windows" {
		return err
	}
	return nil
}

// This example moves all messages to files in a folder. DELE only marks a message; the
// server deletes what is marked at Quit, so Quit comes last, and not at all after a
// failure.
func ExampleClient_Quit() {
	ctx, token := context.Background(), "ya29.fresh"
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close() // deletes nothing
	if err := c.Auth(ctx, pop3.XOAuth2Auth("ada", token)); err != nil {
		log.Fatal(err)
	}
	list, err := c.ListAll(ctx)
	if err != nil {
		log.Fatal(err)
	}
	folder := cmp.Or(os.Getenv("MAIL_FOLDER"), ".")
	var numbers, saved []int
	for _, info := range list {
		numbers = append(numbers, info.Number)
	}
	for m, err := range c.RetrAll(ctx, numbers) {
		if m == nil {
			log.Fatal(err) // no more messages come
		}
		if err != nil {
			log.Print(err) // the server refused this message
			continue
		}
		if err := save(m, folder); err != nil {
			c.Close() // not Quit, and before the loop is left
			log.Fatal(err)
		}
		saved = append(saved, m.Number)
	}
	if err := c.DeleAll(ctx, saved); err != nil {
		log.Print(err) // what the server refused stays in the maildrop
	}
	if err := c.Quit(ctx); err != nil { // deletes what is marked
		log.Fatal(err)
	}
	fmt.Println(len(saved), "messages moved")
	// Output:
	// 3 messages moved
}

// This example retrieves messages until it finds what it looks for. It calls Close before
// the break, so that it need not wait for what is on its way, and nothing is deleted.
func ExampleClient_RetrAll() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
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
	for _, info := range list {
		numbers = append(numbers, info.Number)
	}
	for m, err := range c.RetrAll(ctx, numbers) {
		if m == nil {
			log.Fatal(err) // no more messages come
		}
		if err != nil {
			log.Print(err) // the server refused this message
			continue
		}
		text, err := io.ReadAll(m)
		if err != nil {
			c.Close() // not Quit, and before the loop is left
			log.Fatal(err)
		}
		if strings.Contains(string(text), "garden") {
			fmt.Println("found in message", m.Number)
			c.Close()
			break
		}
	}
	// Output:
	// found in message 2
}

// This example shows the newest page of a maildrop, newest first, without the bodies.
func ExampleClient_TopAll() {
	const page = 2
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
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
	for _, info := range slices.Backward(list) { // the newest has the highest number
		if len(numbers) < page {
			numbers = append(numbers, info.Number)
		}
	}
	var words mime.WordDecoder // for =?UTF-8?Q?...?=
	for m, err := range c.TopAll(ctx, numbers, 0) {
		if m == nil {
			log.Fatal(err) // no more messages come
		}
		if err != nil {
			log.Print(err) // the server refused this message
			continue
		}
		msg, err := mail.ReadMessage(m)
		if err != nil {
			log.Print("message ", m.Number, " cannot be parsed: ", err)
			continue
		}
		subject, err := words.DecodeHeader(msg.Header.Get("Subject"))
		if err != nil {
			subject = msg.Header.Get("Subject")
		}
		fmt.Printf("%d %q\n", m.Number, subject) // %q: it may hold control characters
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// 3 "Lines that begin with a dot"
	// 2 "The plan of the garden"
}

// This example retrieves one message by its unique-id.
func ExampleClient_UIDLAll() {
	const wanted = "38390dbb00000002" // from an earlier session
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
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
	i := slices.IndexFunc(list, func(m pop3.MessageUID) bool { return m.UID == wanted })
	if i < 0 {
		log.Fatal("the message is gone")
	}
	m, err := c.Retr(ctx, list[i].Number)
	if err != nil {
		log.Fatal(err)
	}
	n, err := m.WriteTo(io.Discard)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("message %d: %d octets\n", m.Number, n)
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// message 2: 5001 octets
}

// This example asks for UTF-8 in headers and addresses, and for replies in the user's
// language.
func ExampleClient_UTF8() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.UTF8(ctx); err != nil { // before the login
		log.Print(err)
	}
	languages, err := c.LangAll(ctx)
	if err != nil {
		log.Print(err)
	}
	fmt.Println(slices.ContainsFunc(languages, func(l pop3.Language) bool { return l.Tag == "de" }))
	if _, err := c.Lang(ctx, "de"); err != nil { // "*" is the server's choice
		log.Print(err)
	}
	err = c.Login(ctx, "ada", "forgotten")
	var e *pop3.Error
	if errors.As(err, &e) {
		fmt.Println(e.Text)
	}
	// Output:
	// true
	// Anmeldung fehlgeschlagen
}

// This example prints what is known about a refusal.
func ExampleError() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.Login(ctx, "ada", "wrong")
	var e *pop3.Error
	if errors.As(err, &e) {
		fmt.Printf("%s [%s]: %s\n", e.Command, string(e.Code), e.Text)
	}
	fmt.Println(errors.Is(err, pop3.ErrRefused), errors.Is(err, pop3.CodeAuth))
	fmt.Println(c.Err()) // the connection is usable
	// Output:
	// AUTH [AUTH]: Authentication failed
	// true true
	// <nil>
}

// This example polls a mailbox and decides when to do so again. Temporary comes first: a
// login that came too soon is refused too, but its password is right.
func ExampleError_Temporary() {
	const backOff = "wait longer each time: the server or the network is down"
	ctx := context.Background()
	poll := func(host, password string) (next string) {
		c, err := pop3.DialTLS(ctx, host, nil)
		if err != nil {
			return backOff
		}
		defer c.Close()
		err = c.Login(ctx, "ada", password)
		var e *pop3.Error
		switch {
		case errors.As(err, &e) && e.Temporary():
			return "try again later: " + e.Text
		case errors.Is(err, pop3.ErrRefused):
			return "stop and ask for the password: servers lock users out"
		case err != nil:
			return backOff
		}
		// Retrieve what is new here.
		if err := c.Quit(ctx); err != nil {
			return backOff
		}
		return "poll again in ten minutes"
	}
	fmt.Println(poll("pop.example.com", "tides"))
	fmt.Println(poll("busy.pop.example.com", "tides"))
	fmt.Println(poll("pop.example.com", "wrong"))
	fmt.Println(poll("down.pop.example.com", "tides"))
	// Output:
	// poll again in ten minutes
	// try again later: another session is open
	// stop and ask for the password: servers lock users out
	// wait longer each time: the server or the network is down
}

// This example logs a session with log/slog. The level of a slog.LevelVar can be changed
// while the connection is in use, as with set_debuglevel of Python's poplib. Passwords
// appear as "***".
func ExampleLogTrace() {
	var level slog.LevelVar // slog.LevelInfo: nothing is logged
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{
		Level: &level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr { // to print the same each time
			if a.Key == slog.TimeKey || a.Key == "elapsed" {
				return slog.Attr{}
			}
			return a
		},
	}))
	ctx := context.Background()
	opts := &pop3.Options{Trace: pop3.LogTrace(logger)}
	c, err := pop3.DialTLS(ctx, "pop.example.com", opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	level.Set(slog.LevelDebug) // set_debuglevel(1): commands
	c.User(ctx, "ada")
	level.Set(slog.LevelDebug - 4) // set_debuglevel(2): each line, too
	c.Pass(ctx, "tides")
	level.Set(slog.LevelInfo) // set_debuglevel(0)
	c.Quit(ctx)
	// Output:
	// level=DEBUG msg="pop3: command" command=USER number=0 reply="Send the password" bytes=0
	// level=DEBUG-4 msg="pop3: sent" line="PASS ***"
	// level=DEBUG-4 msg="pop3: received" line="+OK Logged in"
	// level=DEBUG msg="pop3: command" command=PASS number=0 reply="Logged in" bytes=0
}

// This example prints the parts of a message as they arrive.
func ExampleMessage_attachments() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	m, err := c.Retr(ctx, 2)
	if err != nil {
		log.Fatal(err)
	}
	msg, err := mail.ReadMessage(m)
	if err != nil {
		log.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
	if err != nil || !strings.HasPrefix(kind, "multipart/") {
		log.Fatal("no attachments: msg.Body is the text")
	}
	parts := multipart.NewReader(msg.Body, params["boundary"])
	for {
		part, err := parts.NextPart() // it decodes quoted-printable, but not base64
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		var text io.Reader = part
		if strings.EqualFold(part.Header.Get("Content-Transfer-Encoding"), "base64") {
			text = base64.NewDecoder(base64.StdEncoding, part)
		}
		n, err := io.Copy(io.Discard, text)
		kind := part.Header.Get("Content-Type")
		fmt.Printf("%q, %s: %d octets, %v\n", part.FileName(), kind, n, err)
	}
	if err := m.Close(); err != nil { // nil: the message was complete
		log.Fatal(err)
	}
	// Output:
	// "", text/plain; charset=us-ascii: 62 octets, <nil>
	// "plan.bin", application/octet-stream; name="plan.bin": 3072 octets, <nil>
	// "pflanzen für Ada.csv", text/csv; charset=utf-8: 34 octets, <nil>
}

// This example logs commands and counts them and their octets. Many Clients may share both
// traces.
func ExampleMultiTrace() {
	var commands, octets expvar.Map // safe for use by many goroutines
	metrics := &pop3.Trace{
		CommandDone: func(_ context.Context, info pop3.CommandInfo) {
			commands.Add(info.Command, 1)
			octets.Add(info.Command, info.Bytes)
		},
	}
	ctx := context.Background()
	opts := &pop3.Options{Trace: pop3.MultiTrace(pop3.LogTrace(slog.Default()), metrics)}
	c, err := pop3.DialTLS(ctx, "pop.example.com", opts)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.Login(ctx, "ada", "tides"); err != nil {
		log.Fatal(err)
	}
	for m, err := range c.RetrAll(ctx, []int{1, 2, 3}) {
		if m == nil {
			log.Fatal(err) // no more messages come
		}
		if err != nil {
			log.Print(err) // the server refused this message
			continue
		}
		if _, err := m.WriteTo(io.Discard); err != nil {
			c.Close() // not Quit, and before the loop is left
			log.Fatal(err)
		}
	}
	if err := c.Quit(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(commands.Get("RETR"), octets.Get("RETR"))
	// Output:
	// 3 5875
}

// This example trusts one public key and ignores the signer and the names of the
// certificate. VerifyConnection is called for resumed TLS sessions too.
func ExampleOptions_pinned() {
	// openssl x509 -in cert.pem -pubkey -noout | openssl pkey -pubin -outform der |
	// openssl dgst -sha256 -binary | base64
	const pin = "M54v+RdjBQe2pCO1zghOKF0fpl2Ts+J6YZXTu+vJriM="
	config := &tls.Config{
		InsecureSkipVerify: true, // VerifyConnection verifies
		VerifyConnection: func(state tls.ConnectionState) error {
			sum := sha256.Sum256(state.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if base64.StdEncoding.EncodeToString(sum[:]) != pin {
				return errors.New("the server has another key")
			}
			return nil
		},
	}
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", &pop3.Options{TLSConfig: config})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Login(ctx, "ada", "tides"))
	// Output:
	// <nil>
}

// A tunnel is a connection through a proxy. r may have read more of it than the proxy's
// reply.
type tunnel struct {
	net.Conn
	r io.Reader
}

func (t tunnel) Read(p []byte) (int, error) { return t.r.Read(p) }

// This example connects through an HTTP proxy, with CONNECT. For SOCKS, use the DialContext
// of a dialer from golang.org/x/net/proxy.
func ExampleOptions_proxy() {
	const proxy = "proxy.example.com:3128"
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
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
	c, err := pop3.DialTLS(ctx, "pop.example.com", &pop3.Options{DialContext: dial})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(c.Login(ctx, "ada", "tides"))
	// Output:
	// <nil>
}

// This example polls a server twice with one session cache, so that the second handshake
// needs no certificates. All mailboxes of all servers may share the cache.
func ExampleOptions_resumption() {
	config := &tls.Config{ClientSessionCache: tls.NewLRUClientSessionCache(0)}
	opts := &pop3.Options{TLSConfig: config}
	ctx := context.Background()
	for range 2 {
		c, err := pop3.DialTLS(ctx, "pop.example.com", opts)
		if err != nil {
			log.Fatal(err)
		}
		state, _ := c.TLSConnectionState()
		fmt.Println("resumed:", state.DidResume)
		c.Close()
	}
	// Output:
	// resumed: false
	// resumed: true
}

// This example binds the login to the TLS connection: the server must prove that it knows
// the password, and that the TLS connection ends at the server itself.
func ExampleSCRAMSHA256PlusAuth() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil)
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
	s := pop3.SCRAMSHA256PlusAuth("milo@example.com", "apples", state)
	if err := c.Auth(ctx, s); err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.LastReply())
	// Output:
	// Logged in
}

// This example logs in with OAuth 2.0, as Gmail and Exchange Online require. Tokens come
// from the provider, for instance through golang.org/x/oauth2. If the server refuses one,
// the error holds the status that it gave.
func ExampleXOAuth2Auth() {
	ctx := context.Background()
	c, err := pop3.DialTLS(ctx, "pop.example.com", nil) // such as "pop.gmail.com"
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.Auth(ctx, pop3.XOAuth2Auth("ada", "ya29.stale"))
	var e *pop3.Error
	if errors.As(err, &e) && e.Temporary() {
		log.Fatal("try again later: ", err) // another token would not help
	}
	if errors.Is(err, pop3.ErrRefused) {
		fmt.Println("the token was refused")
		err = c.Auth(ctx, pop3.XOAuth2Auth("ada", "ya29.fresh")) // renewed
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("logged in")
	// Output:
	// the token was refused
	// logged in
}
