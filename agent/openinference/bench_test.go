package openinference

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/serving"
)

type sink struct{ header http.Header }

func (s *sink) Header() http.Header         { return s.header }
func (s *sink) WriteHeader(int)             {}
func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkInferBinary is the handler without HTTP: 4 KiB in and out.
func BenchmarkInferBinary(b *testing.B) {
	table := serving.NewTable(serving.Options{})
	table.Set("m", []serving.Variant{{Version: "1", Role: 1, Runner: &echo{}}})
	handler := New(table, Options{})
	head := `{"id":"7e57d004-2b97-0e7a-b45f-5387367791cd","inputs":[{"name":"x","shape":[1,1024],"datatype":"FP32","parameters":{"binary_data_size":4096}}],"parameters":{"binary_data_output":true}}`
	body := bytes.NewReader(append([]byte(head), make([]byte, 4096)...))
	req := httptest.NewRequest(http.MethodPost, "http://localhost/v2/models/m/infer", nil)
	req.Header.Set(headerLength, fmt.Sprint(len(head)))
	req.ContentLength = int64(body.Len())
	w := &sink{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		body.Seek(0, io.SeekStart)
		req.Body = io.NopCloser(body)
		clear(w.header)
		handler.ServeHTTP(w, req)
	}
	if w.header.Get(headerLength) == "" {
		b.Fatal(w.header)
	}
}

// again is a body that is read again and again.
type again struct {
	text string
	at   int
}

func (a *again) Read(p []byte) (int, error) {
	n := copy(p, a.text[a.at:])
	if a.at += n; a.at == len(a.text) {
		return n, io.EOF
	}
	return n, nil
}

func (*again) Close() error { return nil }

func reader(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }
