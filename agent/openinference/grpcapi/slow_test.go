package grpcapi

import (
	"bytes"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// TestAClientThatDoesNotReadHoldsNoMemoryForLong asks over a connection that lets no byte of an answer through.
func TestAClientThatDoesNotReadHoldsNoMemoryForLong(t *testing.T) {
	for _, method := range []string{"ModelInfer", "ModelStreamInfer"} {
		t.Run(method, func(t *testing.T) {
			s := start(t, Options{BodyTimeout: 200 * time.Millisecond})
			c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			message, err := proto.Marshal(large(32 << 10))
			if err != nil {
				t.Fatal(err)
			}
			message = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
			var head bytes.Buffer
			fields := hpack.NewEncoder(&head)
			for _, f := range [][2]string{
				{":method", "POST"}, {":scheme", "http"}, {":path", "/inference.GRPCInferenceService/" + method}, {":authority", "localhost"},
				{"content-type", "application/grpc"}, {"te", "trailers"},
			} {
				if err := fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := c.Write([]byte(http2.ClientPreface)); err != nil {
				t.Fatal(err)
			}
			frames := http2.NewFramer(c, c)
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			must(frames.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
			must(frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndHeaders: true}))
			for len(message) > 0 {
				n := min(len(message), 16<<10)
				must(frames.WriteData(1, false, message[:n]))
				message = message[n:]
			}
			if method == "ModelInfer" {
				must(frames.WriteData(1, true, nil))
			}
			must(c.SetReadDeadline(time.Now().Add(30 * time.Second)))
			for {
				f, err := frames.ReadFrame()
				if err != nil {
					t.Fatalf("the answer is waited for without an end: %v", err)
				}
				if _, reset := f.(*http2.RSTStreamFrame); reset {
					break
				}
			}
			s.free()
		})
	}
}
