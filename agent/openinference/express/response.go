package express

import (
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// keepOut is what an answer's buffer may be to be used again, and joinUpTo how much is copied to be sent with what
	// is before it; what is larger is handed to the kernel where it lies.
	keepOut  = 64 << 10
	joinUpTo = 16 << 10
)

// response writes one answer. It is used again by the next request.
type response struct {
	conn   *conn
	header http.Header

	status  int
	length  int64 // that the handler has said, -1 where it has not
	written int64
	closing bool // no other request may follow
	err     error

	out  []byte // not sent yet: the head and what follows it
	late []byte // the body of an answer whose length is known at its end
}

func (w *response) reset() {
	clear(w.header)
	w.status, w.length, w.written, w.closing, w.err = 0, -1, 0, false, nil
	if cap(w.out) > keepOut {
		w.out = nil
	}
	if cap(w.late) > keepOut {
		w.late = nil
	}
	w.out, w.late = w.out[:0], w.late[:0]
	w.conn.body.failed, w.conn.body.deadline, w.conn.body.pending = false, time.Time{}, false
}

func (w *response) Header() http.Header { return w.header }

// SetReadDeadline bounds reads of the body from here on, as http.ResponseController does.
func (w *response) SetReadDeadline(t time.Time) error {
	w.conn.body.deadline, w.conn.body.pending = t, true
	return nil
}

// SetWriteDeadline bounds writes of the answer.
func (w *response) SetWriteDeadline(t time.Time) error { return w.conn.Conn.SetWriteDeadline(t) }

func (w *response) WriteHeader(status int) {
	if w.status != 0 || status < 200 { // a second one counts as little as with net/http, and nobody here waits for 1xx
		return
	}
	w.status = status
	if text := w.header["Content-Length"]; len(text) == 1 {
		if n, err := strconv.ParseInt(text[0], 10, 64); err == nil && n >= 0 {
			w.length = n
			return
		}
	}
	delete(w.header, "Content-Length")
}

// bodyless says of a status that its answer has no body.
func bodyless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusNotModified
}

func (w *response) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if bodyless(w.status) {
		return 0, http.ErrBodyNotAllowed
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.length < 0 {
		w.late = append(w.late, p...)
		return len(p), nil
	}
	if w.written+int64(len(p)) > w.length {
		w.closing = true // who counts wrong is not trusted with another
		return 0, http.ErrContentLength
	}
	if w.written == 0 {
		w.begin(p)
	}
	w.written += int64(len(p))
	if len(w.out)+len(p) <= joinUpTo {
		w.out = append(w.out, p...)
		return len(p), nil
	}
	both := net.Buffers{w.out, p}
	if _, w.err = both.WriteTo(w.conn.Conn); w.err != nil {
		return 0, w.err
	}
	w.out = w.out[:0]
	return len(p), nil
}

// finish sends what is not sent yet. An error is that of the connection, or says that the answer is not whole.
func (w *response) finish() error {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	if w.length < 0 && !bodyless(w.status) {
		w.length = int64(len(w.late))
		w.header["Content-Length"] = []string{strconv.Itoa(len(w.late))}
		if late := w.late; len(late) > 0 {
			if _, err := w.Write(late); err != nil {
				return err
			}
		}
	}
	if w.written == 0 {
		w.begin(nil)
	}
	if len(w.out) > 0 && w.err == nil {
		_, w.err = w.conn.Conn.Write(w.out)
	}
	if w.err == nil && w.written < w.length && !bodyless(w.status) {
		w.closing = true
	}
	return w.err
}

// begin writes the head of the answer, whose body begins with p.
func (w *response) begin(p []byte) {
	if !w.conn.drain() || w.conn.listener.ending() || hasClose(w.header["Connection"]) {
		w.closing = true
	}
	b := append(w.out[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(w.status), 10)
	b = append(b, ' ')
	if text := http.StatusText(w.status); text != "" {
		b = append(b, text...)
	} else {
		b = append(b, "status code "...)
		b = strconv.AppendInt(b, int64(w.status), 10)
	}
	b = append(b, "\r\n"...)
	for name, values := range w.header {
		if name == "Connection" || name == "Transfer-Encoding" || name == "Date" || !plainName(name) {
			continue // of the connection, which is served here
		}
		for _, v := range values {
			b = append(append(b, name...), ": "...)
			b = append(appendValue(b, v), "\r\n"...)
		}
	}
	if _, ok := w.header["Content-Type"]; !ok && len(p) > 0 {
		b = append(append(append(b, "Content-Type: "...), http.DetectContentType(p)...), "\r\n"...)
	}
	b = append(append(append(b, "Date: "...), w.conn.listener.now()...), "\r\n"...)
	if w.closing {
		b = append(b, "Connection: close\r\n"...)
	}
	w.out = append(b, "\r\n"...)
}

func hasClose(values []string) bool {
	return len(values) > 0 && strings.EqualFold(values[0], "close")
}

// appendValue writes the value of a header, in which a line cannot end.
func appendValue(b []byte, v string) []byte {
	if strings.ContainsAny(v, "\r\n") {
		v = strings.NewReplacer("\r", " ", "\n", " ").Replace(v)
	}
	return append(b, strings.Trim(v, " \t")...)
}
