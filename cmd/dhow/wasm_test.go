package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/inference/onnxtest"
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
	"github.com/dhowfleet/dhow/wasm/guest"
	"github.com/dhowfleet/dhow/wasm/host"
	"github.com/dhowfleet/dhow/wasm/metering"
	. "github.com/dhowfleet/dhow/wasm/wasmtest" //nolint:revive // instructions read as a listing
)

// TestMain is also the step built for this machine that dhow wasm bench --native starts.
func TestMain(m *testing.M) {
	if os.Getenv("DHOW_TEST_STEP") != "" {
		guest.Handle(func(in []tensor.Tensor) ([]tensor.Tensor, error) { return in, nil })
		guest.Serve()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// echoStep answers with the request, and reports it under two names, of which the second is often not declared.
func echoStep() *Guest {
	g := NewGuest(EmitFeature, EmitCount, Log)
	g.Data(1024, []byte("sizerequests"))
	g.Process.Body(
		I32Const(1024), I32Const(4), F64Const(2.5), Call(0),
		I32Const(1028), I32Const(8), I64Const(3), Call(1),
		I32Const(int32(abi.LevelWarn)), I32Const(1028), I32Const(8), Call(2),
		I32Const(AnswerAt), LocalGet(0), I32Store(4),
		I32Const(AnswerAt), LocalGet(1), I32Store(8),
		I32Const(AnswerAt),
	)
	return g
}

func offline(t *testing.T) *cli {
	t.Helper()
	return &cli{t: t, dir: t.TempDir(), env: map[string]string{}}
}

func TestWasmRunTakesInputsInEveryForm(t *testing.T) {
	c := offline(t)
	step := c.file("echo.wasm", string(echoStep().Bytes()))
	photo := c.file("shoe.png", "pixels")
	numbers := c.file("x.bin", string(tensor.FromFloat32("", []int64{2}, []float32{1, -2.5}).Data))
	request := c.file("request.json", `{"id": "7", "inputs": [{"name": "x", "datatype": "INT32", "shape": [2, 2], "data": [[1, 2], [3, 4]]},
		{"name": "y", "datatype": "BYTES", "shape": [1], "file": "shoe.png"}]}`)
	for want, args := range map[string][]string{
		"photo    BYTES      [1]     pixels\n":            {"--input", "photo=@" + photo},
		"x        FP32       [2]     1, -2.5\n":           {"--input", "x=FP32[2]@" + numbers},
		"x        FP32       [2,2]   1, 2, 3, 4\n":        {"--input", "x=FP32:[[1,2],[3,4]]"},
		"x        FP32       [4]     1, 2, 3, 4\n":        {"--input", "x=FP32[4]:[1,2,3,4]"},
		"x        INT64      []      7\n":                 {"--input", "x=INT64:7"},
		"x        BYTES      [2]     a, b=c\n":            {"-i", `x=BYTES:["a","b=c"]`},
		"y        BYTES      [1]     pixels\n":            {"--request", request},
		"x        INT32      [2,2]   1, 2, 3, 4\n":        {"--request", request},
		"b        BOOL       [2]     true, false\nfeatur": {"--input", "b=BOOL:[true,false]", "--features", "size"},
	} {
		contains(t, c.ok(append([]string{"wasm", "run", step}, args...)...), want)
	}
	out := c.ok("wasm", "run", step, "--input", "x=INT8:[1]", "--features", "size", "--counters", "requests")
	contains(t, out, "feature size: 2.5\ncounter requests: +3\nlog warn: requests\n")
	if took := regexp.MustCompile(`(?m)^took [1-9][0-9]* fuel, 64 KiB of memory and \d`); !took.MatchString(out) {
		t.Errorf("what it took is not in\n%s", out)
	}
	contains(t, c.ok("wasm", "run", step, "--input", "x=INT8:[1]"), "dropped: 2 emits of names that are not declared")

	var answer wasmAnswer
	out = c.ok("wasm", "run", step, "-o", "json", "--counters", "requests", "--input", "x=FP16[1]@"+c.file("half", "\x00\x3c"))
	if err := json.Unmarshal([]byte(out), &answer); err != nil || answer.Counters["requests"] != 3 || answer.Dropped != 1 ||
		answer.Usage.Fuel == 0 || len(answer.Outputs) != 1 || string(answer.Outputs[0].Data) != "null" || len(answer.Log) != 1 {
		t.Errorf("%v: %s", err, out)
	}
	// Fuel is the same on every run.
	var again wasmAnswer
	if err := json.Unmarshal([]byte(c.ok("wasm", "run", step, "-o", "json", "--input", "x=INT32:[1]")), &again); err != nil || again.Usage.Fuel != answer.Usage.Fuel {
		t.Errorf("%v: %d and %d fuel", err, answer.Usage.Fuel, again.Usage.Fuel)
	}

	at := []string{"wasm", "run", step}
	for want, args := range map[string][]string{
		"needs either --input or --request":      {},
		`"x" is not of the form NAME=@FILE`:      {"--input", "x"},
		"--memory:":                              {"--input", "x=INT8:1", "--memory", "much"},
		"chooses one of a bundle's modules":      {"--input", "x=INT8:1", "--module", "pre.wasm"},
		`--output "yaml" is not one of`:          {"--input", "x=INT8:1", "-o", "yaml"},
		"--deadline and --fuel cannot be negati": {"--input", "x=INT8:1", "--fuel", "-1"},
	} {
		c.fails(exitUsage, want, append(at, args...)...)
	}
	for want, args := range map[string][]string{
		"--input x: say its datatype":            {"--input", "x=[1,2]"},
		"--input x: say the shape":               {"--input", "x=FP32@" + numbers},
		"--input x: ":                            {"--input", "x=FP31:[1]"},
		"no such file":                           {"--input", "x=@" + c.dir + "/none"},
		"is no shape such as":                    {"--input", "x=FP32[1,,2]:[1,2]"},
		"is no request of the Open Inference":    {"--request", photo},
		`it has no "inputs"`:                     {"--request", c.file("empty.json", "{}")},
		`input "x": give either data or file`:    {"--request", c.file("bare.json", `{"inputs":[{"name":"x","datatype":"INT8","shape":[1]}]}`)},
		`input "x": path`:                        {"--request", c.file("up.json", `{"inputs":[{"name":"x","datatype":"INT8","shape":[1],"file":"../a"}]}`)},
		"more than fit into the 64 KiB of":       {"--memory", "64KiB", "--input", "x=INT8[100000]@" + c.file("large", strings.Repeat("x", 100_000))},
		"echo.wasm gave no answer: the guest ra": {"--input", "x=INT8:[1]", "--fuel", "10"},
	} {
		c.fails(exitFailed, want, append(at, args...)...)
	}
	c.fails(exitFailed, "cannot read the module", "wasm", "run", c.dir+"/none.wasm", "--input", "x=INT8:1")
	c.fails(exitFailed, "dhow wasm check says more", "wasm", "run", photo, "--input", "x=INT8:1")
}

func TestWasmRunSaysWhoseFaultItIs(t *testing.T) {
	c := offline(t)
	for status, want := range map[abi.Status]string{
		abi.StatusInputError: "it says that the request is at fault: no photo",
		abi.StatusGuestError: "it says that it failed: no photo",
	} {
		g := NewGuest()
		g.Payload, g.Area = []byte("no photo"), abi.ReturnArea{Status: status}
		c.fails(exitFailed, want, "wasm", "run", c.file("step.wasm", string(g.Bytes())), "--input", "x=INT8:[1]")
	}
	loops := c.file("loop.wasm", string(NewGuest().Answering(Forever()).Bytes()))
	c.fails(exitFailed, "past its time limit", "wasm", "run", loops, "--deadline", "20ms", "--input", "x=INT8:[1]")
}

// steady takes numbers and their units out of a report, since they differ from machine to machine and from one version
// of the rewriter to the next.
func steady(text string) string {
	text = regexp.MustCompile(`\b\d[\d,.]*( ?(ns|us|µs|ms|s|B|KiB|MiB)\b)?`).ReplaceAllString(text, "#")
	return regexp.MustCompile(` {2,}`).ReplaceAllString(text, "  ")
}

func TestWasmCheckReportsAndJudges(t *testing.T) {
	c := offline(t)
	step := c.file("echo.wasm", string(echoStep().Bytes()))
	sample := c.file("samples/small.json", `{"inputs": [{"name": "x", "datatype": "INT8", "shape": [3], "data": [1, 2, 3]}]}`)
	got := steady(c.ok("wasm", "check", step, "--samples", sample))
	want, err := os.ReadFile("testdata/wasm-check.txt")
	if os.Getenv("UPDATE") != "" {
		if err = os.WriteFile("testdata/wasm-check.txt", []byte(got), 0o600); err == nil {
			want = []byte(got)
		}
	}
	if err != nil || got != string(want) {
		t.Errorf("%v: it prints\n%s\nand should\n%s", err, got, want)
	}
	contains(t, c.ok("wasm", "check", step), "can serve as far as can be told: it compiles and starts; no sample was tried, give some with --samples")
	var reports []wasmReport
	if err := json.Unmarshal([]byte(c.ok("wasm", "check", "-o", "json", step, "--samples", filepath.Dir(sample))), &reports); err != nil ||
		len(reports) != 1 || !reports[0].Serves || reports[0].Samples[0].Usage.Fuel < 100 || reports[0].Complexity[0].Value != int64(len(echoStep().Bytes())) || reports[0].Compiled.CodeBytes == 0 || reports[0].Limits.Seconds != 1 {
		t.Errorf("%v: %+v", err, reports)
	}
	// Limits are told beside what is used of them.
	contains(t, c.ok("wasm", "check", step, "--samples", sample, "--memory", "64KiB", "--fuel", "400"),
		"of 64 KiB memory", "raise memory: a larger request may not fit; raise fuel: a larger request may need more")
	out, errs, code := c.exec(t.Context(), "", "wasm", "check", step, "--samples", sample, "--fuel", "10")
	if code != exitFailed || !strings.Contains(errs, "1 of 1 module cannot serve") || !strings.Contains(out, "refused: 1 of 1 sample had no answer; small: the guest ran out of fuel") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

func TestWasmCheckRefusesWithARemedy(t *testing.T) {
	for name, r := range map[string]struct {
		module  []byte
		verdict string
		remedy  string
	}{
		"text":      {[]byte("no module"), "refused: ", remedies[metering.NotWasm]},
		"cut off":   {echoStep().Bytes()[:100], "refused: ", remedies[metering.Malformed]},
		"an index":  {NewGuest().Answering(GlobalGet(7), Drop).Bytes(), "refused: ", remedies[metering.Index]},
		"a table":   {tables(100_000), "refused: ", remedies[metering.TableLimit]},
		"a command": {command(), "refused: ", ""},
		"nothing":   {New().Bytes(), "refused: ", ""},
		"no kind":   {justMemory(), "refused: ", "build it with one of the kits"},
		"a trap": {func() []byte {
			g := NewGuest()
			g.Configure(Unreachable)
			return g.Bytes()
		}(), "refused: the guest failed", "its log lines above may say why"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := offline(t)
			out, errs, code := c.exec(t.Context(), "", "wasm", "check", c.file("m.wasm", string(r.module)))
			if code != exitFailed || !strings.Contains(errs, "1 of 1 module cannot serve") {
				t.Errorf("exit %d, %q", code, errs)
			}
			contains(t, out, "\n\n"+r.verdict, r.remedy)
		})
	}
	for err, want := range map[error]string{host.ErrDeadline: "let it do less when it starts", host.ErrStack: "raise stack"} {
		r := &wasmReport{}
		if r.refuse(fmt.Errorf("cannot start a.wasm: %w", err)); r.Serves || !strings.HasPrefix(r.Remedy, want) || r.Verdict != "refused: "+err.Error() {
			t.Errorf("%+v", r)
		}
	}
	// Whatever a module is refused for, there is something to do.
	for _, reason := range metering.Reasons() {
		if remedies[reason] == "" {
			t.Errorf("no remedy is known for a module that is refused as %q", reason)
		}
	}
}

func tables(entries uint64) []byte {
	g := NewGuest()
	g.Table(FuncRef, entries, NoMax)
	return g.Bytes()
}

func command() []byte {
	m := New()
	m.Memory(1, NoMax)
	m.Export("memory", KindMemory, 0)
	m.Export("_start", KindFunction, m.Func(Sig{}, Unreachable).Index)
	return m.Bytes()
}

func justMemory() []byte {
	m := New()
	m.Memory(1, NoMax)
	m.Export("memory", KindMemory, 0)
	return m.Bytes()
}

// stepBundle writes a bundle with a step before and one after its model.
func stepBundle(t *testing.T) string {
	t.Helper()
	dir := bundleDir(t)
	spec, err := os.ReadFile(filepath.Join(dir, "bundle.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{
		"bundle.yaml": string(spec) + "pipeline:\n  pre: {module: pre.wasm, timeout: 3s, memory: 8MiB}\n  post: {module: post.wasm}\nlabels: labels.txt\ncounters: [requests]\ngolden: golden\n",
		"pre.wasm":    string(echoStep().Bytes()), "post.wasm": string(NewGuest().Bytes()), "labels.txt": "a\nb\n",
		"golden/one.json": `{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
			"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}`,
		"model.onnx": string(onnxtest.Matrix(4, 1).Model()),
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWasmKnowsBundles(t *testing.T) {
	c := offline(t)
	dir := stepBundle(t)
	out := c.ok("wasm", "check", dir)
	contains(t, out, "pre.wasm: ", "golden/one ", "can serve: 1 sample took at most", "of 8.0 MiB memory", "of 3.00s", "post.wasm: ", "it comes after a model")
	contains(t, c.ok("wasm", "run", dir, "--module", "pre.wasm", "--input", "x=[[1,2,3,4]]"), "x        FP32       [1,4]   1, 2, 3, 4", "counter requests: +3", "dropped: 1 emit of")
	if out := c.ok("wasm", "check", dir, "--module", "post.wasm"); strings.Contains(out, "pre.wasm") {
		t.Errorf("another module was checked too:\n%s", out)
	}
	c.fails(exitUsage, "choose one with --module: pre.wasm, post.wasm", "wasm", "run", dir, "--input", "x=[1]")
	c.fails(exitUsage, `has no module "a.wasm"; it has pre.wasm, post.wasm`, "wasm", "check", dir, "--module", "a.wasm")
	c.fails(exitUsage, "comes after a model", "wasm", "bench", dir, "--module", "post.wasm")
	c.fails(exitFailed, "has no WASM module", "wasm", "check", bundleDir(t))
	c.fails(exitFailed, "is not fit to be published", "wasm", "check", t.TempDir())
}

func TestWasmBenchComparesWhatIsAnswered(t *testing.T) {
	c := offline(t)
	dir := stepBundle(t)
	t.Setenv("DHOW_TEST_STEP", "1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	few := []string{"--rounds", "2", "--calls", "10"}
	out := c.ok(append([]string{"wasm", "bench", dir, "--module", "pre.wasm", "--native", self}, few...)...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 7 || strings.Count(out, "the same") != 6 {
		t.Errorf("printed\n%s", out)
	}
	contains(t, out, "wazero alone", "wazero, CloseOnContextDone", "agent, each call from the image", "agent, one of a batch of 16, one by one", "agent, state kept", "built for this machine")

	// A step that answers otherwise is no measure, and is told.
	other := c.file("other.wasm", string(NewGuest().Bytes()))
	out = c.ok(append([]string{"wasm", "bench", other, "--native", self, "--input", "x=INT8:[1]"}, few...)...)
	if strings.Count(out, "DIFFERS") != 1 || !strings.Contains(out, "DIFFERS\n") {
		t.Errorf("printed\n%s", out)
	}
	var rows []wasmTiming
	if err := json.Unmarshal([]byte(c.ok(append([]string{"wasm", "bench", other, "-o", "json", "--input", "x=INT8:[1]"}, few...)...)), &rows); err != nil || len(rows) != 5 || rows[0].OverPlain != 1 || rows[4].P50 <= 0 || rows[4].P99 < rows[4].P50 {
		t.Errorf("%v: %+v", err, rows)
	}
	at := []string{"wasm", "bench", other}
	c.fails(exitUsage, "there is no sample for other.wasm", at...)
	c.fails(exitUsage, "--rounds must be 1 to 1000", append(at, "--rounds", "0")...)
	c.fails(exitUsage, "give either --input or --request", append(at, "--input", "x=INT8:[1]", "--request", "r")...)
	c.fails(exitFailed, "cannot start "+c.dir+"/none", append(at, "--input", "x=INT8:[1]", "--native", c.dir+"/none")...)
	c.fails(exitFailed, "does not answer as a step does", append(at, "--input", "x=INT8:[1]", "--native", "/bin/true")...)
}

// Whatever a file is, its sections are listed as far as they go.
func FuzzSectionsOf(f *testing.F) {
	f.Add(echoStep().Bytes())
	f.Add([]byte("\x00asm\x01\x00\x00\x00\x00\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, code []byte) {
		total := 0
		for _, s := range sectionsOf(code) {
			if s.Count < 0 || s.Count > len(code) {
				t.Errorf("%+v of %d bytes", s, len(code))
			}
			total += s.Bytes
			_ = s.text()
		}
		if total > len(code) {
			t.Errorf("sections of %d bytes have %d", len(code), total)
		}
	})
}

func TestNumbersAreGrouped(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", -1000: "-1,000", -100: "-100", 1234567: "1,234,567"} {
		if got := grouped(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
	if got := fmt.Sprint(signatureOf(metering.Function, "\x7f\x7e", "\x7c\x7b"), signatureOf(metering.Memory, "", "")); got != "(i32, i64) -> f64, v128" {
		t.Errorf("%q", got)
	}
}
