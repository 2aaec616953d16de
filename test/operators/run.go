package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/models/graph"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/test/conformance/rpc"
	"github.com/dhowfleet/dhow/test/conformance/wire"
	"github.com/dhowfleet/dhow/test/inprocess"
	"github.com/dhowfleet/dhow/test/operators/tensorproto"
)

// class is how a test ended.
type class string

const (
	served      class = "served"      // loaded; the ways say the rest
	unsupported class = "unsupported" // ONNX Runtime does not load or compute it
	notTensor   class = "not tensors" // its inputs, or all of its outputs, are no tensors
	noType      class = "no type"     // an element type that the protocol does not have
	contrary    class = "contrary"    // the test's input does not fit the model's own declaration
	broken      class = "broken"      // the test itself, or our reading of the model, failed
)

// ways are how each test is asked.
var ways = []string{"REST binary", "REST JSON", "gRPC raw", "gRPC typed"}

// way is how one of them ended: passed when both are empty.
type way struct {
	cannot string // why the form cannot carry it
	failed string
}

// result of one test.
type result struct {
	test
	class    class
	sentence string // why it is not served; for unsupported, ONNX Runtime's own
	ways     [4]way
	random   bool
	// differs is set when every way gives the answer that ONNX Runtime gives without any protocol, it is not the expected
	// one, and otherwise says why: serving has no part in it.
	differs string
}

// runner asks the server.
type runner struct {
	server *inprocess.Server
	client *http.Client
	grpc   *rpc.Target
}

func (r *runner) run(ctx context.Context, t test) result {
	res := result{test: t, random: t.isRandom()}
	b, err := os.ReadFile(t.model())
	if err != nil {
		return res.end(broken, err.Error())
	}
	g, err := graph.Read(b)
	if err != nil {
		return res.end(broken, err.Error())
	}
	if not := notTensors("input", g.Inputs); len(not) > 0 {
		return res.end(notTensor, strings.Join(not, ", "))
	}
	if not := notTensors("output", g.Outputs); len(not) == len(g.Outputs) {
		return res.end(notTensor, strings.Join(not, ", "))
	}
	in, err := t.values("input", g.Inputs)
	if err == nil {
		if sentence := contradicts(in, g.Inputs); sentence != "" {
			return r.refused(ctx, res.end(contrary, sentence), in)
		}
		var want []wire.Value
		if want, err = t.values("output", g.Outputs); err == nil {
			return r.ask(ctx, res, in, want)
		}
	}
	if errors.Is(err, tensorproto.ErrType) {
		return res.end(noType, err.Error())
	}
	return res.end(broken, err.Error())
}

func (res result) end(c class, sentence string) result {
	res.class, res.sentence = c, sentence
	return res
}

// refused asks what contradicts the model; anything but a refusal is a failure.
func (r *runner) refused(ctx context.Context, res result, in []wire.Value) result {
	name := res.set + "/" + res.name
	if _, err := r.server.Load(ctx, name, res.model()); err != nil {
		return res.end(broken, err.Error())
	}
	defer func() { _ = r.server.Unload(ctx, name) }() // an error of closing shows in the next load
	if _, sentence := r.rest(ctx, name, wire.Call{Inputs: in, Binary: wire.All}); !strings.HasPrefix(sentence, "400 ") {
		return res.end(broken, "what contradicts the model was answered with: "+sentence)
	}
	return res
}

// ask loads the model and asks it in every way.
func (r *runner) ask(ctx context.Context, res result, in, want []wire.Value) result {
	name := res.set + "/" + res.name
	if _, err := r.server.Load(ctx, name, res.model()); err != nil {
		var refused *inference.LoadError
		if errors.As(err, &refused) {
			return res.end(unsupported, refused.Message)
		}
		return res.end(broken, err.Error())
	}
	defer func() { _ = r.server.Unload(ctx, name) }() // an error of closing shows in the next load
	res.class = served
	call := wire.Call{Inputs: in, Binary: wire.All, Parameters: map[string]any{"binary_data_output": true}}
	answers := [4]*wire.Answer{}
	var sentence string
	answers[0], sentence = r.rest(ctx, name, call)
	if answers[0] == nil && strings.HasPrefix(sentence, "500 ") {
		return res.end(unsupported, strings.TrimPrefix(sentence, "500 "))
	}
	res.ways[0].failed = sentence
	if res.ways[1].cannot = textual(in, want); res.ways[1].cannot == "" {
		answers[1], res.ways[1].failed = r.rest(ctx, name, wire.Call{Inputs: in, Nest: true})
	}
	answers[2], res.ways[2].failed = r.rpc(ctx, name, in, true)
	if res.ways[3].cannot = typeless(in); res.ways[3].cannot == "" {
		answers[3], res.ways[3].failed = r.rpc(ctx, name, in, false)
	}
	res.judge(answers, want, func() (*wire.Answer, error) { return direct(ctx, res.model(), in) })
	return res
}

// judge compares the answers with the expected one. Where none fits and it is known that ONNX Runtime computes otherwise,
// they must be what it computes without a protocol.
func (res *result) judge(answers [4]*wire.Answer, want []wire.Value, alone func() (*wire.Answer, error)) {
	differing, asked := 0, 0
	for i, a := range answers {
		if a == nil {
			continue
		}
		asked++
		if err := compare(a, want, res.random); err != nil {
			res.ways[i].failed = err.Error()
			differing++
		}
	}
	why := otherwise[res.name]
	if differing == 0 || differing < asked || why == "" {
		return
	}
	reference, err := alone()
	if err != nil {
		return
	}
	for _, a := range answers {
		if a != nil && a.Agrees(reference) != nil {
			return
		}
	}
	res.differs = why
	for i := range res.ways {
		res.ways[i].failed = ""
	}
}

// direct runs the model without a server.
func direct(ctx context.Context, path string, in []wire.Value) (*wire.Answer, error) {
	m, err := onnxruntime.New("").Load(ctx, path, inference.Options{})
	if err != nil {
		return nil, err
	}
	defer func() { _ = m.Close() }() // nothing is left to be lost
	var tensors []tensor.Tensor
	for i := range in {
		d, err := tensor.ParseDatatype(in[i].Datatype)
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, tensor.Tensor{Name: in[i].Name, Datatype: d, Shape: in[i].Shape, Data: in[i].Raw})
	}
	out, err := m.Run(ctx, tensors, nil)
	if err != nil {
		return nil, err
	}
	a := &wire.Answer{}
	for _, t := range out {
		a.Outputs = append(a.Outputs, wire.Value{Name: t.Name, Datatype: t.Datatype.String(), Shape: t.Shape, Raw: t.Data})
	}
	return a, nil
}

// contradicts says where a test's input is not what its model declares.
func contradicts(in []wire.Value, declared []graph.Value) string {
	for i := range in {
		for _, d := range declared {
			if d.Spec.Name != in[i].Name || !d.Ranked {
				continue
			}
			fits := len(d.Spec.Shape) == len(in[i].Shape)
			for j := 0; fits && j < len(d.Spec.Shape); j++ {
				fits = d.Spec.Shape[j] < 0 || d.Spec.Shape[j] == in[i].Shape[j]
			}
			if !fits {
				return fmt.Sprintf("input %s has the shape %v, the model declares %v", d.Spec.Name, in[i].Shape, d.Spec.Shape)
			}
		}
	}
	return ""
}

// textual says why JSON cannot carry the test.
func textual(in, want []wire.Value) string {
	for _, values := range [][]wire.Value{in, want} {
		for i := range values {
			if why := values[i].Textual(); why != "" {
				return why
			}
		}
	}
	return ""
}

func typeless(in []wire.Value) string {
	for i := range in {
		if d := in[i].Datatype; d == "FP16" || d == "BF16" {
			return fmt.Sprintf("%q is %s, which has no typed form", in[i].Name, d)
		}
	}
	return ""
}

// rest asks over REST and returns the answer, or what came instead with its status before it.
func (r *runner) rest(ctx context.Context, name string, c wire.Call) (*wire.Answer, string) {
	body, length, err := c.Encode()
	if err != nil {
		return nil, err.Error()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.server.URL+"/v2/models/"+url.PathEscape(name)+"/infer", bytes.NewReader(body))
	if err != nil {
		return nil, err.Error()
	}
	req.Header = wire.LengthHeader(length)
	res, err := r.client.Do(req)
	if err != nil {
		return nil, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, wire.MaxAnswer))
	if err != nil {
		return nil, err.Error()
	}
	if res.StatusCode != http.StatusOK {
		var doc struct{ Error string }
		if err := wire.Decode(b, &doc); err != nil {
			return nil, err.Error()
		}
		return nil, fmt.Sprintf("%d %s", res.StatusCode, doc.Error)
	}
	p := &wire.Reply{Status: res.StatusCode, Header: res.Header, Body: b}
	a, err := p.Answer()
	if err != nil {
		return nil, err.Error()
	}
	return a, ""
}

func (r *runner) rpc(ctx context.Context, name string, in []wire.Value, raw bool) (*wire.Answer, string) {
	a, err := r.grpc.Infer(ctx, name, in, raw)
	if err != nil {
		return nil, err.Error()
	}
	return a, ""
}
