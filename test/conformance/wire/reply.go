package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// LengthName is the header that says how long the JSON before binary tensors is.
const LengthName = "Inference-Header-Content-Length"

const (
	// MaxAnswer bounds the bytes of one answer.
	MaxAnswer = 256 << 20
	// MaxShown bounds the bytes of a request or an answer that are printed.
	MaxShown = 700
)

// Reply is an answer over HTTP.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// OK wants a status in the 200s.
func (p *Reply) OK() error {
	if p.Status/100 != 2 {
		return fmt.Errorf("status %d where a request that is right must be answered", p.Status)
	}
	return nil
}

// Object wants 200 and a JSON object, and decodes it into v.
func (p *Reply) Object(v any) error {
	if err := p.OK(); err != nil {
		return err
	}
	if t, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type")); t != "application/json" {
		return fmt.Errorf("the answer's Content-Type is %q, not application/json", p.Header.Get("Content-Type"))
	}
	return Decode(p.Body, v)
}

// Decode reads one JSON value and nothing after it; numbers stay as they are written.
func Decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("the answer is not the JSON that the protocol says: %v", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows the answer's JSON")
	}
	return nil
}

// Refused wants a status in the 400s and an error in the protocol's form.
func (p *Reply) Refused() error {
	if p.Status/100 != 4 {
		return fmt.Errorf("status %d; what is wrong with a request must be told by one in the 400s", p.Status)
	}
	var body struct{ Error *string }
	if err := Decode(p.Body, &body); err != nil {
		return err
	}
	if body.Error == nil || strings.TrimSpace(*body.Error) == "" {
		return fmt.Errorf("the answer has no text in \"error\"")
	}
	return nil
}

// Shown cuts a message to what is worth printing. Keys are not: they are added where this does not see them.
func Shown(first string, header http.Header, body []byte) string {
	var b strings.Builder
	b.WriteString(first)
	for _, name := range []string{"Content-Type", "Content-Encoding", LengthName, "Accept-Encoding"} {
		if v := header.Values(name); len(v) > 0 {
			fmt.Fprintf(&b, "  %s: %s", name, strings.Join(v, ", "))
		}
	}
	if len(body) == 0 {
		return b.String()
	}
	b.WriteByte('\n')
	text := body[:min(len(body), MaxShown)]
	if n, err := strconv.Atoi(header.Get(LengthName)); err == nil && n >= 0 && n < len(text) {
		Printable(&b, text[:n])
		fmt.Fprintf(&b, " + %d bytes: % x", len(body)-n, body[n:min(len(body), n+64)])
		return b.String()
	}
	Printable(&b, text)
	if len(body) > MaxShown {
		fmt.Fprintf(&b, "... (%d bytes)", len(body))
	}
	return b.String()
}

// Printable writes text, and what is no text as escapes: an answer must not reach the terminal's own language.
func Printable(b *strings.Builder, text []byte) {
	for len(text) > 0 {
		c, n := utf8.DecodeRune(text)
		if c == utf8.RuneError && n == 1 || !unicode.IsPrint(c) && c != '\n' && c != '\t' {
			fmt.Fprintf(b, "\\x%02x", text[0])
			n = 1
		} else {
			b.WriteRune(c)
		}
		text = text[n:]
	}
}
