package openinference

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/serving"
)

// tight makes connections that the kernel buffers little of.
type tight struct{ net.Listener }

func (l tight) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if t, ok := c.(*net.TCPConn); ok && err == nil {
		err = t.SetWriteBuffer(4 << 10)
	}
	return c, err
}

func TestAClientThatDoesNotReadHoldsNoMemoryForLong(t *testing.T) {
	table := serving.NewTable(serving.Options{Concurrency: 4})
	table.Set("m", []serving.Variant{{Version: "1", Role: 1, ShareMillionths: 1_000_000, Runner: &echo{}}})
	budget := NewBudget(16 << 20)
	s := httptest.NewUnstartedServer(New(table, Options{Budget: budget, BodyTimeout: 200 * time.Millisecond}))
	s.Listener = tight{s.Listener}
	s.Start()
	defer s.Close()
	request := func(c net.Conn, rows int) {
		t.Helper()
		header := fmt.Sprintf(`{"inputs":[{"name":"x","datatype":"FP32","shape":[%d,2],"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, rows, 8*rows)
		_, err := fmt.Fprintf(c, "POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost\r\n%s: %d\r\nContent-Length: %d\r\n\r\n%s%s", headerLength, len(header), len(header)+8*rows, header, make([]byte, 8*rows))
		if err != nil {
			t.Fatal(err)
		}
	}
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		return c
	}
	for range 4 {
		c := dial()
		defer c.Close()
		request(c, 128<<10)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if budget.used.Load() > 0 { // they have come
			break
		} else if time.Now().After(deadline) {
			t.Fatal("no request has come")
		}
	}
	for deadline := time.Now().Add(30 * time.Second); budget.used.Load() > 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes are still held by clients that do not read", budget.used.Load())
		}
	}
	// A connection that has carried such an answer in time carries others afterwards.
	c := dial()
	defer c.Close()
	for range 2 {
		const rows = 4 << 10
		request(c, rows)
		head := make([]byte, 15)
		if _, err := io.ReadFull(c, head); err != nil || string(head) != "HTTP/1.1 200 OK" {
			t.Fatalf("%s (%v)", head, err)
		}
		if err := skipAnswer(c, 8*rows); err != nil {
			t.Fatal(err)
		}
		time.Sleep(400 * time.Millisecond) // longer than the answer had
	}
}

// skipAnswer reads the rest of an answer whose tensor has so many zero bytes.
func skipAnswer(c net.Conn, tensor int) error {
	buf, seen := make([]byte, 1), 0
	for range [4096]int{} { // the head and the JSON hold no zero byte
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if buf[0] == 0 {
			seen = 1
			break
		}
	}
	_, err := io.CopyN(io.Discard, c, int64(tensor-seen))
	return err
}

func TestWithoutAHostNoPageIsAtWork(t *testing.T) {
	h := Protect(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }), nil)
	r := httptest.NewRequest(http.MethodGet, "/v2/health/ready", nil)
	r.Host, r.Proto, r.ProtoMinor = "", "HTTP/1.0", 0
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != http.StatusNoContent {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestARefusedHostIsToldWhichNamesThereAre(t *testing.T) {
	for want, serves := range map[string]func(string) bool{
		"use localhost or 127.0.0.1": nil,
		"that the certificate has":   func(host string) bool { return host == "branch.example" },
	} {
		h := Protect(http.NotFoundHandler(), serves)
		r := httptest.NewRequest(http.MethodGet, "https://192.0.2.2:8000/v2", nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%d %s, want %q", w.Code, w.Body, want)
		}
	}
}
