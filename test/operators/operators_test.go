package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// TestEveryOperator runs all operator tests through the serving path. What ONNX Runtime does not support changes with its
// version; that nothing fails, and that most pass, does not.
func TestEveryOperator(t *testing.T) {
	dir := filepath.Join("..", "..", ".cache", "operators")
	if _, err := os.Stat(filepath.Join(dir, "node")); err != nil {
		t.Skip("the operator tests are not there; test/operators/fetch gets them")
	}
	results, err := runAll(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range failures(results) {
		t.Error(f)
	}
	c := count(results, "")
	t.Logf("%+v", c)
	if c.all < 1000 || c.passed < 960 || c.differs > len(otherwise) {
		t.Errorf("%d tests, %d passed, %d computed otherwise", c.all, c.passed, c.differs)
	}
	for _, r := range results {
		if r.class == unsupported && strings.Contains(r.sentence, dir) {
			t.Errorf("%s: the sentence names a path: %s", r.name, r.sentence)
		}
	}
}

func f32(name string, values ...float64) wire.Value {
	v := wire.Fill(name, "FP32", []int64{int64(len(values))}, false)
	for i, x := range values {
		bits := math.Float32bits(float32(x))
		v.Raw[4*i], v.Raw[4*i+1], v.Raw[4*i+2], v.Raw[4*i+3] = byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24)
	}
	return v
}

func answer(values ...wire.Value) *wire.Answer { return &wire.Answer{Outputs: values} }

// TestWrongAnswersFail: a table of passed tests says something only if a wrong answer would be in it.
func TestWrongAnswersFail(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		name string
		got  *wire.Answer
		want []wire.Value
		same bool
	}{
		{"equal", answer(f32("y", 1, 2)), []wire.Value{f32("y", 1, 2)}, true},
		{"within", answer(f32("y", 1000.9)), []wire.Value{f32("y", 1000)}, true},
		{"nan", answer(f32("y", nan)), []wire.Value{f32("y", nan)}, true},
		{"infinity", answer(f32("y", math.Inf(1))), []wire.Value{f32("y", math.Inf(1))}, true},
		{"beyond", answer(f32("y", 1001.1)), []wire.Value{f32("y", 1000)}, false},
		{"near zero", answer(f32("y", 2e-7)), []wire.Value{f32("y", 0)}, false},
		{"nan for a number", answer(f32("y", nan)), []wire.Value{f32("y", 1)}, false},
		{"number for nan", answer(f32("y", 1)), []wire.Value{f32("y", nan)}, false},
		{"other infinity", answer(f32("y", math.Inf(-1))), []wire.Value{f32("y", math.Inf(1))}, false},
		{"name", answer(f32("z", 1)), []wire.Value{f32("y", 1)}, false},
		{"missing", answer(), []wire.Value{f32("y", 1)}, false},
		{"more", answer(f32("y", 1), f32("z", 1)), []wire.Value{f32("y", 1)}, false},
		{"shape", answer(f32("y", 1, 2)), []wire.Value{f32("y", 1)}, false},
		{"integers are exact", answer(wire.Fill("y", "INT32", []int64{1}, true)), []wire.Value{wire.Fill("y", "INT32", []int64{1}, false)}, false},
		{"texts are exact", answer(wire.Fill("y", "BYTES", []int64{1}, true)), []wire.Value{wire.Fill("y", "BYTES", []int64{1}, false)}, false},
		{"datatype", answer(wire.Fill("y", "INT32", []int64{1}, true)), []wire.Value{wire.Fill("y", "UINT32", []int64{1}, true)}, false},
	} {
		if err := compare(c.got, c.want, false); (err == nil) != c.same {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if compare(answer(f32("y", 1, 2)), []wire.Value{f32("y", 3, 4)}, true) != nil {
		t.Error("values of random operators were compared")
	}
}

// TestJudging: a difference is laid at ONNX Runtime's door only when it is known, the same in every way, and its own.
func TestJudging(t *testing.T) {
	right, wrong, other := answer(f32("y", 1)), answer(f32("y", 2)), answer(f32("y", 3))
	want := []wire.Value{f32("y", 1)}
	for _, c := range []struct {
		name    string
		test    string
		answers [4]*wire.Answer
		alone   *wire.Answer
		failed  int
		differs bool
	}{
		{"right", "test_dft", [4]*wire.Answer{right, right, right, right}, right, 0, false},
		{"one way wrong", "test_dft", [4]*wire.Answer{right, wrong, right, right}, wrong, 1, false},
		{"known", "test_dft", [4]*wire.Answer{wrong, nil, wrong, nil}, wrong, 0, true},
		{"known, but not the runtime's", "test_dft", [4]*wire.Answer{wrong, wrong, wrong, wrong}, right, 4, false},
		{"known, but not alike", "test_dft", [4]*wire.Answer{wrong, other, wrong, wrong}, wrong, 4, false},
		{"not known", "test_abs", [4]*wire.Answer{wrong, wrong, wrong, wrong}, wrong, 4, false},
	} {
		res := result{test: test{name: c.test}, class: served}
		res.judge(c.answers, want, func() (*wire.Answer, error) { return c.alone, nil })
		failed := 0
		for _, w := range res.ways {
			if w.failed != "" {
				failed++
			}
		}
		if failed != c.failed || (res.differs != "") != c.differs || res.failedAny() != (c.failed > 0) {
			t.Errorf("%s: %+v", c.name, res)
		}
	}
}
