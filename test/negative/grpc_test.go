package negative

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

const service = "/inference.GRPCInferenceService/"

// startRPC serves the models over gRPC.
func startRPC(t *testing.T, adapt func(*grpcapi.Options)) *rpcServer {
	t.Helper()
	o := grpcapi.Options{Version: "9.9.9", MaxMessage: maxBody, MaxMemory: maxMemory, BodyTimeout: patience}
	if adapt != nil {
		adapt(&o)
	}
	s := listen(t, openinference.Protect(grpcapi.New(table(t), o), nil))
	return &rpcServer{server: s, client: overHTTP2(t)}
}

// overHTTP2 is a client for what gRPC needs.
func overHTTP2(t *testing.T) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

type rpcServer struct {
	*server
	client *http.Client
}

// frame is a message as gRPC sends it.
func frame(message string) string {
	return string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
}

// call is a gRPC request as it goes over the line.
type call struct {
	method string // of the service, "" is ModelInfer; a path when it begins with a slash
	header []string
	body   string // frames
	stops  bool   // the client sends no more and does not say so
}

// reply is what came back.
type reply struct {
	code    connect.Code // 0: none
	message string
	body    []byte
	header  http.Header
}

func (s *rpcServer) call(c *call) reply {
	s.Helper()
	path := c.method
	switch {
	case path == "":
		path = service + "ModelInfer"
	case path[0] != '/':
		path = service + path
	}
	body := io.MultiReader(strings.NewReader(c.body)) // of a length that the client does not know
	if c.stops {
		r, w := io.Pipe()
		go func() { _, _ = io.WriteString(w, c.body) }()
		body = r
	}
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+path, body)
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	for _, header := range [][]string{s.header, c.header} {
		for i := 0; i+1 < len(header); i += 2 {
			if header[i] == "Host" {
				req.Host = header[i+1]
				continue
			}
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatalf("half an answer: %v", err)
	}
	s.tight(fmt.Sprint(resp.Header, resp.Trailer, string(data)))
	out := reply{body: data, header: resp.Header}
	if resp.StatusCode != http.StatusOK {
		out.code, out.message = connect.CodeUnknown, fmt.Sprintf("HTTP %d %s", resp.StatusCode, data)
		return out
	}
	end := resp.Trailer
	if end.Get("Grpc-Status") == "" {
		end = resp.Header
	}
	var code int
	if _, err := fmt.Sscan(end.Get("Grpc-Status"), &code); err != nil {
		s.Fatalf("the answer has no status: %v %v", resp.Header, resp.Trailer)
	}
	out.code = connect.Code(code)
	if out.message, err = url.PathUnescape(end.Get("Grpc-Message")); err != nil {
		s.Errorf("the message %q is not encoded as gRPC wants it", end.Get("Grpc-Message"))
	}
	return out
}

// rpc is an inference, whose parts a case changes.
func rpc(change func(*inferencepb.ModelInferRequest)) *inferencepb.ModelInferRequest {
	m := &inferencepb.ModelInferRequest{
		ModelName: "neg", Id: "good",
		Inputs:           []*inferencepb.ModelInferRequest_InferInputTensor{{Name: "x", Datatype: "FP32", Shape: []int64{1, 4}}},
		RawInputContents: [][]byte{floats(1, -2.5, 0, 3)},
	}
	if change != nil {
		change(m)
	}
	return m
}

func floats(values ...float32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func encode(m proto.Message) string {
	b, err := proto.Marshal(m)
	if err != nil {
		return err.Error() // no message: the case will say so
	}
	return string(b)
}

// well checks that the server is as it was.
func (s *rpcServer) well() {
	s.Helper()
	if r := s.call(&call{method: "ServerReady", body: frame("")}); r.code != 0 || !bytes.Equal(r.body, []byte(frame("\x08\x01"))) {
		s.Fatalf("the server is not ready any more: %v %s %q", r.code, r.message, r.body)
	}
	r := s.call(&call{body: frame(encode(rpc(nil)))})
	var m inferencepb.ModelInferResponse
	if r.code != 0 || len(r.body) < 5 || proto.Unmarshal(r.body[5:], &m) != nil || m.GetId() != "good" || len(m.GetRawOutputContents()) != 1 ||
		!bytes.Equal(m.GetRawOutputContents()[0], floats(-1, 2.5, float32(math.Copysign(0, -1)), -3)) {
		s.Fatalf("a good request gets %v %s %s", r.code, r.message, hex.EncodeToString(r.body))
	}
}

// rpcCase is a call and the status that it must get.
type rpcCase struct {
	name string
	call
	code connect.Code
	text string
}

func runRPC(t *testing.T, s *rpcServer, cases []rpcCase) {
	t.Helper()
	names := map[string]bool{}
	for _, c := range cases {
		if names[c.name] {
			t.Errorf("two cases are called %q", c.name)
		}
		names[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			s := &rpcServer{server: &server{T: t, addr: s.addr, secrets: s.secrets, header: s.header}, client: s.client}
			r := s.call(&c.call)
			if r.code != c.code || !strings.Contains(r.message, c.text) || len(r.message) > 1000 || r.message == "" {
				t.Errorf("%v %.3000s\nwant %v with %q", r.code, r.message, c.code, c.text)
			}
			s.well()
		})
	}
}
