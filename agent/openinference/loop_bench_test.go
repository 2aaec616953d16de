package openinference

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"testing"

	"github.com/dhowfleet/dhow/agent/openinference/conns"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
)

// BenchmarkLoopback sends 4 KiB and gets 4 KiB over one connection.
func BenchmarkLoopback(b *testing.B) {
	table := serving.NewTable(serving.Options{})
	table.Set("m", []serving.Variant{{Version: "1", Role: 1, Runner: &scores{out: []tensor.Tensor{tensor.FromFloat32("y", []int64{1, 1024}, make([]float32, 1024))}}}})
	for _, plain := range []bool{true, false} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := &http.Server{Handler: New(table, Options{})}
		defer server.Close()
		name := "plain"
		if served := l; plain {
			go server.Serve(served)
		} else {
			name = "wrapped"
			go server.Serve(conns.Wrap(server, served))
		}
		b.Run(name, func(b *testing.B) { loopback(b, l.Addr().String()) })
	}
}

func loopback(b *testing.B, address string) {
	head := `{"id":"7e57d004-2b97-0e7a-b45f-5387367791cd","inputs":[{"name":"x","shape":[1,1024],"datatype":"FP32","parameters":{"binary_data_size":4096}}],"parameters":{"binary_data_output":true}}`
	post := fmt.Sprintf("POST /v2/models/m/infer HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nInference-Header-Content-Length: %d\r\n\r\n%s%s", address, len(head)+4096, len(head), head, make([]byte, 4096))
	get := fmt.Sprintf("GET /v2/health/live HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	for _, c := range []struct{ name, request string }{{"infer", post}, {"health", get}} {
		request := c.request
		b.Run(c.name, func(b *testing.B) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r := bufio.NewReaderSize(conn, 64<<10)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conn.Write([]byte(request)); err != nil {
					b.Fatal(err)
				}
				length := 0
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						b.Fatal(err)
					}
					if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
						length, _ = strconv.Atoi(string(bytes.TrimSpace(v)))
					}
					if len(line) <= 2 {
						break
					}
				}
				if _, err := r.Discard(length); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
