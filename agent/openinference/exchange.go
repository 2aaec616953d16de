package openinference

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/access"
	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/openinference/conns"
	"github.com/dhowfleet/dhow/models/tensor"
)

const (
	// keepBuffer bounds what is kept of a request's memory for later ones.
	keepBuffer = 4 << 20
	// firstRead is how much of a body is made room for before any of it has come.
	firstRead = 64 << 10
)

// exchange is one request and its answer. It is reused by later ones, but for what net/http still holds when a handler
// has returned: the values of headers.
type exchange struct {
	w http.ResponseWriter
	r *http.Request
	target
	caller access.Caller

	// What the access log wants to know.
	status         int
	received, sent int64
	answered       string // version
	queued         time.Duration
	entry          accesslog.Entry

	budget   *Budget
	reserved int64
	patience time.Duration // for a client to take the answer
	plain    bool          // the answer is not compressed

	body    bytes.Buffer
	arena   []byte // what decoded inputs are cut from
	missed  int    // bytes that the arena did not have
	request request
	names   []string
	outputs []tensor.Tensor
	json    []byte
	binary  [][]byte
	parts   [][]byte
	packed  bytes.Buffer
	values  []string // of headers
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// reserve takes memory from the bound on all requests; giveBack returns it.
func (x *exchange) reserve(n int64) error {
	if err := x.budget.Reserve(n); err != nil {
		return err
	}
	x.reserved += n
	return nil
}

// Grow implements jsontensor.Memory.
func (x *exchange) Grow(data []byte, size int64) ([]byte, error) {
	if err := x.reserve(size); err != nil {
		return data, err
	}
	if at := (len(x.arena) + 63) &^ 63; int64(at)+size <= int64(cap(x.arena)) && data == nil {
		x.arena = x.arena[:at+int(size)]
		return x.arena[at:at:len(x.arena)], nil
	}
	x.missed += int(size) + 64
	return append(make([]byte, 0, size), data...), nil
}

// giveBack ends the exchange. Nothing of it is used afterwards.
func (x *exchange) giveBack() {
	x.budget.Release(x.reserved)
	x.w, x.r, x.budget, x.values = nil, nil, nil, nil
	x.target, x.caller, x.answered, x.entry = target{}, access.Caller{}, "", accesslog.Entry{}
	x.status, x.received, x.sent, x.queued, x.reserved = 0, 0, 0, 0, 0
	x.request.reset()
	clear(x.names)
	clear(x.outputs)
	clear(x.binary)
	clear(x.parts)
	x.names, x.outputs, x.binary, x.parts = x.names[:0], x.outputs[:0], x.binary[:0], x.parts[:0]
	// The next request like this one finds room for its inputs.
	if want := len(x.arena) + x.missed; x.missed > 0 && want <= keepBuffer {
		x.arena = make([]byte, 0, want)
	}
	x.arena, x.missed = x.arena[:0], 0
	if x.body.Cap() > keepBuffer || cap(x.json) > keepBuffer || x.packed.Cap() > keepBuffer {
		return
	}
	x.body.Reset()
	x.packed.Reset()
	exchanges.Put(x)
}

// one returns the value of a header.
func (x *exchange) one(value string) []string {
	if x.values == nil {
		x.values = make([]string, 0, 4)
	}
	x.values = append(x.values, value)
	return x.values[len(x.values)-1 : len(x.values) : len(x.values)]
}

// readBody fills x.body and returns the length of its JSON.
func (h *handler) readBody(x *exchange) (int, error) {
	announced := x.r.ContentLength
	if announced > h.options.MaxBody {
		return 0, h.tooLarge()
	}
	// Servers that have no deadlines, as in tests, read without one. What decompresses reads as soon as it is made.
	control := http.NewResponseController(x.w)
	_ = control.SetReadDeadline(time.Now().Add(h.options.BodyTimeout))
	plain, err := decompress(x.r)
	if err != nil {
		return 0, err
	}
	if plain != x.r.Body {
		announced = -1
	}
	err = h.fill(x, plain, announced)
	x.received = int64(x.body.Len())
	if err != nil {
		return 0, err
	}
	_ = control.SetReadDeadline(time.Time{})
	text := x.r.Header[headerLength]
	if len(text) == 0 || text[0] == "" {
		return x.body.Len(), nil
	}
	header, err := strconv.Atoi(text[0])
	if err != nil || header < 0 || header > x.body.Len() {
		return 0, badRequest("%s is %.40q, which is no length within the body's %d bytes", headerLength, text[0], x.body.Len())
	}
	return header, nil
}

func (h *handler) tooLarge() error {
	return &apiError{status: http.StatusRequestEntityTooLarge, message: "the body is larger than " + strconv.FormatInt(h.options.MaxBody, 10) + " bytes"}
}

// fill reads to the end in steps, so that memory is taken for what has come and not for what was announced.
func (h *handler) fill(x *exchange, body io.Reader, announced int64) error {
	for {
		have := int64(x.body.Len())
		step := max(firstRead, 2*have)
		if announced >= 0 {
			step = min(step, max(announced-have, 0)+1) // one more to see the end
		}
		if step = min(step, h.options.MaxBody+1-have); step <= 0 {
			return h.tooLarge()
		}
		if err := x.reserve(step); err != nil {
			return err
		}
		x.body.Grow(int(step))
		n, err := readInto(&x.body, body, int(step))
		if errors.Is(err, io.EOF) {
			if have+int64(n) > h.options.MaxBody {
				return h.tooLarge()
			}
			return nil
		}
		if err != nil {
			return unreadable(err)
		}
	}
}

// readInto reads until n bytes are there, or an error, which is io.EOF at the end.
func readInto(b *bytes.Buffer, r io.Reader, n int) (int, error) {
	space := b.AvailableBuffer()[:n]
	got := 0
	var err error
	for got < n && err == nil {
		var m int
		m, err = r.Read(space[got:])
		got += m
	}
	_, _ = b.Write(space[:got]) // it lies there already
	return got, err
}

// unreadable says why a body could not be read, in words that are the sender's: errors of connections name addresses.
func unreadable(err error) error {
	var timeout interface{ Timeout() bool }
	var big *http.MaxBytesError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return &apiError{status: http.StatusRequestTimeout, message: "the body did not come in time"}
	case errors.As(err, &big):
		return &apiError{status: http.StatusRequestEntityTooLarge, message: "the body is too large"}
	}
	return badRequest("cannot read the body: it is cut off or its encoding is broken")
}

// write sends the answer that is in x.json and x.binary, compressed if the client takes that and it helps.
func (x *exchange) write(status int) {
	x.parts = append(append(x.parts[:0], x.json), x.binary...)
	length := 0
	for _, b := range x.parts {
		length += len(b)
	}
	header := x.w.Header()
	header["Content-Type"] = contentJSON
	if len(x.binary) > 0 {
		header["Content-Type"] = contentBinary
		header[headerLength] = x.one(strconv.Itoa(len(x.json)))
	}
	if length >= compressFrom && !x.plain {
		header["Vary"] = varyEncoding
		if e := accepted(x.r.Header["Accept-Encoding"]); e >= 0 && x.reserve(int64(length)) == nil && pack(&x.packed, e, x.parts...) {
			header["Content-Encoding"] = encodings[e].header
			x.parts = append(x.parts[:0], x.packed.Bytes())
			length = x.packed.Len()
		}
	}
	header["Content-Length"] = x.one(strconv.Itoa(length))
	x.status, x.sent = status, int64(length)
	if x.reserved+x.sent > conns.Much { // which a client that does not read would keep from others
		conns.Hurry(x.w, x.sent, x.patience)
		defer conns.Relax(x.w)
	}
	conns.Hold(x.r)
	x.w.WriteHeader(status)
	for _, b := range x.parts {
		if _, err := x.w.Write(b); err != nil {
			return // the client left
		}
	}
}

var (
	contentJSON   = []string{"application/json"}
	contentBinary = []string{"application/octet-stream"}
	varyEncoding  = []string{"Accept-Encoding"}
)
