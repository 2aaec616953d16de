package models

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// rows reads numbers that stand in lines.
func rows(t *testing.T, elements ...string) [][]float64 {
	t.Helper()
	var out [][]float64
	for _, line := range bytes.Split(bytes.TrimSpace(read(t, fetched(t, elements...))), []byte("\n")) {
		var row []float64
		for _, field := range strings.Fields(string(line)) {
			f, err := strconv.ParseFloat(field, 64)
			if err != nil {
				t.Fatal(err)
			}
			row = append(row, f)
		}
		out = append(out, row)
	}
	return out
}

func flat32(table [][]float64) []float32 {
	var out []float32
	for _, row := range table {
		for _, f := range row {
			out = append(out, float32(f))
		}
	}
	return out
}

// near holds predictions against the reference, which was computed in double precision.
func near(t *testing.T, got []float64, want [][]float64, tolerance float64) {
	t.Helper()
	n := 0
	for _, row := range want {
		for _, w := range row {
			if n >= len(got) {
				t.Fatalf("%d predictions came, there are more references", len(got))
			}
			if math.Abs(got[n]-w) > tolerance*math.Max(1, math.Abs(w)) {
				t.Fatalf("prediction %d is %v, the reference says %v", n, got[n], w)
			}
			n++
		}
	}
	if n != len(got) {
		t.Errorf("%d predictions came, there are %d references", len(got), n)
	}
}

// motors are the two models of motor insurance with how far an answer may be from the reference: one predicts shares, the
// other amounts.
var motors = []struct {
	name      string
	tolerance float64
}{{"poisson_Frequency", 1e-5}, {"gamma_AvgClaimAmount", 1e-4}}

func TestTreesOfIntegers(t *testing.T) {
	for _, m := range motors {
		t.Run(m.name, func(t *testing.T) { integers(t, m.name, m.tolerance) })
	}
}

func integers(t *testing.T, name string, tolerance float64) {
	features := rows(t, "leaves", "genlin_fmtp_"+name+"_features.tsv")
	c := start(t)
	c.load(t, "motor", "testdata/motor_"+name+"_int64.onnx")
	var x []int64
	for _, row := range features {
		for _, f := range row {
			x = append(x, int64(f))
		}
	}
	a := c.ask(t, "motor", i64("x", []int64{int64(len(features)), 9}, x...))
	near(t, numbers(t, a, "prediction"), rows(t, "leaves", "genlin_fmtp_"+name+"_true_predictions.txt"), tolerance)
}

// The texts that the reference's features are the numbers of.
var (
	brands  = []string{"B1", "B10", "B11", "B12", "B13", "B14", "B2", "B3", "B4", "B5", "B6"}
	fuels   = []string{"Diesel", "Regular"}
	areas   = []string{"A", "B", "C", "D", "E", "F"}
	regions = strings.Fields("R11 R21 R22 R23 R24 R25 R26 R31 R41 R42 R43 R52 R53 R54 R72 R73 R74 R82 R83 R91 R93 R94")
)

// TestTreesOfTextsAndIntegers: nine inputs, four of texts.
func TestTreesOfTextsAndIntegers(t *testing.T) {
	for _, m := range motors {
		t.Run(m.name, func(t *testing.T) { mixed(t, m.name, m.tolerance) })
	}
}

func mixed(t *testing.T, name string, tolerance float64) {
	features := rows(t, "leaves", "genlin_fmtp_"+name+"_features.tsv")
	c := start(t)
	c.load(t, "motor", "testdata/motor_"+name+"_mixed.onnx")
	shape := []int64{int64(len(features)), 1}
	var inputs []wire.Value
	for column, in := range []struct {
		name  string
		texts []string
	}{{"VehBrand", brands}, {"VehPower", nil}, {"VehGas", fuels}, {"Region", regions}, {"Area", areas}, {"VehAge", nil}, {"DrivAge", nil}, {"BonusMalus", nil}, {"Density", nil}} {
		var words []string
		var values []int64
		for _, row := range features {
			values = append(values, int64(row[column]))
			if in.texts != nil {
				words = append(words, in.texts[int(row[column])])
			}
		}
		if in.texts != nil {
			inputs = append(inputs, texts(in.name, shape, words...))
		} else {
			inputs = append(inputs, i64(in.name, shape, values...))
		}
	}
	near(t, numbers(t, c.ask(t, "motor", inputs...), "prediction"), rows(t, "leaves", "genlin_fmtp_"+name+"_true_predictions.txt"), tolerance)
}

// TestTreesWithTextLabels: the label is a text, the probabilities are the reference's.
func TestTreesWithTextLabels(t *testing.T) {
	features, want := rows(t, "leaves", "breast_cancer_test.tsv"), rows(t, "leaves", "lg_dart_breast_cancer_true_predictions.txt")
	c := start(t)
	c.load(t, "lgb", "testdata/lgb_dart_breast_cancer.onnx")
	a := c.ask(t, "lgb", f32("x", []int64{int64(len(features)), 30}, flat32(features)))
	var second []float64
	for i, p := range numbers(t, a, "probabilities") {
		if i%2 == 1 {
			second = append(second, p)
		}
	}
	near(t, second, want, 1e-5)
	names := map[bool]string{}
	if err := a.Find("label").Each(func(i int64, e []byte) {
		likely := second[i] > 0.5
		if names[likely] == "" {
			names[likely] = string(e)
		}
		if names[likely] != string(e) {
			t.Errorf("row %d: label %q for the probability %v", i, e, second[i])
		}
	}); err != nil {
		t.Fatal(err)
	}
	if names[true] == names[false] || names[true] == "" || names[false] == "" {
		t.Errorf("labels are %v", names)
	}
}

func TestTreesOfFiveClasses(t *testing.T) {
	table, want := rows(t, "leaves", "multiclass_test.tsv"), rows(t, "leaves", "lgmulticlass_true_predictions.txt")
	var features [][]float64
	for _, row := range table {
		features = append(features, row[1:]) // the first column is the class
	}
	c := start(t)
	c.load(t, "lgb", "testdata/lgb_multiclass5.onnx")
	a := c.ask(t, "lgb", f32("x", []int64{int64(len(features)), 28}, flat32(features)))
	// Features have three decimals, and so have some trees' thresholds: rounded to 32 bits, a few rows go the other way in
	// one of the trees.
	probabilities, labels, other := numbers(t, a, "probabilities"), numbers(t, a, "label"), 0
	for i := range want {
		row, apart := probabilities[5*i:5*i+5], 0.0
		for j, p := range row {
			apart = math.Max(apart, math.Abs(p-want[i][j]))
		}
		switch {
		case apart > 0.02:
			t.Errorf("row %d is %v, the reference says %v", i, row, want[i])
		case apart > 1e-5:
			other++
		}
		if int(labels[i]) != highest(row) {
			t.Errorf("row %d has the label %v, its likeliest class is %d", i, labels[i], highest(row))
		}
	}
	t.Logf("%d of %d rows go another way somewhere", other, len(want))
	if other > len(want)/20 {
		t.Errorf("%d of %d rows differ from the reference", other, len(want))
	}
}
