package express

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// start serves a handler until the test ends, by net/http alone or with a Listener before it.
func start(t *testing.T, quick bool, limit int, h http.Handler) (net.Addr, *Listener) {
	t.Helper()
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var over net.Listener = raw
	var l *Listener
	if quick {
		l = New(raw, Options{Handler: h, HeaderTimeout: 10 * time.Second, IdleTimeout: 10 * time.Second, Limit: limit, Logger: slog.New(slog.DiscardHandler)})
		over = l
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(over) }()
	t.Cleanup(func() {
		_ = s.Close() // its connections end, whatever they do
		if l != nil {
			l.Abort()
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return raw.Addr(), l
}

func dial(t *testing.T, a net.Addr) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", a.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// mirror answers with all that a handler sees of a request, in one of the ways in which handlers write.
func mirror(w http.ResponseWriter, r *http.Request) {
	var body []byte
	var failed error
	if !strings.Contains(r.URL.Path, "unread") {
		body, failed = io.ReadAll(r.Body)
	}
	switch {
	case strings.Contains(r.URL.Path, "nothing"):
		w.WriteHeader(http.StatusNoContent)
		return
	case strings.Contains(r.URL.Path, "short"):
		w.Header().Set("Content-Length", "10")
		_, _ = w.Write([]byte("123"))
		return
	case strings.Contains(r.URL.Path, "long"):
		w.Header().Set("Content-Length", "3")
		_, _ = w.Write([]byte("123"))
		_, err := w.Write([]byte("4"))
		if !errors.Is(err, http.ErrContentLength) {
			panic(http.ErrAbortHandler)
		}
		return
	case strings.Contains(r.URL.Path, "large"):
		w.Header().Set("Content-Length", strconv.Itoa(3<<20))
		for range 3 {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 1<<20))
		}
		return
	case strings.Contains(r.URL.Path, "bye"):
		w.Header().Set("Connection", "close")
	case strings.Contains(r.URL.Path, "panic"):
		panic(http.ErrAbortHandler)
	}
	headers := map[string][]string{}
	maps.Copy(headers, r.Header)
	text, _ := json.Marshal(map[string]any{
		"method": r.Method, "path": r.URL.Path, "uri": r.RequestURI, "host": r.Host, "headers": headers, "body": string(body),
		"length": r.ContentLength, "failed": failed != nil, "proto": r.Proto, "remote": r.RemoteAddr != "",
	})
	w.Header()["X-Many"] = []string{"a", "b\r\nInjected: c"}
	w.WriteHeader(http.StatusTeapot)
	_, _ = w.Write(text)
}

// conversation sends all, ends sending, and returns the answers in short; their order and number are what counts.
func conversation(t *testing.T, a net.Addr, all ...string) []string {
	t.Helper()
	c := dial(t, a)
	go func() {
		for _, part := range all {
			if _, err := io.WriteString(c, part); err != nil {
				break // it has been answered and closed
			}
			time.Sleep(5 * time.Millisecond)
		}
		_ = c.CloseWrite()
	}()
	var out []string
	for r := bufio.NewReader(c); ; {
		resp, err := http.ReadResponse(r, &http.Request{Method: "GET"})
		if err != nil {
			return out
		}
		body, err := io.ReadAll(resp.Body)
		resp.Header.Del("Date")
		resp.Header.Del("Content-Length") // net/http has chunks for some answers
		// Who has sent half a body knows how it ends; net/http says so for some lengths and for others not.
		ends := resp.Close && !bytes.Contains(body, []byte(`"failed":true`))
		text := fmt.Sprint(resp.Status, ends, err != nil, len(body))
		for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
			text += fmt.Sprintf(" %s=%q", name, resp.Header[name])
		}
		out = append(out, text+" "+string(body[:min(len(body), 2000)]))
	}
}

// TestClientsSeeNoDifference: conversations of all kinds, with the answers that net/http alone gives.
func TestClientsSeeNoDifference(t *testing.T) {
	theirs, _ := start(t, false, 0, http.HandlerFunc(mirror))
	ours, _ := start(t, true, 64, http.HandlerFunc(mirror))
	post := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
	}
	get := "GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
	var cases [][]string
	for _, text := range slices.Concat(plain, strange) {
		// All at once: to send more to who has refused would take the refusal away.
		cases = append(cases, []string{text}, []string{text + get}, []string{get + text + get})
		if len(text) >= 4 { // net/http answers less than that when it is a first request, and else not
			cases = append(cases, []string{get, text})
		}
	}
	cases = append(cases,
		[]string{post("/v2/a", "abc"), post("/v2/b", strings.Repeat("z", 100_000)), get},
		[]string{post("/v2/a", "abc") + post("/v2/b", "def") + get + get},                                         // pipelined
		[]string{post("/v2/a", strings.Repeat("y", 9000)) + post("/v2/b", strings.Repeat("z", 9000)) + get + get}, // beyond a buffer
		[]string{"POST /v2/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\n", "abc", "def" + get, get},
		[]string{"POST /v2/a HT", "TP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nabc", "def", get},
		[]string{"POST /v2/cut HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\n\r\nabc"},
		[]string{post("/v2/unread", "abc"), get},
		[]string{"POST /v2/unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n", strings.Repeat("x", 100_000), get},
		[]string{"POST /v2/unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 400000\r\n\r\n", strings.Repeat("x", 400_000), get},
		[]string{"POST /v2/unread HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab"},
		[]string{post("/v2/nothing", "abc") + get},
		[]string{post("/v2/short", "abc") + get},
		[]string{post("/v2/long", "abc") + get},
		[]string{post("/v2/large", "abc") + get},
		[]string{post("/v2/bye", "abc") + get},
		[]string{post("/v2/panic", "abc") + get},
		[]string{"POST /v2/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + get},
		[]string{get + "POST /v2/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + get},
		[]string{"POST /v2/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n", "abc" + get},
		[]string{get, "GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 20_000) + "\r\n\r\n" + get},
		[]string{get, "GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 80_000) + "\r\n\r\n" + get},
		[]string{"\r\n" + get, get},
	)
	for _, c := range cases {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			want, got := conversation(t, theirs, c...), conversation(t, ours, c...)
			if !slices.Equal(got, want) {
				t.Errorf("%.300q:\n got %q\nwant %q", c, got, want)
			}
		})
	}
}

func TestWhatIsAnsweredHere(t *testing.T) {
	addr, l := start(t, true, 4, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, ours := w.(*response)
		fmt.Fprint(w, ours)
	}))
	ask := func(c net.Conn, r *bufio.Reader, text string) string {
		t.Helper()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	c := dial(t, addr)
	r := bufio.NewReader(c)
	for i, want := range []string{"true", "true", "false", "false"} {
		path := "/v2/a"
		if i == 2 {
			path = "/page"
		}
		if got := ask(c, r, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); got != want {
			t.Errorf("request %d: answered here: %s, want %s", i, got, want)
		}
	}
	// Connections beyond the limit wait, until one of either kind ends.
	var all []*net.TCPConn
	for range 4 {
		all = append(all, dial(t, addr))
	}
	last := all[3]
	if _, err := io.WriteString(last, plain[3]); err != nil {
		t.Fatal(err)
	}
	_ = last.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := last.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatal("a connection beyond the limit was answered")
	}
	_ = c.Close() // which net/http has
	_ = last.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := last.Read(make([]byte, 1)); n != 1 {
		t.Fatalf("there is room, and still: %v", err)
	}
	if len(l.places) > 4 {
		t.Errorf("%d places are taken", len(l.places))
	}
}

func TestWhoLeavesEndsTheRequest(t *testing.T) {
	for name, wait := range map[string]func(context.Context) bool{
		"Done": func(ctx context.Context) bool {
			<-ctx.Done()
			return ctx.Err() != nil
		},
		"Err": func(ctx context.Context) bool {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			return true
		},
		"AfterFunc": func(ctx context.Context) bool {
			called := make(chan struct{})
			stop := context.AfterFunc(ctx, func() { t.Error("this one was stopped") })
			if !stop() || stop() {
				t.Error("stopped twice, or not at all")
			}
			context.AfterFunc(ctx, func() { close(called) })
			<-called
			return true
		},
		"child": func(ctx context.Context) bool {
			child, cancel := context.WithTimeout(ctx, time.Hour)
			defer cancel()
			<-child.Done()
			return errors.Is(child.Err(), context.Canceled)
		},
	} {
		t.Run(name, func(t *testing.T) {
			begun, ended := make(chan struct{}), make(chan bool, 1)
			addr, _ := start(t, true, 4, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				close(begun)
				ended <- wait(r.Context())
			}))
			c := dial(t, addr)
			if _, err := io.WriteString(c, plain[0]); err != nil {
				t.Fatal(err)
			}
			<-begun
			select {
			case <-ended:
				t.Fatal("the request ended before its client left")
			case <-time.After(60 * time.Millisecond):
			}
			_ = c.Close()
			select {
			case ok := <-ended:
				if !ok {
					t.Error("it ended otherwise")
				}
			case <-time.After(10 * time.Second):
				t.Fatal("nobody noticed that the client left")
			}
		})
	}
}

func TestAContextEndsWithItsRequest(t *testing.T) {
	contexts := make(chan context.Context, 1)
	addr, _ := start(t, true, 4, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { contexts <- r.Context() }))
	conversation(t, addr, plain[0])
	ctx := <-contexts
	called := make(chan struct{})
	context.AfterFunc(ctx, func() { close(called) })
	<-called
	select {
	case <-ctx.Done():
	default:
		t.Error("the request is over, its context is not")
	}
}

func TestShutdownWaitsForAnswers(t *testing.T) {
	begun, goOn := make(chan struct{}), make(chan struct{})
	addr, l := start(t, true, 8, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			close(begun)
			<-goOn
		}
		_, _ = io.WriteString(w, "done")
	}))
	idle, busy := dial(t, addr), dial(t, addr)
	if _, err := io.WriteString(idle, plain[3]); err != nil {
		t.Fatal(err)
	}
	if _, err := http.ReadResponse(bufio.NewReader(idle), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(busy, plain[0]); err != nil {
		t.Fatal(err)
	}
	<-begun
	over := make(chan error, 1)
	go func() { over <- l.Shutdown(t.Context()) }()
	if _, err := io.Copy(io.Discard, idle); err != nil {
		t.Errorf("a connection without a request: %v", err)
	}
	select {
	case err := <-over:
		t.Fatalf("Shutdown did not wait: %v", err)
	case <-time.After(30 * time.Millisecond):
	}
	close(goOn)
	answer, err := io.ReadAll(busy)
	if err != nil || !bytes.HasSuffix(answer, []byte("done")) || !bytes.Contains(answer, []byte("Connection: close")) {
		t.Errorf("the request in flight got %q, %v", answer, err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}

func TestShutdownCutsOffWhoIsLate(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	addr, l := start(t, true, 8, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		close(ended)
	}))
	if _, err := io.WriteString(dial(t, addr), plain[0]); err != nil {
		t.Fatal(err)
	}
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := l.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	<-ended
}

// TestSlowClientsAreBounded: who says nothing is closed, and so is a body that does not come in the handler's time.
func TestSlowClientsAreBounded(t *testing.T) {
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(raw, Options{
		HeaderTimeout: 30 * time.Millisecond, IdleTimeout: 30 * time.Millisecond, Limit: 4, Logger: slog.New(slog.DiscardHandler),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			}
			_, err := io.ReadAll(r.Body)
			fmt.Fprint(w, err)
		}),
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close() // nothing here is for net/http
		}
	}()
	t.Cleanup(l.Abort)
	for text, want := range map[string]string{
		"":       "",
		plain[3]: "<nil>",
		"POST /v2/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab": "i/o timeout",
	} {
		c := dial(t, raw.Addr())
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if err != nil || !strings.HasSuffix(string(answer), want) || text == "" && len(answer) > 0 {
			t.Errorf("%.20q: %q, %v", text, answer, err)
		}
	}
}
