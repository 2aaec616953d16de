package triton

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// full has every key that is acted on, in the spellings that the format allows.
const full = `# a model
name: "fas" 'hion' "\x5f\061\u00e9\n"
platform: "onnxruntime_onnx"; max_batch_size: 0x8,
input [ { name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, -1, 010 ] } ,
        < name: 'y', data_type: TYPE_STRING; dims: 1 reshape: { shape: [ ] } optional: true > ]
output { name: "p" data_type: 11 dims: 10 label_filename: "labels.txt" is_shape_tensor: false }
output: { name: "q" data_type: TYPE_INT64 dims [ ] }
version_policy: { specific { versions: [ 1, 3 ] versions: 7 } }
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  preserve_ordering: true
  priority_levels: 2 default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5000 allow_timeout_override: true max_queue_size: 64 }
  priority_queue_policy { key: 1 value { timeout_action: REJECT max_queue_size: 3 } }
}
instance_group [ { count: 2 kind: KIND_CPU }, { kind: KIND_GPU gpus: [ 0, 1 ] name: "g" } ]
model_warmup [ { name: "w" batch_size: 4 count: 3
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 3, 2, 8 ] random_data: true } }
  inputs { key: "y" value { data_type: TYPE_STRING dims: 1 input_data_file: "y.raw" } } } ]
parameters { key: "intra_op_thread_count" value: { string_value: "2" } }
response_cache { enable: true }
default_model_filename: "m.onnx"
`

func TestEveryKeyIsRead(t *testing.T) {
	c, warnings, err := Parse([]byte(full))
	if err != nil || len(warnings) != 0 {
		t.Fatalf("%v, warnings %v", err, warnings)
	}
	want := &Config{
		Name: "fashion_1\u00e9\n", Platform: PlatformONNX, MaxBatchSize: 8, MaxBatchSaid: true, DefaultFile: "m.onnx",
		Inputs: []Input{
			{Name: "x", DataType: "TYPE_FP32", Dims: []int64{3, -1, 8}},
			{Name: "y", DataType: "TYPE_STRING", Dims: []int64{1}, Reshape: &[]int64{}, Optional: true},
		},
		Outputs: []Output{
			{Name: "p", DataType: "TYPE_FP32", Dims: []int64{10}, LabelFilename: "labels.txt"},
			{Name: "q", DataType: "TYPE_INT64", Dims: []int64{}},
		},
		VersionPolicy: VersionPolicy{Specific: []int64{1, 3, 7}},
		DynamicBatching: &DynamicBatching{
			Preferred: []int{4, 8}, MaxQueueDelay: 100 * time.Microsecond, PreserveOrdering: true, PriorityLevels: 2, DefaultPriorityLevel: 2,
			QueuePolicy:      QueuePolicy{Delay: true, DefaultTimeout: 5 * time.Millisecond, AllowTimeoutOverride: true, MaxQueueSize: 64},
			PriorityPolicies: map[uint64]QueuePolicy{1: {MaxQueueSize: 3}},
		},
		InstanceGroups: []InstanceGroup{{Kind: "KIND_CPU", Count: 2}, {Name: "g", Kind: "KIND_GPU", GPUs: []int{0, 1}}},
		Warmup: []Warmup{{Name: "w", BatchSize: 4, Count: 3, Inputs: []WarmupInput{
			{Name: "x", DataType: "TYPE_FP32", Dims: []int64{3, 2, 8}, Random: true},
			{Name: "y", DataType: "TYPE_STRING", Dims: []int64{1}, File: "y.raw"},
		}}},
		Parameters:    []Parameter{{"intra_op_thread_count", "2"}},
		ResponseCache: true,
	}
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("got  %+v\nwant %+v", c, want)
	}
	again, _, err := Parse(Format(c))
	if err != nil || !reflect.DeepEqual(again, c) {
		t.Fatalf("what was formatted reads as %+v, %v:\n%s", again, err, Format(c))
	}
	if c.Instances() != 4 {
		t.Errorf("%d instances, want 2 and one on each of two devices", c.Instances())
	}
}

func TestEnsemblesAreRead(t *testing.T) {
	c, warnings, err := Parse([]byte(`platform: "ensemble" input { name: "in" data_type: TYPE_UINT8 dims: -1 } output { name: "out" data_type: TYPE_FP32 dims: 2 }
ensemble_scheduling { step [ { model_name: "a" model_version: -1 input_map { key: "x" value: "in" } output_map { key: "y" value: "mid" } },
  { model_name: "b" model_version: 3 input_map { key: "x" value: "mid" } output_map { key: "y" value: "out" } } ] }`))
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	want := []EnsembleStep{
		{"a", -1, map[string]string{"x": "in"}, map[string]string{"y": "mid"}},
		{"b", 3, map[string]string{"x": "mid"}, map[string]string{"y": "out"}},
	}
	if !reflect.DeepEqual(c.Ensemble, want) {
		t.Fatalf("%+v", c.Ensemble)
	}
	if err := c.Fill("e"); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil || !c.IsEnsemble() {
		t.Fatal(err)
	}
}

func TestUnknownAndIdleKeysAreWarnings(t *testing.T) {
	_, warnings, err := Parse([]byte(`name: "x"
optimization { graph { level: 1 }
  priority: PRIORITY_MAX input_pinned_memory { enable: false } }
frobnicate: 7
instance_group { kind: KIND_MODEL rate_limiter { resources { name: "r" count: 1 } } }
metric_tags { key: "a" value: "b" }
input { name: "i" quality { level: 3 } is_non_linear_format_io: false allow_ragged_batch: false }
optimization2 < >`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range warnings {
		got = append(got, strings.TrimSuffix(strings.SplitAfterN(w.String(), ": ", 3)[1], ": "))
		if w.Line < 2 {
			t.Errorf("%v is not on line %d", w, w.Line)
		}
	}
	want := []string{"optimization.graph", "optimization.priority", "frobnicate", "instance_group.kind", "instance_group.rate_limiter", "metric_tags", "input.quality", "optimization2"}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("warnings about %q, want %q", got, want)
	}
}

func TestWhatIsWrongIsAnErrorWithItsLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"\nname: 7", "line 2: name: want a string in quotes"},
		{"name: \"a\"\nname: \"b\"", "line 2: name: it is said twice"},
		{"max_batch_size: \"8\"", "line 1: max_batch_size: want a number"},
		{"max_batch_size: -1", "outside of 0 to"},
		{"max_batch_size: 99999999999999999999", "outside of 0 to"},
		{"max_batch_size: 08", "no whole number"},
		{"max_batch_size: 1.5", "no whole number"},
		{"max_batch_size: [1]", "not a list"},
		{"max_batch_size 8", "want ':' and a value"},
		{"max_batch_size:", "the text ends"},
		{"input {\n\n data_type: FP32 }", "line 3: input.data_type: \"FP32\" is none of"},
		{"input { data_type: \"TYPE_FP32\" }", "without quotes"},
		{"input { data_type: TYPE_INVALID }", "no type"},
		{"input { dims: 0 }", "1 or more"},
		{"input { dims: -2 }", "outside of -1"},
		{"input { dims: [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17] }", "more than 16"},
		{"input { dims: [1 2] }", "want ',' or ']'"},
		{"input { dims: [[1]] }", "list inside a list"},
		{"input { name: \"a", "not closed"},
		{"input { name: \"a\n\" }", "line 1: the string is not closed"},
		{"input { name: \"\\q\" }", "unknown escape"},
		{"input { name: \"\\777\" }", "no byte"},
		{"input { name: \"\\xff\" }", "no UTF-8"},
		{"input { name: \"\\ud800\" }", "hexadecimal digits of a character"},
		{"input { name: \"\\U00110000\" }", "hexadecimal digits of a character"},
		{"input {", "line 1: want the name of a field or '}'"},
		{"input < name: \"a\" }", "want the name of a field or '>'"},
		{"}", "want the name of a field"},
		{"[dhow.ext]: 1", "extensions"},
		{"input: \"x\"", "want a message in braces, not a string"},
		{"input { allow_ragged_batch: true }", "different shapes"},
		{"input { is_shape_tensor: true }", "TensorRT"},
		{"sequence_batching { }", "keep state"},
		{"model_transaction_policy { decoupled: true }", "more than once"},
		{"batch_input { kind: BATCH_ELEMENT_COUNT }", "made from the batch"},
		{"model_operations { op_library_filename: \"x.so\" }", "unchecked"},
		{"model_repository_agents { agents { name: \"checksum\" } }", "agents"},
		{"version_policy { latest {} all {} }", "one of"},
		{"version_policy { latest { num_versions: 0 } }", "outside of 1"},
		{"version_policy { specific {} }", "names no version"},
		{"model_warmup { inputs { key: \"x\" value { zero_data: true random_data: true } } }", "wants one of"},
		{"model_warmup { inputs { key: \"x\" } }", "no value"},
		{"parameters { value { string_value: \"\" } }", "no key"},
		{"parameters { key: \"a\" value {} } parameters { key: \"a\" value {} }", "said twice"},
		{"response_cache { enable: yes }", "want true or false"},
		{"instance_group { count: 1000 }", "outside of 0 to 256"},
		{"dynamic_batching { max_queue_delay_microseconds: 999999999999999 }", "outside of 0 to"},
		{strings.Repeat("a{", 40), "nested deeper"},
		{strings.Repeat("a:1 ", 250_000), "more than 200000 values"},
		{strings.Repeat(" ", MaxTextBytes+1), "at most"},
	} {
		_, _, err := Parse([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.60q: %v, want %q", c.text, err, c.want)
		}
	}
}

func TestJSONIsReadBack(t *testing.T) {
	c, _, err := Parse([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again, warnings, err := ParseJSON(text)
	if err != nil || len(warnings) != 0 {
		t.Fatalf("%v, warnings %v in\n%s", err, warnings, text)
	}
	c.InstanceGroups[1].Count = 1 // which is what not saying it means
	if !reflect.DeepEqual(again, c) {
		t.Fatalf("got  %+v\nwant %+v\n%s", again, c, text)
	}
	// Names in camel case, numbers as strings and null are JSON of the same message.
	short, _, err := ParseJSON([]byte(`{"maxBatchSize":"3","input":[{"name":"x","dataType":"TYPE_FP32","dims":["-1",2],"reshape":null}],"parameters":{"aB":{"stringValue":"c"}},"versionPolicy":{"all":{}}}`))
	if err != nil || short.MaxBatchSize != 3 || !reflect.DeepEqual(short.Inputs[0].Dims, []int64{-1, 2}) || short.Parameter("aB") != "c" || !short.VersionPolicy.All {
		t.Fatalf("%+v, %v", short, err)
	}
	for _, c := range []struct{ text, want string }{
		{``, "no JSON"}, {`{`, "no JSON"}, {`{"a":}`, "no JSON"}, {`{} {}`, "more after"}, {`[]`, "want a message"}, {`7`, "want a message"},
		{"{\n\"max_batch_size\": true}", "line 2: max_batch_size: \"true\" is no whole number"},
		{`{"input":[[]]}`, "list inside"}, {strings.Repeat(`{"a":`, 40), "nested deeper"},
	} {
		if _, _, err := ParseJSON([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v, want %q", c.text, err, c.want)
		}
	}
}

func TestJSONIsThatOfTriton(t *testing.T) {
	c, _, err := Parse([]byte(`name: "simple" platform: "onnxruntime_onnx" max_batch_size: 8
input { name: "INPUT0" data_type: TYPE_INT32 dims: 16 } output { name: "OUTPUT0" data_type: TYPE_INT32 dims: 16 } instance_group { count: 1 kind: KIND_CPU }`))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Fill("simple"); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"name":"simple","platform":"onnxruntime_onnx","backend":"onnxruntime","runtime":"","version_policy":{"latest":{"num_versions":1}},"max_batch_size":8,` +
		`"input":[{"name":"INPUT0","data_type":"TYPE_INT32","format":"FORMAT_NONE","dims":[16],"is_shape_tensor":false,"allow_ragged_batch":false,"optional":false}],` +
		`"output":[{"name":"OUTPUT0","data_type":"TYPE_INT32","dims":[16],"label_filename":"","is_shape_tensor":false}],"batch_input":[],"batch_output":[],` +
		`"optimization":{"priority":"PRIORITY_DEFAULT","input_pinned_memory":{"enable":true},"output_pinned_memory":{"enable":true},"gather_kernel_buffer_threshold":0,"eager_batching":false},` +
		`"instance_group":[{"name":"","kind":"KIND_CPU","count":1,"gpus":[],"secondary_devices":[],"profile":[],"passive":false,"host_policy":""}],` +
		`"default_model_filename":"model.onnx","cc_model_filenames":{},"metric_tags":{},"parameters":{},"model_warmup":[],"model_transaction_policy":{"decoupled":false}}`
	if string(got) != want {
		t.Fatalf("got  %s\nwant %s", got, want)
	}
}
