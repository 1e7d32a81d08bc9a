package conformance

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/pop3"
	"example.com/pop3/internal/pop3test"
)

// perOctet is what the server's side of a link takes for an octet: 1 Gbit/s.
const perOctet = 8 * time.Nanosecond

// TestWindow downloads the same mail with several Options.Window over links of
// several round trips, on the fake clock: the times are those of the link alone,
// the same on any machine. With -v they are logged as a table in Markdown.
func TestWindow(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("| mail | round trip | `Window` 1 | 4 | 64 | 0 | limit |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, mail := range []struct {
		name        string
		size, count int
		window      int // that Options.Window 0 should find
	}{{"500 of 1 KiB", 1 << 10, 500, 512}, {"500 of 4 KiB", 4 << 10, 500, 512}, {"12 of 1 MiB", 1 << 20, 12, 4}} {
		reply := fmt.Appendf(nil, "+OK\r\n%s.\r\n", bytes.Repeat(append(bytes.Repeat([]byte("x"), 1022), "\r\n"...), mail.size/1024))
		sending := time.Duration(len(reply)*mail.count) * perOctet
		for _, rtt := range []time.Duration{time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
			one := download(t, reply, mail.count, rtt, 1)
			if want := sending + time.Duration(mail.count)*rtt; one != want {
				t.Errorf("%s, %v: Window 1 took %v, want a round trip for each: %v", mail.name, rtt, one, want)
			}
			adaptive := download(t, reply, mail.count, rtt, 0)
			// A round trip for CAPA, one for the first 8 commands, and then one for
			// each window, if it does not fill the link.
			trips := 2 + (mail.count-8+mail.window-1)/mail.window
			if limit := sending + time.Duration(trips)*rtt; adaptive > limit || adaptive >= one {
				t.Errorf("%s, %v: Window 0 took %v, want %v at the most, and less than %v", mail.name, rtt, adaptive, limit, one)
			}
			fmt.Fprintf(&table, "| %s | %v | %.2f s", mail.name, rtt, one.Seconds())
			for _, took := range []time.Duration{
				download(t, reply, mail.count, rtt, 4), download(t, reply, mail.count, rtt, 64), adaptive, sending + rtt,
			} {
				fmt.Fprintf(&table, " | %.3f", took.Seconds()/one.Seconds())
			}
			table.WriteString(" |\n")
		}
	}
	t.Logf("\n%s", table.String())
}

// download returns the time of a RetrAll of count messages over a link of its
// own, to a server that answers each RETR with reply.
func download(t *testing.T, reply []byte, count int, rtt time.Duration, window int) (took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		c, err := pop3.NewClient(t.Context(), dialLink(reply, rtt/2), &pop3.Options{Window: window})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		begin, got := time.Now(), 0
		for m, err := range c.RetrAll(t.Context(), slices.Repeat([]int{1}, count)) {
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.WriteTo(io.Discard); err != nil {
				t.Fatal(err)
			}
			got++
		}
		took = time.Since(begin)
		if got != count {
			t.Errorf("got %d messages, want %d", got, count)
		}
	})
	return took
}

// A linkConn is the client's end of a link.
type linkConn struct {
	net.Conn // takes the commands
	down     *oneWay
}

func (c *linkConn) Read(p []byte) (int, error) { return c.down.Read(p) }

// dialLink starts a link and the server at its other end. The server does one
// thing after the other and each reply is a packet, so that the times come out
// the same each time: how pop3test.Server gathers replies depends on the
// scheduler.
func dialLink(reply []byte, delay time.Duration) net.Conn {
	near, far := pop3test.Pipe()
	up := &oneWay{delay: delay, packets: make(chan packet, 1024)}
	down := &oneWay{delay: delay, perOctet: perOctet, packets: make(chan packet, 1024)}
	go func() {
		defer close(up.packets)
		for {
			b := make([]byte, 4096)
			n, err := far.Read(b)
			if err != nil {
				return
			}
			up.send(b[:n])
		}
	}()
	go func() {
		defer close(down.packets)
		down.send([]byte("+OK\r\n"))
		for commands := bufio.NewScanner(up); commands.Scan(); {
			if commands.Text() == "CAPA" {
				down.send([]byte("+OK\r\nPIPELINING\r\n.\r\n"))
			} else {
				down.send(reply)
			}
		}
	}()
	return &linkConn{near, down}
}

// A oneWay is one direction of a link. Packets leave one behind the other and
// arrive after delay, however many are on the way: there is no slow start and no
// receive window, as TCP has them.
type oneWay struct {
	delay, perOctet time.Duration
	packets         chan packet
	arrived         []byte
}

type packet struct {
	data []byte
	due  time.Time
}

// send returns when the last octet has left.
func (w *oneWay) send(data []byte) {
	time.Sleep(time.Duration(len(data)) * w.perOctet)
	w.packets <- packet{data, time.Now().Add(w.delay)}
}

func (w *oneWay) Read(p []byte) (int, error) {
	if len(w.arrived) == 0 {
		next, ok := <-w.packets
		if !ok {
			return 0, io.EOF
		}
		time.Sleep(time.Until(next.due))
		w.arrived = next.data
	}
	n := copy(p, w.arrived)
	w.arrived = w.arrived[n:]
	return n, nil
}

// answers returns n replies to RETR or TOP with a text of size octets.
func answers(n, size int) string {
	text := ""
	if size > 0 {
		text = strings.Repeat("x", size-2) + "\r\n"
	}
	return strings.Repeat("+OK\r\n"+text+".\r\n", n)
}

// windowed runs a subtest that is the server of a loop over messages, TOP with so many lines
// if not -1. The loop goes on for as long as there are replies. sent returns what was written
// since it was last called, when everybody waits for something.
func windowed(t *testing.T, name string, window int, numbers []int, lines int, serve func(t *testing.T, sent func() string, peer net.Conn)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			near, peer := pop3test.Pipe()
			defer peer.Close() // and with it the loop
			conn := &pop3test.Conn{Conn: near}
			io.WriteString(peer, "+OK ready\r\n")
			c, err := pop3.NewClient(t.Context(), conn, &pop3.Options{Window: window})
			if err == nil {
				io.WriteString(peer, pop3test.Pipelining)
				_, err = c.Capa(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			conn.Sent()
			messages := c.TopAll(t.Context(), numbers, lines)
			if lines < 0 {
				messages = c.RetrAll(t.Context(), numbers)
			}
			go func() {
				for m, err := range messages {
					if err == nil {
						m.WriteTo(io.Discard)
					}
				}
			}()
			serve(t, func() string { synctest.Wait(); return conn.Sent() }, peer)
		})
	})
}

// How many commands are on the wire, reply by reply.
func TestCommandsAhead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		window  int
		sizes   []int // of the messages in reply; the last goes on
		replies []int // how many come at a time; the last goes on
		want    []int // commands sent: before the first reply, behind the first, ...
	}{
		{"2", 2, []int{10}, []int{1}, []int{2, 1, 1, 1}},
		{"3", 3, []int{10}, []int{1}, []int{3, 0, 2, 0, 2, 0, 2}},
		{"10", 10, []int{10}, []int{1}, []int{10, 0, 0, 0, 0, 5, 0, 0, 0, 0, 5}},
		{"adaptive, no text", 0, []int{0}, []int{1}, []int{8, 505, 0, 0}},
		{"adaptive, 1 KiB", 0, []int{1 << 10}, []int{1}, []int{8, 505, 0, 0}},
		{"adaptive, 100 KiB", 0, []int{100 << 10}, []int{1}, []int{8, 33, 0, 0}},
		{"adaptive, 1 MiB", 0, []int{1 << 20}, []int{1}, []int{8, 0, 0, 0, 0, 0, 2, 0, 2}},
		{"adaptive, 2 MiB", 0, []int{2 << 20}, []int{1}, []int{8, 0, 0, 0, 0, 0, 2, 0, 2}},
		// 5 and 95 KiB are 50 on the average, which makes it 81; 35 make it 117.
		{"adaptive, the mean", 0, []int{95 << 10, 5 << 10}, []int{1}, []int{8, 36, 0, 76}},
		// At half the window and not before: 512 small ones, 256 of them answered.
		{"refill of 512", 0, []int{10}, []int{1, 255, 1, 255}, []int{8, 505, 0, 256, 0}},
	} {
		windowed(t, tt.name, tt.window, pop3test.Numbers(2000), -1, func(t *testing.T, sent func() string, peer net.Conn) {
			var got []int
			for i := range tt.want {
				got = append(got, strings.Count(sent(), "\r\n"))
				io.WriteString(peer, answers(tt.replies[min(i, len(tt.replies)-1)], tt.sizes[min(i, len(tt.sizes)-1)]))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("sent %d commands, want %d", got, tt.want)
			}
		})
	}
	// However large the window, and whatever the commands that the longest of all comes
	// among.
	for _, window := range []int{0, 1 << 30} {
		for _, lines := range []int{1, math.MaxInt} {
			numbers := slices.Repeat([]int{lines}, 10_000)
			numbers[len(numbers)-1] = 1
			name := fmt.Sprintf("16 KiB, Window %d, %d lines", window, lines)
			windowed(t, name, window, numbers, lines, func(t *testing.T, sent func() string, peer net.Conn) {
				var unanswered string
				for range 6 {
					unanswered += sent()
					all := strings.SplitAfter(unanswered, "\r\n")
					length := len(all[0])
					if n := len(unanswered); n > 16<<10 || n <= 16<<10-length && window > 0 {
						t.Errorf("%d octets are unanswered", n)
					}
					half := len(all) / 2
					io.WriteString(peer, answers(half, 0))
					unanswered = unanswered[half*length:]
				}
			})
		}
	}
}
