package openinference

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/dhowfleet/dhow/agent/serving"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// keepBuffer bounds the buffers that are kept for later requests.
const keepBuffer = 1 << 20

// exchange is the memory of one request, reused by later ones.
type exchange struct {
	body     bytes.Buffer
	json     []byte
	binary   [][]byte
	names    []string
	reserved int64
}

var exchanges = sync.Pool{New: func() any { return new(exchange) }}

func (h *handler) infer(w http.ResponseWriter, r *http.Request) {
	x := exchanges.Get().(*exchange)
	defer h.giveBack(x)
	model, version := r.PathValue("model"), r.PathValue("version")
	// Whatever is asked of a model that is not there need not be read.
	if err := h.table.Has(model, version); err != nil {
		writeError(w, err)
		return
	}
	header, err := h.readBody(w, r, x)
	if err != nil {
		writeError(w, err)
		return
	}
	req, err := parse(x.body.Bytes(), header, func(n int64) error { return h.reserve(x, n) })
	if err != nil {
		writeError(w, err)
		return
	}
	for i := range req.outputs {
		x.names = append(x.names, req.outputs[i].name)
	}
	res, err := h.table.Infer(r.Context(), serving.Request{Model: model, Version: version, ID: req.id, Inputs: req.inputs, Outputs: x.names})
	if res.Version != "" {
		w.Header()[headerVersion] = []string{res.Version}
		w.Header()[headerVariant] = variantNames[min(int(res.Role), len(variantNames)-1)]
	}
	if err == nil {
		x.json, x.binary, err = appendResponse(x.json[:0], model, req, &res, x.binary[:0])
	}
	if err != nil {
		writeError(w, err)
		return
	}
	x.write(w)
}

// write sends the answer that is in x.
func (x *exchange) write(w http.ResponseWriter) {
	length := len(x.json)
	for _, b := range x.binary {
		length += len(b)
	}
	head := w.Header()
	head["Content-Length"] = []string{strconv.Itoa(length)}
	if len(x.binary) == 0 {
		head["Content-Type"] = contentJSON
	} else {
		head["Content-Type"] = contentBinary
		head[headerLength] = []string{strconv.Itoa(len(x.json))}
	}
	if _, err := w.Write(x.json); err != nil {
		return // the client left
	}
	for _, b := range x.binary {
		if _, err := w.Write(b); err != nil {
			return
		}
	}
}

var (
	contentJSON   = []string{"application/json"}
	contentBinary = []string{"application/octet-stream"}
	variantNames  = [...][]string{
		syncv1.Role_ROLE_UNSPECIFIED: {"unspecified"},
		syncv1.Role_ROLE_BASELINE:    {"baseline"},
		syncv1.Role_ROLE_CANDIDATE:   {"candidate"},
		syncv1.Role_ROLE_SHADOW:      {"shadow"},
	}
)

// reserve takes memory from the bound on all requests; giveBack returns it.
func (h *handler) reserve(x *exchange, n int64) error {
	if h.memory.Add(n) > h.options.MaxMemory {
		h.memory.Add(-n)
		return &apiError{
			status:  http.StatusServiceUnavailable,
			message: "too much memory is in use by other requests; try again later", retry: true,
		}
	}
	x.reserved += n
	return nil
}

func (h *handler) giveBack(x *exchange) {
	h.memory.Add(-x.reserved)
	x.reserved = 0
	clear(x.binary)
	clear(x.names)
	x.binary, x.names = x.binary[:0], x.names[:0]
	if x.body.Cap() > keepBuffer || cap(x.json) > keepBuffer {
		return
	}
	x.body.Reset()
	exchanges.Put(x)
}

// readBody fills x.body and returns the length of its JSON.
func (h *handler) readBody(w http.ResponseWriter, r *http.Request, x *exchange) (int, error) {
	tooLarge := func() error {
		return &apiError{status: http.StatusRequestEntityTooLarge, message: "the body is larger than " + strconv.FormatInt(h.options.MaxBody, 10) + " bytes"}
	}
	if r.ContentLength > h.options.MaxBody {
		return 0, tooLarge()
	}
	plain, err := decompress(r)
	if err != nil {
		return 0, err
	}
	// Servers that have no deadlines, as in tests, read without one.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(h.options.BodyTimeout))
	if err := h.fill(x, plain, r.ContentLength); err != nil {
		if errors.Is(err, errTooLarge) {
			return 0, tooLarge()
		}
		return 0, err
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	text := r.Header.Get(headerLength)
	if text == "" {
		return x.body.Len(), nil
	}
	header, err := strconv.Atoi(text)
	if err != nil || header < 0 || header > x.body.Len() {
		return 0, badRequest("%s is %q, which is no length within the body's %d bytes", headerLength, text, x.body.Len())
	}
	return header, nil
}

var errTooLarge = errors.New("too large")

// fill reads to the end in steps, so that memory is taken for what has come and not for what was announced.
func (h *handler) fill(x *exchange, body io.Reader, announced int64) error {
	step := int64(64 << 10)
	if announced > 0 {
		step = min(step, announced+1) // one more to see the end
	}
	for {
		if x.body.Len() > 0 {
			step = int64(x.body.Len()) // double
		}
		step = min(step, h.options.MaxBody+1-int64(x.body.Len()))
		if step == 0 {
			return errTooLarge
		}
		if err := h.reserve(x, step); err != nil {
			return err
		}
		n, err := x.body.ReadFrom(io.LimitReader(body, step))
		if err != nil {
			return badRequest("cannot read the body: %v", err)
		}
		if n < step {
			return nil
		}
	}
}

// decompress returns the plain body.
func decompress(r *http.Request) (io.Reader, error) {
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return r.Body, nil
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, badRequest("the body is not gzip: %v", err)
		}
		return z, nil
	case "deflate":
		z, err := zlib.NewReader(r.Body)
		if err != nil {
			return nil, badRequest("the body is not deflate (zlib): %v", err)
		}
		return z, nil
	default:
		return nil, &apiError{status: http.StatusUnsupportedMediaType, message: "the body's encoding " + strconv.Quote(encoding) + " is not known; send it plain, or with gzip or deflate"}
	}
}
