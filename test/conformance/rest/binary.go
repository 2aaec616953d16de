package rest

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

const binaryExtension = "binary_tensor_data"

// binaryChecks are of tensors behind the JSON.
func binaryChecks() []suite.Check {
	form := func(about, name string, scope suite.Scope, make func(*suite.Run) (wire.Call, error), judge func(*suite.Run, *wire.Answer) error) suite.Check {
		return suite.Check{Group: "binary", Name: name, Needs: binaryExtension, Scope: scope, About: about, Run: func(r *suite.Run) error {
			c, err := make(r)
			if err != nil {
				return err
			}
			got, err := r.Infer(c)
			if err != nil {
				return err
			}
			if err := r.Matches(got); err != nil {
				return err
			}
			return judge(r, got)
		}}
	}
	whole := func(want bool) func(*suite.Run, *wire.Answer) error {
		return func(_ *suite.Run, a *wire.Answer) error {
			for i := range a.Outputs {
				if name := a.Outputs[i].Name; a.Binary[name] != want {
					return fmt.Errorf("output %q is Binary: %v, asked for was %v", name, a.Binary[name], want)
				}
			}
			return nil
		}
	}
	output := func(r *suite.Run, parameter bool) []map[string]any {
		var out []map[string]any
		for _, d := range r.Model.Metadata.Outputs {
			out = append(out, map[string]any{"name": d.Name, "parameters": map[string]any{"binary_data": parameter}})
		}
		return out
	}
	return []suite.Check{
		form("binary in, binary out by binary_data_output", "both", suite.Each, func(r *suite.Run) (wire.Call, error) { return r.BinaryCall(), nil }, whole(true)),
		form("binary in, JSON out", "in", suite.Each, func(r *suite.Run) (wire.Call, error) {
			c, err := r.TextCall()
			c.Binary = wire.All
			return c, err
		}, whole(false)),
		form("JSON in, binary out by binary_data_output", "out-request", suite.Each, func(r *suite.Run) (wire.Call, error) {
			c, err := r.TextCall()
			c.Parameters = map[string]any{"binary_data_output": true}
			return c, err
		}, whole(true)),
		form("binary out by binary_data of each output", "out-each", suite.Each, func(r *suite.Run) (wire.Call, error) {
			c := r.BinaryCall()
			c.Parameters, c.Outputs = nil, output(r, true)
			return c, nil
		}, whole(true)),
		form("binary_data false of an output wins over binary_data_output", "out-exception", suite.Each, func(r *suite.Run) (wire.Call, error) {
			c, err := r.TextCall()
			c.Parameters = map[string]any{"binary_data_output": true}
			c.Outputs = output(r, false)
			return c, err
		}, whole(false)),
		form("some inputs binary, others JSON", "mixed-in", suite.First, func(r *suite.Run) (wire.Call, error) {
			c, err := r.TextCall()
			if err == nil && len(c.Inputs) < 2 {
				err = suite.Skip("the model has one input")
			}
			c.Binary = func(i int) bool { return i%2 == 0 }
			return c, err
		}, whole(false)),
		form("some outputs binary, others JSON", "mixed-out", suite.First, func(r *suite.Run) (wire.Call, error) {
			c, err := r.TextCall()
			c.Outputs = output(r, true)
			if err == nil && len(c.Outputs) < 2 {
				err = suite.Skip("the model has one output")
			}
			for i := range c.Outputs {
				c.Outputs[i]["parameters"] = map[string]any{"binary_data": i%2 == 0}
			}
			return c, err
		}, func(r *suite.Run, a *wire.Answer) error {
			for i, d := range r.Model.Metadata.Outputs {
				if a.Binary[d.Name] != (i%2 == 0) {
					return fmt.Errorf("output %q is Binary: %v", d.Name, a.Binary[d.Name])
				}
			}
			return nil
		}),
		broken("data-short", "a body that ends inside the binary data", func(head []byte, tail []byte) ([]byte, int) {
			return append(head, tail[:len(tail)-1]...), len(head)
		}),
		broken("data-long", "a body with more binary data than is declared", func(head, tail []byte) ([]byte, int) {
			return append(append(head, tail...), 0, 0, 0, 0), len(head)
		}),
		broken("length-beyond", "a header length beyond the body", func(head, tail []byte) ([]byte, int) {
			return append(head, tail...), len(head) + len(tail) + 1
		}),
		broken("length-short", "a header length that cuts the JSON", func(head, tail []byte) ([]byte, int) {
			return append(head, tail...), len(head) - 1
		}),
		{Group: "binary", Name: "size-misfit", Needs: binaryExtension, Scope: suite.First, About: "a binary_data_size that does not fit the shape", Run: func(r *suite.Run) error {
			c := r.BinaryCall()
			c.Inputs = append([]wire.Value{}, c.Inputs...)
			if len(c.Inputs) == 0 {
				return suite.Skip("the model has no inputs")
			}
			c.Inputs[0].Raw = append(append([]byte{}, c.Inputs[0].Raw...), 0)
			return r.Refuses(c)
		}},
		{Group: "binary", Name: "size-negative", Needs: binaryExtension, Scope: suite.First, About: "a negative binary_data_size", Run: func(r *suite.Run) error {
			c := r.BinaryCall()
			if len(c.Inputs) == 0 {
				return suite.Skip("the model has no inputs")
			}
			head, _, err := (&wire.Call{Inputs: c.Inputs[1:], Binary: wire.All, Parameters: c.Parameters}).Encode()
			if err != nil {
				return err
			}
			// Of the request with the others alone, the JSON; in front of its inputs goes the broken one.
			var doc map[string]any
			if err := json.NewDecoder(bytes.NewReader(head)).Decode(&doc); err != nil {
				return err
			}
			v := c.Inputs[0]
			rest, _ := doc["inputs"].([]any)
			doc["inputs"] = append([]any{map[string]any{"name": v.Name, "datatype": v.Datatype, "shape": v.Shape, "parameters": map[string]any{"binary_data_size": -1}}}, rest...)
			body, err := json.Marshal(doc)
			if err != nil {
				return err
			}
			return r.RefusesBody(wire.LengthHeader(len(body)), body)
		}},
	}
}

// broken is a check that sends the binary form with something wrong about its lengths.
func broken(name, about string, change func(head, tail []byte) ([]byte, int)) suite.Check {
	return suite.Check{Group: "binary", Name: name, Needs: binaryExtension, Scope: suite.First, About: about + " is refused", Run: func(r *suite.Run) error {
		c := r.BinaryCall()
		whole, length, err := c.Encode()
		if err != nil {
			return err
		}
		if length < 0 || len(whole) == length {
			return suite.Skip("the model's request has no bytes")
		}
		body, length := change(bytes.Clone(whole[:length]), whole[length:])
		return r.RefusesBody(wire.LengthHeader(length), body)
	}}
}

func compressionChecks() []suite.Check {
	packed := func(encoding string, pack func([]byte) []byte) func(*suite.Run) error {
		return func(r *suite.Run) error {
			c := r.Carried()
			body, length, err := c.Encode()
			if err != nil {
				return err
			}
			header := wire.LengthHeader(length)
			header.Set("Content-Encoding", encoding)
			got, err := r.Do(http.MethodPost, suite.Path(r.Model.Name, "", "/infer"), header, pack(body))
			if err != nil {
				return err
			}
			if got.Status == http.StatusUnsupportedMediaType {
				return suite.Skip("the server says that it does not take bodies in %s", encoding)
			}
			a, err := got.Answer()
			if err != nil {
				return err
			}
			return r.Matches(a)
		}
	}
	return []suite.Check{
		{Group: "compression", Name: "gzip-in", Scope: suite.First, About: "a body packed with gzip", Run: packed("gzip", zip)},
		{Group: "compression", Name: "deflate-in", Scope: suite.First, About: "a body packed with deflate, which means zlib", Run: packed("deflate", func(b []byte) []byte {
			var out bytes.Buffer
			z := zlib.NewWriter(&out)
			_, _ = z.Write(b) // a buffer takes everything
			_ = z.Close()
			return out.Bytes()
		})},
		{Group: "compression", Name: "out", Scope: suite.Each, About: "an answer that is packed when the client takes gzip unpacks to the same", Run: packedAnswer},
		{Group: "compression", Name: "broken-gzip", Scope: suite.First, About: "a body that is no gzip though it says so is refused", Run: func(r *suite.Run) error {
			return r.RefusesBody(http.Header{"Content-Encoding": {"gzip"}}, []byte("this is no gzip"))
		}},
		{Group: "compression", Name: "unknown", Scope: suite.First, About: "an encoding that nobody knows is refused", Run: func(r *suite.Run) error {
			return r.RefusesBody(http.Header{"Content-Encoding": {"conformance"}}, []byte("{}"))
		}},
	}
}

func zip(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write(b) // a buffer takes everything
	_ = z.Close()
	return out.Bytes()
}

func packedAnswer(r *suite.Run) error {
	c := r.Carried()
	body, length, err := c.Encode()
	if err != nil {
		return err
	}
	header := wire.LengthHeader(length)
	header.Set("Accept-Encoding", "gzip")
	got, err := r.Do(http.MethodPost, suite.Path(r.Model.Name, "", "/infer"), header, body)
	if err != nil {
		return err
	}
	if got.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(bytes.NewReader(got.Body))
		if err != nil {
			return fmt.Errorf("the answer says gzip and is none: %v", err)
		}
		if got.Body, err = io.ReadAll(io.LimitReader(z, wire.MaxAnswer)); err != nil {
			return fmt.Errorf("the answer's gzip is broken: %v", err)
		}
	} else if e := got.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return fmt.Errorf("the answer's encoding is %q, gzip was asked for", e)
	}
	a, err := got.Answer()
	if err != nil {
		return err
	}
	return r.Matches(a)
}
