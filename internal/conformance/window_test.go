package conformance

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
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
