package express

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// plain are heads that are taken, strange ones that are left to net/http.
var plain = []string{
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: localhost:8000\r\nContent-Length: 3\r\n\r\nabc",
	"POST /v2/models/m/versions/1/infer HTTP/1.1\r\nhost: [::1]:8000\r\ncontent-length: 0\r\nconnection: keep-alive\r\n\r\n",
	"POST /v2/repository/index HTTP/1.1\r\nHost: a\r\nContent-Length: 007\r\nContent-Encoding: gzip\r\n\r\n",
	"GET /v2/health/ready HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Strange-name:\tv \r\naCCEPT: a\r\nAccept: b\r\nAccept: c\r\n\r\n",
	"GET /v1/models//x/../y HTTP/1.1\r\nHost: a\r\nEmpty:\r\n\r\nGET /v2",
	"POST /v2x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer \"~!'\r\nInference-Header-Content-Length: 1\r\nContent-Length: 999999999999999\r\n\r\n",
}

var strange = []string{
	"", "\r\n\r\n", "GET", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n",
	"POST /v2/models/m/infer HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\nHost: a\nContent-Length: 3\n\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: -0\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n Content-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nX: b\rc\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nX: b\x00\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a/b\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Content-Length\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/a%2Fb/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"POST /v2/models/m/infer?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"POST http://other/v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"POST  /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"post /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"PUT /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
	"HEAD /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
	"GET /v2/health/live HTTP/1.1\r\nHost: a\r\nPragma: no-cache\r\n\r\n",
	"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /v2 HTTP/1.1\r\nHost: a\r\n" + strings.Repeat("X: y\r\n", maxHeaders) + "\r\n",
}

func TestWhatIsPlain(t *testing.T) {
	for _, text := range plain {
		if n := new(head).parse([]byte(text), http.Header{}, new([maxHeaders]string)); n != strings.Index(text, "\r\n\r\n")+4 {
			t.Errorf("%q: %d", text, n)
		}
		asNetHTTP(t, []byte(text))
	}
	for _, text := range strange {
		if n := new(head).parse([]byte(text), http.Header{}, new([maxHeaders]string)); n != 0 {
			t.Errorf("%q is taken for a plain head of %d bytes", text, n)
		}
	}
}

// FuzzHead: whatever is taken for a plain head is understood by net/http in exactly the same way.
func FuzzHead(f *testing.F) {
	for _, text := range plain {
		f.Add([]byte(text))
	}
	for _, text := range strange {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) { asNetHTTP(t, data) })
}

func asNetHTTP(t *testing.T, data []byte) {
	t.Helper()
	h, header := head{}, http.Header{}
	n := h.parse(data, header, new([maxHeaders]string))
	if n == 0 {
		return
	}
	// As much as there is of it, so that what follows the head can be counted.
	rest := bytes.NewReader(data)
	buffered := bufio.NewReaderSize(rest, len(data)+16)
	r, err := http.ReadRequest(buffered)
	if err != nil {
		t.Fatalf("%q: net/http refuses it: %v", data, err)
	}
	method := http.MethodGet
	if h.post {
		method = http.MethodPost
	}
	if r.Method != method || r.URL.Path != h.path || r.URL.RawPath != "" || r.URL.RawQuery != "" || r.URL.Host != "" ||
		r.RequestURI != h.path || r.Host != h.host || r.Proto != "HTTP/1.1" || r.Close || r.TransferEncoding != nil ||
		r.ContentLength != h.length || r.Trailer != nil {
		t.Fatalf("%q: taken as %+v, net/http has %+v", data, h, r)
	}
	if !reflect.DeepEqual(r.Header, header) {
		t.Fatalf("%q: headers %q, net/http has %q", data, header, r.Header)
	}
	if consumed := len(data) - buffered.Buffered() - rest.Len(); consumed != n {
		t.Fatalf("%q: the head has %d bytes, for net/http %d", data, n, consumed)
	}
	if h.length <= int64(len(data)-n) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !bytes.Equal(body, data[n:n+int(h.length)]) {
			t.Fatalf("%q: net/http reads another body: %q, %v", data, body, err)
		}
	}
}

func BenchmarkHead(b *testing.B) {
	text := []byte("POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: 4300\r\nContent-Type: application/octet-stream\r\n" +
		"Inference-Header-Content-Length: 200\r\nAccept-Encoding: gzip\r\nUser-Agent: x\r\n\r\n")
	header, slots := http.Header{}, new([maxHeaders]string)
	b.ReportAllocs()
	for b.Loop() {
		clear(header)
		if new(head).parse(text, header, slots) == 0 {
			b.Fatal("not plain")
		}
	}
}
