package grpcapi

import (
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/openinference/grpcapi/wire"
)

// Memory bounds what all requests in flight hold together.
type Memory interface {
	// Reserve takes n bytes, or returns an error at once when there are not so many; Release gives them back.
	Reserve(n int64) error
	Release(n int64)
}

// budget is the Memory of a handler that shares none.
type budget struct{ used, most atomic.Int64 }

var errNoMemory = connect.NewError(connect.CodeUnavailable, errors.New("too much memory is in use by other requests; try again later"))

func (b *budget) Reserve(n int64) error {
	if b.used.Add(n) > b.most.Load() {
		b.used.Add(-n)
		return errNoMemory
	}
	return nil
}

func (b *budget) Release(n int64) { b.used.Add(-n) }

// body is a request's body as connect reads it: memory is reserved for what has come before it is read on, and a message
// that has begun must end in time. Only the goroutine that reads it uses it.
type body struct {
	io.ReadCloser
	call  *call
	taken int64 // reserved for what was read since settle
	total int64
	late  *time.Timer
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.taken == 0 && n > 0 && b.late != nil {
		b.late.Reset(b.call.h.options.BodyTimeout)
	}
	b.total += int64(n)
	if n > 0 {
		if refused := b.call.h.reserve(int64(n)); refused != nil {
			return 0, refused
		}
		b.taken += int64(n)
	}
	if err != nil && !errors.Is(err, io.EOF) && b.call.overdue.Load() {
		err = connect.NewError(connect.CodeDeadlineExceeded, errors.New("the request did not come within its time"))
	}
	return n, err
}

// settle ends a message: it was read, and what is kept of it is accounted for elsewhere.
func (b *body) settle() {
	if b.late != nil {
		b.late.Stop()
	}
	b.call.h.memory.Release(b.taken)
	b.taken = 0
}

// interrupt ends the reading of a body, from another goroutine.
func (c *call) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		// Servers that have no deadlines, as in tests, read on.
		_ = http.NewResponseController(c.w).SetReadDeadline(time.Unix(1, 0))
	}
}

// inflater is a decompressor that reserves memory for what it gives, until it is closed, and stops at the largest
// message: a few bytes may promise gigabytes.
type inflater struct {
	h     *handler
	open  func(io.Reader, io.ReadCloser) (io.ReadCloser, error)
	from  io.ReadCloser // kept for reuse
	taken int64
}

func (z *inflater) Reset(r io.Reader) error {
	z.release()
	from, err := z.open(r, z.from)
	if err != nil {
		return errors.New("its beginning is not that of the named encoding")
	}
	z.from = from
	return nil
}

func (z *inflater) Read(p []byte) (int, error) {
	if z.from == nil {
		return 0, io.EOF
	}
	n, err := z.from.Read(p)
	if n > 0 {
		if z.taken+int64(n) > z.h.options.MaxMessage {
			return 0, z.h.tooLarge()
		}
		if refused := z.h.reserve(int64(n)); refused != nil {
			return 0, refused
		}
		z.taken += int64(n)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return n, errors.New("the message is not of the encoding that was named, or is cut off")
	}
	return n, err
}

func (z *inflater) Close() error {
	z.release()
	return nil
}

func (z *inflater) release() {
	z.h.memory.Release(z.taken)
	z.taken = 0
}

func (h *handler) tooLarge() error {
	return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("the message is larger than %d bytes", h.options.MaxMessage))
}

func openGzip(r io.Reader, before io.ReadCloser) (io.ReadCloser, error) {
	if z, ok := before.(*gzip.Reader); ok {
		return z, z.Reset(r)
	}
	return gzip.NewReader(r)
}

func openZlib(r io.Reader, before io.ReadCloser) (io.ReadCloser, error) {
	if z, ok := before.(zlib.Resetter); ok {
		return before, z.Reset(r, nil)
	}
	return zlib.NewReader(r)
}

// compression returns the options for the encodings that gRPC clients have.
func (h *handler) compression() connect.HandlerOption {
	fast := func(w io.Writer) *gzip.Writer {
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // the level is one of its own
		return z
	}
	fastZlib := func(w io.Writer) *zlib.Writer {
		z, _ := zlib.NewWriterLevel(w, zlib.BestSpeed)
		return z
	}
	return connect.WithHandlerOptions(
		connect.WithCompression("deflate",
			func() connect.Decompressor { return &inflater{h: h, open: openZlib} },
			func() connect.Compressor { return fastZlib(io.Discard) }),
		connect.WithCompression("gzip",
			func() connect.Decompressor { return &inflater{h: h, open: openGzip} },
			func() connect.Compressor { return fast(io.Discard) }),
		connect.WithCompressMinBytes(compressFrom),
	)
}

// exchange is the memory of one inference, reused by later ones.
type exchange struct {
	message  []byte // the request as it came; names and data are views of it where they can be
	request  wire.Request
	response wire.Response
	reserved int64
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

// keepBuffer bounds the buffers that are kept for later requests.
const keepBuffer = 1 << 20

// reserve takes memory for the exchange until it ends.
func (x *exchange) reserve(h *handler, n int64) error {
	if err := h.reserve(n); err != nil {
		return err
	}
	x.reserved += n
	return nil
}

// end gives everything back. Nothing that is a view of the message may be used from here on.
func (x *exchange) end(h *handler) {
	h.memory.Release(x.reserved)
	x.reserved = 0
	x.request.Reset()
	x.response = wire.Response{}
	if cap(x.message) > keepBuffer {
		return
	}
	x.message = x.message[:0]
	exchanges.Put(x)
}
