package conns

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// counted counts the calls of the connections that it accepts.
type counted struct {
	net.Listener
	reads, writes atomic.Int64
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countedConn{c, l}, nil
}

type countedConn struct {
	net.Conn
	l *counted
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.l.reads.Add(1)
	}
	return n, err
}

func (c *countedConn) Write(p []byte) (int, error) {
	c.l.writes.Add(1)
	return c.Conn.Write(p)
}

// echo answers with the body of the request, held.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	Hold(r)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = w.Write(body[:len(body)/2])
	_, _ = w.Write(body[len(body)/2:])
}

func serve(t *testing.T, handler http.HandlerFunc) (*counted, string) {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: inner}
	s := &http.Server{Handler: handler}
	wrapped := Wrap(s, l)
	var served sync.WaitGroup
	served.Go(func() { _ = s.Serve(wrapped) })
	t.Cleanup(func() {
		_ = s.Close()
		served.Wait()
	})
	return l, inner.Addr().String()
}

func dial(t *testing.T, address string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c, bufio.NewReader(c)
}

func post(body string, header ...string) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n%s", len(body), strings.Join(header, ""), body)
}

func read(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || string(got) != want {
		t.Fatalf("%d bytes, %v, want %d", len(got), err, len(want))
	}
}

func TestOneReadAndOneWriteEach(t *testing.T) {
	l, address := serve(t, echo)
	c, r := dial(t, address)
	body := strings.Repeat("x", 5000)
	for i := range int64(20) {
		if _, err := io.WriteString(c, post(body)); err != nil {
			t.Fatal(err)
		}
		read(t, r, body)
		if got := l.writes.Load(); got != i+1 {
			t.Fatalf("%d answers took %d writes", i+1, got)
		}
	}
	// The kernel may part a segment, but not each of them.
	if got := l.reads.Load(); got > 30 {
		t.Errorf("20 requests took %d reads", got)
	}
}

func TestAnswersOfAnySize(t *testing.T) {
	_, address := serve(t, echo)
	c, r := dial(t, address)
	for _, n := range []int{0, 1, 2047, 4096, holdSize - 200, holdSize - 1, holdSize, holdSize + 1, 3 * holdSize, 3 << 20} {
		body := make([]byte, n)
		for i := range body {
			body[i] = byte(i * 7)
		}
		var sent sync.WaitGroup
		sent.Go(func() { _, _ = io.WriteString(c, post(string(body))) })
		read(t, r, string(body))
		sent.Wait()
	}
}

// TestAnswersDoNotWaitForLaterRequests sends two at once; the second ends only after the first was answered.
func TestAnswersDoNotWaitForLaterRequests(t *testing.T) {
	release := make(chan struct{})
	_, address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Second") != "" {
			<-release
		}
		echo(w, r)
	})
	c, r := dial(t, address)
	if _, err := io.WriteString(c, post("one")+post("two", "Second: 1\r\n")); err != nil {
		t.Fatal(err)
	}
	read(t, r, "one")
	close(release)
	read(t, r, "two")
}

func TestTheLastAnswerOfAConnection(t *testing.T) {
	_, address := serve(t, echo)
	for _, request := range []string{post("bye", "Connection: close\r\n"), "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nbye", post("bye")[:40] + "\r\n\r\n"} {
		c, r := dial(t, address)
		if _, err := io.WriteString(c, request); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Fatalf("%q: %v", request, err)
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("%q: %v", request, err)
		}
	}
}

// TestWhoLeavesIsNoticed: that the client is gone ends the request's context, as without the wrapper.
func TestWhoLeavesIsNoticed(t *testing.T) {
	entered, left := make(chan struct{}), make(chan struct{})
	_, address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		close(entered)
		<-r.Context().Done()
		close(left)
	})
	c, _ := dial(t, address)
	if _, err := io.WriteString(c, post("x")); err != nil {
		t.Fatal(err)
	}
	<-entered
	_ = c.Close()
	<-left
}

// TestClosingEndsAWriteThatWaits closes a server whose client does not read.
func TestClosingEndsAWriteThatWaits(t *testing.T) {
	writing, ended := make(chan struct{}), make(chan struct{})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		Hold(r)
		close(writing)
		part := make([]byte, 1<<20)
		for {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	})}
	go func() { _ = s.Serve(Wrap(s, inner)) }()
	c, _ := dial(t, inner.Addr().String())
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-writing
	_ = s.Close()
	<-ended
}

// TestTLS: wrapped listeners lie below TLS, and Hold does nothing where HTTP/2 multiplexes.
func TestTLS(t *testing.T) {
	for _, two := range []bool{false, true} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(echo))
		s.Listener = Wrap(s.Config, s.Listener)
		s.EnableHTTP2 = two
		s.StartTLS()
		defer s.Close()
		body := bytes.Repeat([]byte("abc"), 10_000)
		var asked sync.WaitGroup
		for range 4 {
			asked.Go(func() {
				for range 20 {
					resp, err := s.Client().Post(s.URL, "", bytes.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(resp.Body)
					_ = resp.Body.Close()
					if err != nil || !bytes.Equal(got, body) || resp.ProtoMajor == 2 != two {
						t.Errorf("%d bytes by %s, %v", len(got), resp.Proto, err)
					}
				}
			})
		}
		asked.Wait()
	}
}
