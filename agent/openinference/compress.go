package openinference

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

const (
	// compressFrom is the size from which an answer is compressed when the client takes that.
	compressFrom = 1 << 10
	// compressTrial is how much of a large answer shows whether it shrinks at all.
	compressTrial = 64 << 10
)

// decompress returns the plain body.
func decompress(r *http.Request) (io.Reader, error) {
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return r.Body, nil
	case "gzip":
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, undecodable(err, "the body is not gzip")
		}
		return z, nil
	case "deflate":
		z, err := zlib.NewReader(r.Body)
		if err != nil {
			return nil, undecodable(err, "the body is not deflate (zlib)")
		}
		return z, nil
	default:
		return nil, &apiError{status: http.StatusUnsupportedMediaType, message: "the body's encoding " + strconv.Quote(shorten(encoding)) + " is not known; send it plain, or with gzip or deflate"}
	}
}

// undecodable says why the beginning of a compressed body was of no use.
func undecodable(err error, otherwise string) error {
	if timeout := (interface{ Timeout() bool })(nil); errors.As(err, &timeout) {
		return unreadable(err)
	}
	return badRequest("%s", otherwise)
}

// packer compresses answers; what is the same for gzip and zlib.
type packer interface {
	io.WriteCloser
	Reset(io.Writer)
	Flush() error
}

// encodings are those that answers can have, preferred first. Speed matters more than size here: the answer is on its way.
var encodings = [...]struct {
	name    string
	header  []string
	writers sync.Pool
}{
	{"gzip", []string{"gzip"}, sync.Pool{New: func() any {
		z, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // the level is a right one
		return z
	}}},
	{"deflate", []string{"deflate"}, sync.Pool{New: func() any {
		z, _ := zlib.NewWriterLevel(io.Discard, zlib.BestSpeed) // the level is a right one
		return z
	}}},
}

// accepted returns the index of the encoding that a client wants by its Accept-Encoding, or -1.
func accepted(header []string) int {
	best, bestWeight := -1, 0.0
	for _, line := range header {
		for part := range strings.SplitSeq(line, ",") {
			name, parameters, _ := strings.Cut(part, ";")
			name = strings.ToLower(strings.TrimSpace(name))
			weight := 1.0
			if q, ok := strings.CutPrefix(strings.TrimSpace(parameters), "q="); ok {
				w, err := strconv.ParseFloat(q, 64)
				if err != nil || !(w >= 0 && w <= 1) {
					continue
				}
				weight = w
			}
			for i := range encodings {
				if encodings[i].name == name && weight > bestWeight {
					best, bestWeight = i, weight
				}
			}
		}
	}
	return best
}

// pack compresses parts into out. It reports false, and what is in out is of no use, when they do not shrink.
func pack(out *bytes.Buffer, encoding int, parts ...[]byte) bool {
	z := encodings[encoding].writers.Get().(packer)
	defer encodings[encoding].writers.Put(z)
	z.Reset(out)
	total, tried := 0, false
	for _, p := range parts {
		for len(p) > 0 {
			n := min(len(p), compressTrial)
			_, _ = z.Write(p[:n]) // into memory
			total += n
			p = p[n:]
			if !tried && total >= compressTrial {
				tried = true
				_ = z.Flush() // into memory
				if out.Len() > total/8*7 {
					return false
				}
			}
		}
	}
	_ = z.Close() // into memory
	return out.Len() < total
}
