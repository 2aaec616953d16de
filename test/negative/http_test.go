package negative

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"fmt"
	"io"
	"strings"
	"testing"
)

// squeezed compresses a text.
func squeezed(encoding, text string) string {
	var b bytes.Buffer
	z := io.WriteCloser(gzip.NewWriter(&b))
	if encoding == "deflate" {
		z = zlib.NewWriter(&b)
	}
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

func encoded(encoding, body string) request {
	return request{header: []string{"Content-Encoding", encoding}, body: body}
}

func bodies() []restCase {
	zip, flat := squeezed("gzip", good), squeezed("deflate", good)
	blank := good + strings.Repeat(" ", maxBody)
	chunked := func(text string) request {
		return request{header: []string{"Transfer-Encoding", "chunked"}, body: text, ends: true}
	}
	chunk := fmt.Sprintf("%x\r\n%s\r\n", len(good), good)
	return []restCase{
		{"gzip that is none", encoded("gzip", good), 400, "gzip"},
		{"gzip that is empty", encoded("gzip", ""), 400, "gzip"},
		{"gzip that is cut off", encoded("gzip", zip[:len(zip)-9]), 400, "body"},
		{"gzip without its end", encoded("gzip", zip[:len(zip)-4]), 400, "body"},
		{"gzip with a wrong sum", encoded("gzip", zip[:len(zip)-8]+"\x00\x00\x00\x00"+zip[len(zip)-4:]), 400, "body"},
		{"gzip with something behind it", encoded("gzip", zip+"garbage"), 400, "body"},
		{"gzip of two requests", encoded("gzip", zip+zip), 400, "something follows"},
		{"gzip that becomes too large", encoded("gzip", squeezed("gzip", blank)), 413, "larger than"},
		{"gzip that becomes a thousand times as large", encoded("gzip", squeezed("gzip", strings.Repeat(" ", 8<<20))), 413, "larger than"},
		{"gzip within gzip", encoded("gzip", squeezed("gzip", zip)), 400, "broken"},
		{"deflate that is none", encoded("deflate", good), 400, "deflate"},
		{"deflate that is gzip", encoded("deflate", zip), 400, "deflate"},
		{"deflate that is cut off", encoded("deflate", flat[:len(flat)-6]), 400, "body"},
		{"deflate without its frame", encoded("deflate", flat[2:]), 400, "deflate"},
		{"deflate that becomes too large", encoded("deflate", squeezed("deflate", blank)), 413, "larger than"},
		{"brotli", encoded("br", good), 415, `"br"`},
		{"two encodings", encoded("gzip, gzip", squeezed("gzip", zip)), 415, "gzip, gzip"},
		{"an encoding that is a path", encoded("../../etc/passwd", good), 415, ""},
		{"a length of more than is allowed", request{header: []string{"Content-Length", "99999999999"}, body: good}, 413, "larger than"},
		{"a body of more than is allowed", request{body: blank}, 413, "larger than"},
		{"chunks of more than is allowed", chunked(fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(blank), blank)), 413, "larger than"},
		{"a body of less than its length", request{header: []string{"Content-Length", "500"}, body: good, ends: true}, 400, "body"},
		{"chunks without an end", chunked(chunk), 400, "body"},
		{"a chunk that is cut off", chunked(fmt.Sprintf("%x\r\n%s", len(good)+10, good)), 400, "body"},
		{"a chunk of no length", chunked("zz\r\n" + good), 400, "body"},
		{"a chunk of 2^64", chunked("10000000000000000\r\n" + good), 400, "body"},
		{"a negative chunk", chunked("-5\r\n" + good), 400, "body"},
		{"a chunk with kilobytes of extensions", chunked("5;" + strings.Repeat("x", 10000) + "\r\nhello\r\n0\r\n\r\n"), 400, "body"},
		{"a body that does not come", request{header: []string{"Content-Length", "500"}}, 408, "time"},
		{"a body that stops", request{header: []string{"Content-Length", "500"}, body: good}, 408, "time"},
		{"chunks that stop", request{header: []string{"Transfer-Encoding", "chunked"}, body: chunk}, 408, "time"},
		{"gzip that stops", request{header: []string{"Content-Encoding", "gzip", "Content-Length", "500"}, body: zip[:20]}, 408, "time"},
		{"gzip that does not begin", request{header: []string{"Content-Encoding", "gzip", "Content-Length", "500"}, body: zip[:3]}, 408, "time"},
		{"a short text that becomes much", to("text", body(`"name":"t","shape":[12000],"datatype":"BYTES","data":[`+strings.Repeat(`"",`, 12000)+`""]`)), 400, "more elements"},
	}
}

func routes() []restCase {
	get := func(path string) request { return request{method: "GET", path: path} }
	as := func(method, path string) request { return request{method: method, path: path, body: good} }
	return []restCase{
		{"nothing there", get("/"), 404, "/"},
		{"another version of the protocol", get("/v3/models/neg"), 404, "/v3"},
		{"a path in upper case", get("/V2"), 404, "/V2"},
		{"a path too long", get("/v2/models/neg/infer/more"), 404, ""},
		{"a version without a number", get("/v2/models/neg/versions"), 404, ""},
		{"something of a model that there is not", get("/v2/models/neg/weights"), 404, ""},
		{"a kilobyte of path", get("/v2/" + strings.Repeat("x", 8000)), 404, ""},
		{"a script as a path", get("/v2/%3Cscript%3Ealert(1)%3C/script%3E"), 404, ""},
		{"a path to a file", get("/v2/models/..%2f..%2f..%2fetc%2fpasswd"), 404, "no model"},
		{"a path to a file of Windows", get("/v2/models/..%5c..%5cwin.ini"), 404, "no model"},
		{"an absolute path as a name", get("/v2/models/%2Fetc%2Fpasswd/ready"), 404, "no model"},
		{"a zero byte in a name", get("/v2/models/neg%00/ready"), 404, "no model"},
		{"a line break in a name", get("/v2/models/neg%0d%0aX-Evil:%201/ready"), 404, "no model"},
		{"a name that is not UTF-8", get("/v2/models/%ff%fe/ready"), 404, "no model"},
		{"a name encoded twice", get("/v2/models/a%2520model%252Fwith%253Aodd%2520%2522names%2522/ready"), 404, "no model"},
		{"a template as a name", get("/v2/models/%7B%7B7*7%7D%7D"), 404, "{{7*7}}"},
		{"a name of kilobytes", get("/v2/models/" + strings.Repeat("m", 8000)), 404, "no model"},
		{"a version of kilobytes", get("/v2/models/neg/versions/" + strings.Repeat("9", 8000)), 404, "no version"},
		{"GET of an inference", get("/v2/models/neg/infer"), 405, "POST"},
		{"PUT of an inference", as("PUT", "/v2/models/neg/infer"), 405, "POST"},
		{"DELETE of a model", as("DELETE", "/v2/models/neg"), 405, "GET"},
		{"POST to a model", as("POST", "/v2/models/neg"), 405, "GET"},
		{"POST to health", as("POST", "/v2/health/ready"), 405, "GET"},
		{"OPTIONS of the server", as("OPTIONS", "/v2"), 405, "GET"},
		{"TRACE", as("TRACE", "/v2/models/neg/infer"), 405, "POST"},
		{"PATCH of the server", as("PATCH", "/v2"), 405, "GET"},
		{"a method that nobody knows", as("BREW", "/v2/models/neg/infer"), 405, "POST"},
		{"a method in lower case", as("post", "/v2/models/neg/infer"), 405, "POST"},
		{"a method override", request{method: "GET", path: "/v2/models/neg/infer", header: []string{"X-HTTP-Method-Override", "POST"}}, 405, "POST"},
	}
}

func browsers() []restCase {
	with := func(header ...string) request { return request{header: header, body: good} }
	return []restCase{
		{"a page's own name for this machine", request{method: "GET", path: "/v2", header: []string{"Host", "evil.example"}}, 403, "evil.example"},
		{"such a name with our port", request{method: "GET", path: "/v2", header: []string{"Host", "evil.example:8000"}}, 403, "evil.example"},
		{"a name that begins as ours", with("Host", "localhost.evil.example"), 403, "localhost.evil.example"},
		{"a name that ends as ours", with("Host", "evil-localhost"), 403, "evil-localhost"},
		{"an address that begins as ours", with("Host", "127.0.0.1.evil.example"), 403, "127.0.0.1.evil.example"},
		{"all addresses", with("Host", "0.0.0.0"), 403, "0.0.0.0"},
		{"the address of a neighbour", with("Host", "192.168.0.1"), 403, "192.168.0.1"},
		{"an address as a number", with("Host", "2130706433"), 403, "2130706433"},
		{"a host that is no name", with("Host", "localhost!evil.example"), 403, ""},
		{"no host", with("Host", ""), 403, ""},
		{"an inference for a page elsewhere", with("Origin", "https://evil.example"), 403, "web pages"},
		{"an inference for a page from a file", with("Origin", "null"), 403, "web pages"},
		{"an inference for a page of another port", with("Origin", "http://localhost:9999"), 403, "web pages"},
		{"an inference that a browser calls cross-site", with("Sec-Fetch-Site", "cross-site"), 403, "web pages"},
		{"an inference that a browser calls same-site", with("Sec-Fetch-Site", "same-site"), 403, "web pages"},
		{"a form of a page elsewhere", with("Origin", "https://evil.example", "Content-Type", "text/plain"), 403, "web pages"},
		{"a host of kilobytes", with("Host", strings.Repeat("h", 8000)), 403, "host"},
	}
}

// garbled are requests that HTTP itself does not allow. net/http answers them, with a line of text.
func garbled() []restCase {
	raw := func(text string) request { return request{raw: text, ends: true} }
	return []restCase{
		{"no HTTP at all", raw("hello\r\n\r\n"), 400, "400"},
		{"TLS", raw("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n"), 400, "400"},
		{"no version", raw("GET /v2\r\n\r\n"), 400, "400"},
		{"HTTP/3.0 in the first line", raw("GET /v2 HTTP/3.0\r\nHost: localhost\r\n\r\n"), 505, "505"},
		{"no host", raw("GET /v2 HTTP/1.1\r\n\r\n"), 400, "400"},
		{"two hosts", raw("GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"), 400, "400"},
		{"a host with a slash", raw("GET /v2 HTTP/1.1\r\nHost: localhost/evil\r\n\r\n"), 400, "400"},
		{"a header without a colon", raw("GET /v2 HTTP/1.1\r\nHost: localhost\r\nnonsense\r\n\r\n"), 400, "400"},
		{"a header with a space in its name", raw("GET /v2 HTTP/1.1\r\nHost: localhost\r\nA B: c\r\n\r\n"), 400, "400"},
		{"a header over two lines", raw("GET /v2 HTTP/1.1\r\n Host: localhost\r\n\r\n"), 400, "400"},
		{"a zero byte in a header", raw("GET /v2 HTTP/1.1\r\nHost: localhost\r\nA: b\x00c\r\n\r\n"), 400, "400"},
		{"headers of more than is allowed", raw("GET /v2 HTTP/1.1\r\nHost: localhost\r\nA: " + strings.Repeat("a", 200<<10) + "\r\n\r\n"), 431, "431"},
		{"two lengths that differ", raw("POST /v2/models/neg/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), 400, "400"},
		{"a negative length", raw("POST /v2/models/neg/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\nhello"), 400, "400"},
		{"a length that is no number", raw("POST /v2/models/neg/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: five\r\n\r\nhello"), 400, "400"},
		{"chunked twice", raw("POST /v2/models/neg/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 501, "transfer encoding"},
		{"another transfer encoding", raw("POST /v2/models/neg/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\nhello"), 501, "transfer encoding"},
		{"a percent sign without digits", raw("GET /v2/models/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n"), 400, "400"},
	}
}

func TestBodiesThatAreBroken(t *testing.T) { run(t, start(t, nil), bodies()) }

func TestPathsAndMethodsThatAreNotThere(t *testing.T) { run(t, start(t, nil), routes()) }

func TestBrowsersOfOtherPages(t *testing.T) { run(t, start(t, nil), browsers()) }

func TestWhatIsNoHTTP(t *testing.T) {
	s := start(t, nil)
	for _, c := range garbled() {
		t.Run(c.name, func(t *testing.T) {
			s := &server{T: t, addr: s.addr}
			if a := s.send(&c.request); a.status != c.status || !strings.Contains(a.body, c.text) || len(a.body) > 200 {
				t.Errorf("%d %s, want %d", a.status, a.body, c.status)
			}
			s.well()
		})
	}
}

// TestTwoRequestsInOneAreTwo sends a body with another request behind it: each is answered by itself, and what looks
// like a smuggled one is not taken for a part of the first.
func TestTwoRequestsInOneAreTwo(t *testing.T) {
	s := start(t, nil)
	first := request{header: []string{"Content-Length", fmt.Sprint(len(good)), "Transfer-Encoding", "chunked"}, body: good, ends: true}
	if a := s.send(&first); a.status == 200 {
		t.Errorf("a length beside chunks was taken: %s", a.body)
	}
	s.well()
	old := request{raw: "POST /v2/models/neg/infer HTTP/1.0\r\nHost: localhost\r\nContent-Length: " + fmt.Sprint(len(good)) + "\r\n\r\n" + good}
	if a := s.send(&old); a.status != 200 || a.body != goodAnswer {
		t.Errorf("HTTP/1.0: %d %s", a.status, a.body)
	}
	s.well()
}
