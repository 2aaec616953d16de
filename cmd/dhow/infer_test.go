package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/openinference"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/models/tensor"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/wasm/host"
)

// classifier says what it was sent, or that it is no photo.
type classifier struct {
	in []tensor.Spec
}

func (c *classifier) Infer(_ context.Context, in []tensor.Tensor, _ []string, _ host.Sink) ([]tensor.Tensor, error) {
	elements, err := tensor.SplitBytes(in[0].Data)
	if err != nil || len(elements) != 1 {
		return nil, fmt.Errorf("%d elements, %w", len(elements), err)
	}
	if string(elements[0]) == "text" {
		return nil, &host.GuestError{Input: true, Message: "this is no photo"}
	}
	return []tensor.Tensor{
		tensor.FromStrings("label", string(elements[0]), "Bag", "Coat"),
		tensor.FromFloat32("score", []int64{1, 3}, []float32{.93712345, .25, 3}),
	}, nil
}
func (c *classifier) Inputs() []tensor.Spec { return c.in }
func (c *classifier) Outputs() []tensor.Spec {
	return []tensor.Spec{{Name: "label", Datatype: tensor.Bytes, Shape: []int64{3}}, {Name: "score", Datatype: tensor.FP32, Shape: []int64{1, 3}}}
}
func (c *classifier) Close() error { return nil }

func TestInferAsksARealAgentsEndpoint(t *testing.T) {
	photo := tensor.Spec{Name: "photo", Datatype: tensor.Bytes, Shape: []int64{1}}
	table := serving.NewTable(serving.Options{})
	set := func(model string, in ...tensor.Spec) {
		table.Set(model, []serving.Variant{{Version: "7", Role: uint8(syncv1.Role_ROLE_BASELINE), ShareMillionths: 1_000_000, Runner: &classifier{in}}})
	}
	set("fashion", photo)
	set("matrix", tensor.Spec{Name: "x", Datatype: tensor.FP32, Shape: []int64{-1, 4}})
	set("pair", photo, tensor.Spec{Name: "mask", Datatype: tensor.Bytes, Shape: []int64{1}})
	set("nested", tensor.Spec{Name: "photo", Datatype: tensor.Bytes, Shape: []int64{-1, 1}})
	server := httptest.NewServer(openinference.New(table, openinference.Options{}))
	defer server.Close()

	c := &cli{t: t, dir: t.TempDir(), env: map[string]string{}}
	shoe, bag, text := c.file("a", "Shoe"), c.file("b", "Handbag"), c.file("c", "text")
	out := c.ok("infer", "--url", server.URL+"/", "--model", "fashion", shoe, bag)
	lines := strings.Split(out, "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "FILE ") || !strings.HasSuffix(lines[0], "LABEL                SCORE") ||
		!strings.HasPrefix(lines[1], shoe+"   7         ") || !strings.HasSuffix(lines[1], "Shoe, Bag, Coat      0.9371, 0.25, 3") || !strings.HasSuffix(lines[2], "Handbag, Bag, Coat   0.9371, 0.25, 3") {
		t.Errorf("printed\n%s", out)
	}
	var answers []answer
	if err := json.Unmarshal([]byte(c.ok("infer", "--url", server.URL, "--model", "nested", "-o", "json", shoe)), &answers); err != nil || len(answers) != 1 || answers[0].File != shoe || answers[0].Version != "7" || len(answers[0].Outputs) != 2 {
		t.Errorf("%+v, %v", answers, err)
	}
	// One bad file spoils neither the others nor the exit code's meaning.
	out, errs, code := c.exec(t.Context(), "", "infer", "--url", server.URL, "--model", "fashion", text, shoe, c.dir+"/none")
	if code != exitFailed || !strings.Contains(out, "Shoe, Bag") || !strings.Contains(errs, text+": ") || !strings.Contains(errs, "this is no photo") || !strings.Contains(errs, "no such file") || !strings.Contains(errs, "2 of 3 files had no answer") {
		t.Errorf("exit %d\n%s%s", code, out, errs)
	}
	at := []string{"infer", "--url", server.URL}
	c.fails(exitFailed, "the model matrix takes x (FP32 [-1 4]), and not the bytes of a file", append(at, "--model", "matrix", shoe)...)
	c.fails(exitFailed, "other", append(at, "--model", "other", shoe)...)
	c.fails(exitFailed, "9", append(at, "--model", "fashion", "--version", "9", shoe)...)
	c.fails(exitUsage, "choose one with --input: photo (BYTES [1]), mask (BYTES [1])", append(at, "--model", "pair", shoe)...)
	c.fails(exitUsage, `has no input "image": it takes photo`, append(at, "--model", "fashion", "--input", "image", shoe)...)
	c.fails(exitUsage, "needs --model", append(at, shoe)...)
	c.fails(exitUsage, "FILE is missing", append(at, "--model", "fashion")...)
	c.fails(exitUsage, "is no address such as", "infer", "--url", "127.0.0.1:8000", "--model", "fashion", shoe)
	server.Close()
	c.fails(exitFailed, "is the agent running there?", append(at, "--model", "fashion", shoe)...)
}

func TestValuesAreShortAndHarmless(t *testing.T) {
	for data, want := range map[string]string{
		`[1,2,3,4,5,6,7]`:        "1, 2, 3, 4, 5, ...",
		`[[0.123456],[1e10]]`:    "0.1235, 1e+10",
		`[true,"a"]`:             "true, a",
		`[]`:                     "",
		`[12345678901234567890]`: "1.235e+19",
		`broken`:                 "",
	} {
		if got := values(answerOutput{Data: json.RawMessage(data)}); got != want {
			t.Errorf("values of %s are %q, want %q", data, got, want)
		}
	}
	if got := printable("a\x1b[2Jb\u202ec\n"); got != "a?[2Jb?c?" {
		t.Errorf("printable: %q", got)
	}
}
