package transporttest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"
)

// echo answers on both protocols with what it gets.
func echo(t *testing.T) string {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenPacket("udp", tcp.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close(); udp.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = udp.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return tcp.Addr().String()
}

func proxy(t *testing.T, w Weather) *Proxy {
	t.Helper()
	p, err := NewProxy(echo(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	p.Set(w)
	return p
}

func dial(t *testing.T, network string, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial(network, p.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends n numbered packets and returns the numbers that come back: want of them, or, when it is not known how
// many there will be (want is negative), those that come before a silence.
func exchange(t *testing.T, p *Proxy, c net.Conn, n, want int) []int {
	t.Helper()
	before := p.Stats().UDPPackets
	for i := range n {
		if _, err := fmt.Fprintf(c, "%d", i); err != nil {
			t.Fatal(err)
		}
	}
	var got []int
	buf := make([]byte, 2048)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && (want < 0 || len(got) < want); {
		_ = c.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
		k, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if want < 0 && p.Stats().UDPPackets >= before+n {
				break
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var i int
		if _, err := fmt.Sscan(string(buf[:k]), &i); err != nil {
			t.Fatalf("%q came back", buf[:k])
		}
		got = append(got, i)
	}
	return got
}

func TestFairWeatherChangesNothing(t *testing.T) {
	p := proxy(t, Weather{})
	got := exchange(t, p, dial(t, "udp", p), 100, 100)
	if len(got) != 100 {
		t.Errorf("%d of 100 packets came back", len(got))
	}
	c := dial(t, "tcp", p)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	go func() {
		_, _ = c.Write(data)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("TCP: %d bytes came back, %v", len(back), err)
	}
	if s := p.Stats(); s.UDPPackets != 200 || s.UDPDropped != 0 || s.TCPConnections != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestLossIsSeeded(t *testing.T) {
	run := func(seed uint64) []int {
		p := proxy(t, Weather{UDP: Link{Up: Path{Loss: 0.3}}, Seed: seed})
		return exchange(t, p, dial(t, "udp", p), 200, -1)
	}
	first := run(7)
	if len(first) < 100 || len(first) > 175 {
		t.Errorf("%d of 200 came back at 30 %% loss", len(first))
	}
	if again := run(7); fmt.Sprint(again) != fmt.Sprint(first) {
		t.Error("the same seed lost other packets")
	}
	if other := run(8); fmt.Sprint(other) == fmt.Sprint(first) {
		t.Error("another seed lost the same packets")
	}
}

func TestReorderAndDuplicate(t *testing.T) {
	p := proxy(t, Weather{UDP: Link{Up: Path{Reorder: 0.2, ReorderBy: 50 * time.Millisecond, Duplicate: 0.2}}, Seed: 1})
	got := exchange(t, p, dial(t, "udp", p), 200, -1)
	if len(got) < 210 {
		t.Errorf("%d packets came back of 200 with 20 %% duplicates", len(got))
	}
	overtaken, highest := 0, 0
	for _, n := range got {
		highest = max(highest, n)
		if n < highest {
			overtaken++
		}
	}
	if overtaken < 20 || overtaken > 120 {
		t.Errorf("%d packets of %d were overtaken at 20 %%", overtaken, len(got))
	}
}

func TestJitterKeepsTheOrder(t *testing.T) {
	p := proxy(t, Weather{UDP: Both(Path{Delay: time.Millisecond, Jitter: 20 * time.Millisecond})})
	got := exchange(t, p, dial(t, "udp", p), 100, 100)
	for i := range got {
		if got[i] != i {
			t.Fatalf("packet %d came in place %d", got[i], i)
		}
	}
	if len(got) != 100 {
		t.Errorf("%d of 100 came back", len(got))
	}
}

func TestOneWayBlackholeAndSize(t *testing.T) {
	p := proxy(t, Weather{UDP: Link{Down: Path{Blackhole: true}}})
	c := dial(t, "udp", p)
	if got := exchange(t, p, c, 10, -1); len(got) != 0 {
		t.Errorf("%v came through a black hole", got)
	}
	for deadline := time.Now().Add(10 * time.Second); p.Stats() != (Stats{UDPPackets: 20, UDPDropped: 10}); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the way up should be open: %+v", p.Stats())
		}
	}
	p.Set(Weather{UDP: Both(Path{MaxPacket: 1})})
	if got := exchange(t, p, c, 20, 10); len(got) != 10 {
		t.Errorf("%v came through, want the ten that are one byte long", got)
	}
}

func TestRebindShowsTheServerAnotherPort(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p, err := NewProxy(server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c := dial(t, "udp", p)
	seen := map[string]bool{}
	for range 3 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, from, err := server.ReadFrom(make([]byte, 10))
		if err != nil {
			t.Fatal(err)
		}
		seen[from.String()] = true
		p.Rebind()
	}
	if len(seen) != 3 {
		t.Errorf("the server saw %v", seen)
	}
}

func TestTCPWaitsOutABlackhole(t *testing.T) {
	p := proxy(t, Weather{})
	c := dial(t, "tcp", p)
	buf := make([]byte, 5)
	say := func() {
		t.Helper()
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(patience time.Duration) error {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		_, err := io.ReadFull(c, buf)
		return err
	}
	say()
	if err := hear(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	p.Set(All(Path{Blackhole: true}))
	say()
	if err := hear(100 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("heard through a black hole: %v", err)
	}
	p.Set(Weather{})
	if err := hear(5 * time.Second); err != nil {
		t.Fatalf("what the black hole held did not arrive: %v", err)
	}
	p.Cut()
	if err := hear(5 * time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the connection outlived a cut: %v", err)
	}
	p.Set(Weather{TCP: Link{Refuse: true}})
	again, err := net.Dial("tcp", p.Address())
	if err != nil {
		return // the reset was faster than the dial
	}
	defer again.Close()
	_ = again.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := again.Read(buf); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a refused connection stayed open: %v", err)
	}
}

func TestThrottleBoundsTheRate(t *testing.T) {
	p := proxy(t, Weather{TCP: Link{Up: Path{BytesPerSecond: 1 << 20}}})
	c := dial(t, "tcp", p)
	start := time.Now()
	go func() {
		_, _ = c.Write(make([]byte, 300<<10))
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(io.Discard, c)
	if err != nil || n != 300<<10 {
		t.Fatalf("%d bytes came back, %v", n, err)
	}
	// Only the lower bound is certain: a machine under load may take longer.
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("300 KiB took %v at 1 MiB/s", took)
	}
}
