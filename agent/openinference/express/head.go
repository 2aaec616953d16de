package express

import (
	"bytes"
	"net/http"
	"strings"
)

// The bounds of a plain head. What is beyond is for net/http to judge.
const (
	maxHeaders = 48
	// maxLength bounds a body by its digits, so that its length is a number without a doubt.
	maxLengthDigits = 15
)

// head is what stands before a body.
type head struct {
	post   bool
	path   string
	host   string
	length int64 // of the body; 0 for a GET
}

// parse reads a plain head from the beginning of data into h and header, which is empty, and returns how many bytes it
// has. 0 means that it is not plain, or not there in full. values are cut from slots.
//
// Plain is: GET or POST of a path that begins with /v1 or /v2 and has letters, digits and -._~/ only, HTTP/1.1; lines
// end with CR LF; a header's name is of letters, digits and hyphens, and its value of visible ASCII and blanks; there is
// one Host; a POST has one Content-Length of digits, a GET has none; nothing says how the message is framed or passed on
// otherwise. All of that net/http takes as well, in the same sense.
func (h *head) parse(data []byte, header http.Header, slots *[maxHeaders]string) int {
	end := bytes.Index(data, []byte("\r\n\r\n"))
	if end < 0 {
		return 0
	}
	// The one copy of the head; everything that a handler may keep is cut from it.
	text := string(data[:end+2])
	line, rest, _ := strings.Cut(text, "\r\n")
	path, ok := strings.CutPrefix(line, "POST ")
	h.post = ok
	if !ok {
		if path, ok = strings.CutPrefix(line, "GET "); !ok {
			return 0
		}
	}
	if path, ok = strings.CutSuffix(path, " HTTP/1.1"); !ok || !plainPath(path) {
		return 0
	}
	h.path, h.host, h.length = path, "", -1
	for n := 0; rest != ""; n++ {
		if n == maxHeaders {
			return 0
		}
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		if !ok || !plainName(name) || !plainValue(value) {
			return 0
		}
		value = strings.Trim(value, " \t")
		name = canonical(name)
		if !h.take(name, value) {
			return 0
		}
		if name == "Host" { // as net/http does
			continue
		}
		if before, ok := header[name]; ok {
			header[name] = append(before[:len(before):len(before)], value)
			continue
		}
		slots[n] = value
		header[name] = slots[n : n+1 : n+1]
	}
	if h.host == "" || h.post != (h.length >= 0) {
		return 0
	}
	h.length = max(h.length, 0)
	return end + 4
}

// take looks at what a header says about the message, and says whether that is plain.
func (h *head) take(name, value string) bool {
	switch name {
	case "Host":
		if h.host != "" || !plainHost(value) {
			return false
		}
		h.host = value
	case "Content-Length":
		if h.length >= 0 || value == "" || len(value) > maxLengthDigits {
			return false
		}
		h.length = 0
		for i := range len(value) {
			if value[i] < '0' || value[i] > '9' {
				return false
			}
			h.length = 10*h.length + int64(value[i]-'0')
		}
	case "Connection":
		return strings.EqualFold(value, "keep-alive")
	case "Transfer-Encoding", "Expect", "Upgrade", "Trailer", "Te", "Pragma", "Http2-Settings", "Proxy-Connection", "Keep-Alive":
		return false
	}
	return true
}

// kinds of bytes.
const (
	inPath = 1 << iota
	inName
	inHost
)

var kinds = func() (k [256]uint8) {
	for c := range 256 {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			k[c] = inPath | inName | inHost
		case c == '.':
			k[c] = inPath | inHost
		case c == '_', c == '~', c == '/':
			k[c] = inPath
		case c == ':', c == '[', c == ']':
			k[c] = inHost
		}
	}
	return k
}()

func all(s string, kind uint8) bool {
	for i := range len(s) {
		if kinds[s[i]]&kind == 0 {
			return false
		}
	}
	return s != ""
}

func plainPath(s string) bool {
	return (strings.HasPrefix(s, "/v2") || strings.HasPrefix(s, "/v1")) && all(s, inPath)
}

func plainName(s string) bool { return all(s, inName) }
func plainHost(s string) bool { return all(s, inHost) }

func plainValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c > '~' {
			return false
		}
	}
	return true
}

// names are the headers that clients send, in the spellings that they use, with the one that net/http makes of them.
var names = func() map[string]string {
	m := map[string]string{}
	for _, name := range []string{
		"Host", "User-Agent", "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Connection", "Content-Encoding",
		"Content-Length", "Content-Type", "Inference-Header-Content-Length", "Traceparent", "Tracestate", "X-Api-Key",
		"X-Request-Id", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-Dest", "Origin", "Triton-Request-Id",
	} {
		m[name], m[strings.ToLower(name)] = name, name
	}
	return m
}()

func canonical(name string) string {
	if known, ok := names[name]; ok {
		return known
	}
	return http.CanonicalHeaderKey(name)
}
