package tabular

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/csv"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/guest/kittest"
	"github.com/dhowfleet/dhow/wasm/host"
)

func step(t testing.TB) []byte {
	t.Helper()
	return kittest.Build(t, "../../guest/rust/build", ".")
}

func compile(t testing.TB, configuration string, features ...string) *host.Module {
	t.Helper()
	return kittest.Compile(t, step(t), host.Options{
		Name: "tabular.wasm", Configuration: []byte(configuration), Counters: []string{"rows", "missing", "unknown"},
		Features: append([]string{"missing_share", "unknown_share"}, features...),
	})
}

// sink keeps what a guest emitted.
type sink struct{ got []string }

func (s *sink) Feature(name string, v float64) {
	s.got = append(s.got, name+"="+strconv.FormatFloat(v, 'g', -1, 64))
}
func (s *sink) Count(name string, n uint64) { s.got = append(s.got, fmt.Sprint(name, "+", n)) }

// hold asks the step and the reference, and says where they differ.
func hold(m *host.Module, r *reference, in []tensor.Tensor) error {
	want, wantErr := r.encode(in)
	s := &sink{}
	out, err := m.Process(context.Background(), in, s)
	if wantErr != nil {
		var guestErr *host.GuestError
		if !errors.As(err, &guestErr) || !guestErr.Input || !strings.HasPrefix(guestErr.Message, `column "`) {
			return fmt.Errorf("want a refusal, got %v, %v", out, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if len(out) != 1 || out[0].Name != r.output || out[0].Datatype != r.datatype || !bytes.Equal(out[0].Data, want.data) {
		return fmt.Errorf("got %v, want %x", out, want.data)
	}
	rows := in[0].Shape[0]
	emitted := append(want.drift, fmt.Sprint("rows+", rows), fmt.Sprint("missing+", want.missing), fmt.Sprint("unknown+", want.unknown),
		"missing_share="+strconv.FormatFloat(float64(want.missing)/float64(rows*int64(len(r.columns))), 'g', -1, 64))
	if want.categories > 0 {
		emitted = append(emitted, "unknown_share="+strconv.FormatFloat(float64(want.unknown)/float64(want.categories), 'g', -1, 64))
	}
	if fmt.Sprint(s.got) != fmt.Sprint(emitted) {
		return fmt.Errorf("emitted %v, want %v", s.got, emitted)
	}
	return nil
}

func read(t testing.TB, elements ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// credit is the sample of real applications, each column as texts. Some values are missing in it.
func credit(t testing.TB) []tensor.Tensor {
	t.Helper()
	records, err := csv.NewReader(strings.NewReader(read(t, "testdata", "credit.csv"))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var in []tensor.Tensor
	for i, name := range records[0] {
		var texts []string
		for _, record := range records[1:] {
			texts = append(texts, record[i])
		}
		in = append(in, tensor.FromStrings(name, texts...))
	}
	return in
}

// TestRealRows: applications for credit, in which incomes, assets and jobs are missing.
func TestRealRows(t *testing.T) {
	configuration := read(t, "testdata", "credit.txt")
	m, r := compile(t, configuration, "Income", "Amount"), newReference(configuration)
	in := credit(t)
	if err := hold(m, r, in); err != nil {
		t.Fatal(err)
	}
	out, err := m.Process(context.Background(), in, nil)
	if err != nil {
		t.Fatal(err)
	}
	// By hand: the first application, of 9 years' seniority, in a rented home.
	n, width := int(out[0].Shape[0]), int(out[0].Shape[1])
	first := out[0].Float32s()[:width]
	if n != 297 || math.Abs(float64(first[0])-(9-7.98675)/8.17339) > 1e-6 {
		t.Errorf("%d rows, the first is %v", n, first)
	}
	// What was learnt from the whole table standardises a sample of it.
	sum, squares := 0.0, 0.0
	for row := range n {
		x := float64(out[0].Float32s()[row*width])
		sum, squares = sum+x, squares+x*x
	}
	if mean, variance := sum/float64(n), squares/float64(n); math.Abs(mean) > .2 || math.Abs(variance-1) > .3 {
		t.Errorf("the sample's seniority has mean %v and variance %v", mean, variance)
	}
}

// TestAnotherMakersEncoding: the texts of motor insurance become the very numbers on which its models were trained.
func TestAnotherMakersEncoding(t *testing.T) {
	path := filepath.Join("..", "..", "..", ".cache", "models", "leaves", "genlin_fmtp_poisson_Frequency_features.tsv")
	if _, err := os.Stat(path); err != nil {
		t.Skip("the table is not there; test/models/fetch gets it")
	}
	columns := strings.Fields("VehBrand VehPower VehGas Region Area VehAge DrivAge BonusMalus Density")
	texts := map[string][]string{
		"VehBrand": strings.Fields("B1 B10 B11 B12 B13 B14 B2 B3 B4 B5 B6"),
		"VehGas":   strings.Fields("Diesel Regular"),
		"Region":   strings.Fields("R11 R21 R22 R23 R24 R25 R26 R31 R41 R42 R43 R52 R53 R54 R72 R73 R74 R82 R83 R91 R93 R94"),
		"Area":     strings.Fields("A B C D E F"),
	}
	configuration := "output x INT64\n"
	for _, c := range columns {
		if texts[c] == nil {
			configuration += "number " + c + "\n"
		} else {
			configuration += "category " + c + " index\n= " + strings.Join(texts[c], "\n= ") + "\n"
		}
	}
	var want []byte
	cells := make([][]string, len(columns))
	rows := 0
	for line := range strings.Lines(read(t, path)) {
		for i, field := range strings.Fields(line) {
			x, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			want = binary.LittleEndian.AppendUint64(want, uint64(x))
			if names := texts[columns[i]]; names != nil {
				field = names[x]
			}
			cells[i] = append(cells[i], field)
		}
		rows++
	}
	var in []tensor.Tensor
	for i, c := range columns {
		x := tensor.FromStrings(c, cells[i]...)
		x.Shape = []int64{int64(rows), 1}
		in = append(in, x)
	}
	out, err := compile(t, configuration).Process(context.Background(), in, nil)
	if err != nil || len(out) != 1 || !bytes.Equal(out[0].Data, want) || rows < 900 {
		t.Errorf("%d rows: %v", rows, err)
	}
}

// Tables of two configurations, whose cells are drawn to be right, odd and wrong.
func TestDrawnTables(t *testing.T) {
	for _, configuration := range []string{
		"output f FP32\nmissing NA\nmissing ?\nnumber a missing=2.5 mean=1.25 std=3 flag drift\nnumber b\ncategory c one-hot flag drift\n= x\n= y z\n= 7\ncategory d index unknown=9 missing=-1 drift\n= 7\n= -3\n= x\n",
		"output i INT64\nnumber a missing=-7 flag\nnumber b drift\ncategory c index flag\n= x\n= NA\ncategory d index\n= x\n= 1000000\n",
	} {
		m, r := compile(t, configuration, "a", "b", "c", "d"), newReference(configuration)
		refused, accepted := 0, 0
		rapid.Check(t, func(t *rapid.T) {
			rows := rapid.IntRange(1, 5).Draw(t, "rows")
			wrong := rapid.IntRange(0, 3).Draw(t, "wrong") == 0
			var in []tensor.Tensor
			for _, name := range []string{"d", "b", "ignored", "a", "c"} {
				in = append(in, draw(t, name, rows, wrong))
			}
			if err := hold(m, r, in); err != nil {
				t.Fatalf("%v: %v", in, err)
			}
			if _, err := r.encode(in); err != nil {
				refused++
			} else {
				accepted++
			}
		})
		if refused == 0 || accepted == 0 {
			t.Errorf("%d tables were accepted and %d refused: one kind is not tested", accepted, refused)
		}
	}
}

func draw(t *rapid.T, name string, rows int, wrong bool) tensor.Tensor {
	texts := []string{"1", " 2", "-3", "7", "1000000", "+4 "}
	numbers := []float64{0, 1, 7, -3, 1e6}
	if name == "c" || name == "d" {
		texts = []string{"x", "y z", "7", "NA", "", "unheard of", "X", "\xff", "x "}
	}
	if name == "a" {
		texts, numbers = append(texts, "", "NA"), append(numbers, math.NaN())
	}
	if wrong {
		texts = append(texts, "", "NA", "1e3", ".5", "1e400", "inf", "nan", "0x10", "1_000", "1e", "--1", "9007199254740993", "é", "1 2")
		numbers = append(numbers, math.NaN(), math.Inf(1), math.Inf(-1), .1, 1e300, 1<<53+2, -0.)
	}
	d := rapid.SampledFrom([]tensor.Datatype{tensor.Bytes, tensor.Bytes, tensor.FP64, tensor.FP32, tensor.Int64, tensor.Int16, tensor.Uint8}).Draw(t, "datatype")
	out := tensor.Tensor{Name: name, Datatype: d, Shape: []int64{int64(rows)}}
	if rapid.Bool().Draw(t, "a column vector") {
		out.Shape = append(out.Shape, 1)
	}
	for range rows {
		x := rapid.SampledFrom(numbers).Draw(t, "number")
		switch d {
		case tensor.Bytes:
			out.Data = tensor.AppendBytes(out.Data, []byte(rapid.SampledFrom(texts).Draw(t, "text")))
		case tensor.FP64:
			out.Data = binary.LittleEndian.AppendUint64(out.Data, math.Float64bits(x))
		case tensor.FP32:
			out.Data = binary.LittleEndian.AppendUint32(out.Data, math.Float32bits(float32(x)))
		case tensor.Int64:
			out.Data = binary.LittleEndian.AppendUint64(out.Data, uint64(rapid.Int64Range(-10, 10).Draw(t, "integer")))
		case tensor.Int16:
			out.Data = binary.LittleEndian.AppendUint16(out.Data, uint16(rapid.Int16().Draw(t, "integer")))
		default:
			out.Data = append(out.Data, rapid.Byte().Draw(t, "integer"))
		}
	}
	return out
}

func TestTablesThatDoNotFit(t *testing.T) {
	m := compile(t, "output x FP32\nnumber a\ncategory b index\n= v\n")
	good := []tensor.Tensor{tensor.FromStrings("a", "1", "2"), tensor.FromStrings("b", "v", "v")}
	square := tensor.FromStrings("b", "v", "v", "v", "v")
	square.Shape = []int64{2, 2}
	for what, c := range map[string]struct {
		in   []tensor.Tensor
		text string
	}{
		"no column":     {good[:1], `column "b" is missing`},
		"fewer rows":    {[]tensor.Tensor{good[0], tensor.FromStrings("b", "v")}, `column "b" has 1 rows, those before it 2`},
		"a matrix":      {[]tensor.Tensor{good[0], square}, `column "b" is BYTES [2,2], [n] or [n,1] is wanted`},
		"no rows":       {[]tensor.Tensor{tensor.FromStrings("a"), tensor.FromStrings("b")}, "the table has 0 rows, 1 to 65536 are allowed"},
		"too many rows": {[]tensor.Tensor{{Name: "a", Datatype: tensor.Uint8, Shape: []int64{65537}, Data: make([]byte, 65537)}, good[1]}, "the table has 65537 rows"},
		"no number":     {[]tensor.Tensor{tensor.FromStrings("a", "1", "two"), good[1]}, `column "a", row 1: "two" is no number`},
		"missing":       {[]tensor.Tensor{tensor.FromStrings("a", "1", ""), good[1]}, `column "a", row 1: a value is missing`},
	} {
		var guestErr *host.GuestError
		if _, err := m.Process(context.Background(), c.in, nil); !errors.As(err, &guestErr) || !guestErr.Input || !strings.HasPrefix(guestErr.Message, c.text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if out, err := m.Process(context.Background(), good, nil); err != nil || fmt.Sprint(out[0].Float32s()) != "[1 0 2 0]" {
		t.Errorf("%v, %v", out, err)
	}
}

func TestAConfigurationThatIsWrongIsRefused(t *testing.T) {
	r, err := host.NewRuntime(context.Background(), host.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, configuration := range []string{"", "output x FP32\nnumber a\nnumber a\n", "\xff"} {
		m, err := r.Compile(context.Background(), step(t), host.Options{Configuration: []byte(configuration)})
		if !errors.Is(err, host.ErrTrap) || !strings.Contains(err.Error(), "refuses its configuration: ") {
			t.Errorf("%q: %v", configuration, err)
		}
		if err == nil {
			_ = m.Close()
		}
	}
}

// TestDamagedRequests: what is cut off is never taken for a table.
func TestDamagedRequests(t *testing.T) {
	b := kittest.NewBare(t, step(t), []byte("output x FP32\nnumber a\ncategory b index\n= v\n"))
	list, err := abi.Encode([]tensor.Tensor{tensor.FromStrings("a", "1", "2"), tensor.FromStrings("b", "v", "w")})
	if err != nil {
		t.Fatal(err)
	}
	for n := range list {
		if item, err := b.Answer(abi.ExportProcess, list[:n]); err != nil || item.Status != abi.StatusGuestError {
			t.Fatalf("the first %d bytes: %+v, %v", n, item, err)
		}
	}
	if item, err := b.Answer(abi.ExportProcess, list); err != nil || item.Status != abi.StatusTensors {
		t.Errorf("%+v, %v", item, err)
	}
}

// BenchmarkRealRows is the step and the reference on 297 rows.
func BenchmarkRealRows(b *testing.B) {
	configuration := read(b, "testdata", "credit.txt")
	in := credit(b)
	b.Run("wasm", func(b *testing.B) {
		m := compile(b, configuration)
		for b.Loop() {
			if _, err := m.Process(context.Background(), in, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("go", func(b *testing.B) {
		r := newReference(configuration)
		for b.Loop() {
			if _, err := r.encode(in); err != nil {
				b.Fatal(err)
			}
		}
	})
}
