package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
)

// caller sends one request again and again over one connection. It writes bytes that are ready and reads no more of the
// answer than its length, since what is measured is the server and not a client library.
type caller struct {
	conn    net.Conn
	read    *bufio.Reader
	request []byte
	health  []byte
}

func newCaller(ctx context.Context, address string, request []byte) (*caller, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	health := fmt.Sprintf("GET /v2/health/live HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	return &caller{conn: conn, read: bufio.NewReaderSize(conn, 64<<10), request: request, health: []byte(health)}, nil
}

func (c *caller) close() { _ = c.conn.Close() }

func (c *caller) call() error { return c.exchange(c.request) }

func (c *caller) get() error { return c.exchange(c.health) }

func (c *caller) exchange(request []byte) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	status, err := c.read.ReadSlice('\n')
	if err != nil {
		return err
	}
	ok := bytes.HasPrefix(status, []byte("HTTP/1.1 200 "))
	length := -1
	for {
		line, err := c.read.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("the answer has no length")
	}
	if !ok {
		text, _ := io.ReadAll(io.LimitReader(c.read, int64(min(length, 500))))
		return fmt.Errorf("the answer is an error: %s", text)
	}
	_, err = c.read.Discard(length)
	return err
}

func post(address string, header int, body []byte) []byte {
	head := fmt.Sprintf("POST /v2/models/negate/infer HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n", address, len(body))
	if header > 0 {
		head += fmt.Sprintf("Inference-Header-Content-Length: %d\r\n", header)
	}
	return append([]byte(head+"\r\n"), body...)
}

func binaryRequest(address string) []byte {
	text := body(fmt.Sprintf(`"parameters":{"binary_data_size":%d}}],"parameters":{"binary_data_output":true}}`, 4*width))
	return post(address, len(text), append([]byte(text), make([]byte, 4*width)...))
}

func jsonRequest(address string) []byte {
	values := strings.TrimSuffix(strings.Repeat("0.12345679,", width), ",")
	return post(address, 0, []byte(body(`"data":[`+values+`]}]}`)))
}
