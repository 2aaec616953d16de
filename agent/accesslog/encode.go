package accesslog

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf8"
)

// encoder makes lines of JSON.
type encoder struct{ bytes.Buffer }

// maxText bounds a text of a line; senders choose names and ids.
const maxText = 256

// entry writes one line. What is empty is left out, save the times.
func (e *encoder) entry(x *Entry) {
	e.begin(x.Time)
	e.text("protocol", x.Protocol)
	e.text("method", x.Method)
	e.text("group", x.Group)
	e.text("model", x.Model)
	e.text("version", x.Version)
	e.text("id", x.ID)
	e.text("caller", x.Caller)
	if x.Status != 0 {
		e.number("status", int64(x.Status))
	}
	e.text("code", x.Code)
	e.number("bytes_in", x.BytesIn)
	e.number("bytes_out", x.BytesOut)
	e.number("duration_us", x.Duration.Microseconds())
	e.number("queue_us", x.Queue.Microseconds())
	e.text("trace_id", x.TraceID)
	e.WriteString("}\n")
}

// dropped writes a line about entries that are missing before it.
func (e *encoder) dropped(now time.Time, n uint64) {
	e.begin(now)
	e.number("dropped", int64(n))
	e.WriteString("}\n")
}

func (e *encoder) begin(t time.Time) {
	e.WriteString(`{"time":"`)
	e.Write(t.UTC().AppendFormat(e.AvailableBuffer(), "2006-01-02T15:04:05.000000Z"))
	e.WriteByte('"')
}

func (e *encoder) name(name string) {
	e.WriteString(`,"`)
	e.WriteString(name)
	e.WriteString(`":`)
}

func (e *encoder) number(name string, n int64) {
	e.name(name)
	e.Write(strconv.AppendInt(e.AvailableBuffer(), n, 10))
}

// text writes a JSON string. What could break a line, or a terminal that shows it, is escaped.
func (e *encoder) text(name, s string) {
	if s == "" {
		return
	}
	e.name(name)
	e.WriteByte('"')
	for i := 0; i < len(s); {
		if i >= maxText {
			e.WriteString("…")
			break
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			e.WriteByte('\\')
			e.WriteByte(byte(r))
		case r < 0x20 || 0x7f <= r && r < 0xa0 || r == '\u2028' || r == '\u2029' || 0x202a <= r && r <= 0x202e || 0x2066 <= r && r <= 0x2069:
			e.WriteString(`\u`)
			e.Write([]byte{hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15]})
		default:
			e.WriteRune(r) // U+FFFD for a byte that is no UTF-8
		}
		i += n
	}
	e.WriteByte('"')
}

const hex = "0123456789abcdef"
