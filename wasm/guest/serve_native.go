//go:build !wasip1

package guest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/dhowfleet/dhow/wasm/abi"
)

func serveNative() {
	if err := serve(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "cannot serve: %v\n", err)
		os.Exit(1)
	}
}

// serve answers frames until in ends. The buffers are used again, as an instance of a WASM module uses its memory again.
func serve(in io.Reader, out io.Writer) error {
	r, w := bufio.NewReaderSize(in, 1<<16), bufio.NewWriterSize(out, 1<<16)
	c, err := frame(r, nil)
	if errors.Is(err, io.EOF) {
		return errors.New("standard input is empty: it takes frames, as package guest describes at Serve")
	} else if err != nil {
		return err
	}
	begin := time.Now()
	status, payload := abi.StatusTensors, []byte(nil)
	if !setConfiguration(c) {
		status, payload = abi.StatusGuestError, []byte("the step refused its configuration")
	}
	if err := writeReply(w, time.Since(begin), status, payload); err != nil {
		return err
	}
	var list []byte
	for {
		if list, err = frame(r, list); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		begin := time.Now()
		status, payload := answer(list)
		if err := writeReply(w, time.Since(begin), status, payload); err != nil {
			return err
		}
	}
}

// frame reads one, into buf where it fits. The error is io.EOF only where a frame could begin.
func frame(r io.Reader, buf []byte) ([]byte, error) {
	var head [4]byte
	if n, err := io.ReadFull(r, head[:]); n == 0 && errors.Is(err, io.EOF) {
		return nil, io.EOF
	} else if err != nil {
		return nil, errors.New("a frame's length is cut off")
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > abi.MaxList {
		return nil, fmt.Errorf("a frame has %d bytes, at most %d are allowed", n, abi.MaxList)
	}
	if uint32(cap(buf)) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return nil, fmt.Errorf("a frame of %d bytes is cut off", n)
	}
	return buf, nil
}

func writeReply(w *bufio.Writer, took time.Duration, status abi.Status, payload []byte) error {
	var head [16]byte
	binary.LittleEndian.PutUint64(head[0:], uint64(took))
	binary.LittleEndian.PutUint32(head[8:], uint32(status))
	binary.LittleEndian.PutUint32(head[12:], uint32(len(payload)))
	_, _ = w.Write(head[:])
	_, _ = w.Write(payload)
	return w.Flush()
}
