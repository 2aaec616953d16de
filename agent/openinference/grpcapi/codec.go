package grpcapi

import (
	"errors"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/dhowfleet/dhow/agent/openinference/grpcapi/wire"
	inferencepb "github.com/dhowfleet/dhow/protocol/gen/inference"
)

// received is a ModelInferRequest as it came. It is decoded by the method, where memory can be accounted for.
type received struct{ *exchange }

// sent is an answer that writes itself.
type sent interface {
	Size() int
	Append(b []byte) []byte
}

// unary is a *wire.Response in the form that connect takes: it wants a pointer to a type of its own.
type unary struct{ *wire.Response }

var errNoMessage = errors.New("the message is of another method")

// codec reads and writes the messages that hold tensors by hand, and others as usual.
type codec struct{ name string }

func (c codec) Name() string { return c.name }

func (c codec) Unmarshal(data []byte, message any) error {
	switch m := message.(type) {
	case *received:
		// The buffer is connect's again when this returns.
		m.exchange = exchanges.Get().(*exchange)
		m.message = append(m.message[:0], data...)
		return nil
	case proto.Message:
		return proto.Unmarshal(data, m)
	}
	return errNoMessage
}

func (c codec) Marshal(message any) ([]byte, error) { return c.MarshalAppend(nil, message) }

// MarshalAppend is what connect calls, with a buffer to reuse.
func (c codec) MarshalAppend(b []byte, message any) ([]byte, error) {
	switch m := message.(type) {
	case sent:
		return m.Append(slices.Grow(b, m.Size())), nil
	case proto.Message:
		return proto.MarshalOptions{}.MarshalAppend(b, m)
	}
	return nil, errNoMessage
}

// maxJSON bounds a message in JSON, which Connect's clients may send: it takes many times its size to read, and is for
// trying things out.
const maxJSON = 4 << 20

// jsonCodec speaks the JSON form of the same messages.
type jsonCodec struct{ name string }

func (c jsonCodec) Name() string { return c.name }

// IsBinary tells connect that the form is text.
func (c jsonCodec) IsBinary() bool { return false }

func (c jsonCodec) Unmarshal(data []byte, message any) error {
	options := protojson.UnmarshalOptions{DiscardUnknown: true}
	switch m := message.(type) {
	case *received:
		if len(data) > maxJSON {
			return errors.New("the JSON form is for messages up to 4 MiB; send protobuf")
		}
		var request inferencepb.ModelInferRequest
		if err := options.Unmarshal(data, &request); err != nil {
			return err
		}
		wire, err := proto.Marshal(&request)
		if err != nil {
			return err
		}
		m.exchange = exchanges.Get().(*exchange)
		m.message = append(m.message[:0], wire...)
		return nil
	case proto.Message:
		return options.Unmarshal(data, m)
	}
	return errNoMessage
}

func (c jsonCodec) Marshal(message any) ([]byte, error) {
	var of proto.Message
	switch m := message.(type) {
	case *unary:
		of = &inferencepb.ModelInferResponse{}
	case *wire.Streamed:
		of = &inferencepb.ModelStreamInferResponse{}
	case proto.Message:
		return protojson.Marshal(m)
	default:
		return nil, errNoMessage
	}
	if err := proto.Unmarshal(message.(sent).Append(nil), of); err != nil {
		return nil, err
	}
	return protojson.Marshal(of)
}
