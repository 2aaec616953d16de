// Package extension holds the checks of what servers add to the protocol's core: classification, configuration,
// statistics, the repository, and KServe's older predict form.
//
// A check of an extension is skipped where the server does not advertise it. Checks lists them; they keep no state.
package extension

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// Checks lists what the extensions say.
func Checks() []suite.Check {
	return slices.Concat(extensionChecks(), repositoryChecks(), predictChecks())
}

func extensionChecks() []suite.Check {
	return []suite.Check{
		{Group: "extensions", Name: "classification", Needs: "classification", Scope: suite.Each, About: "classes are value:index[:label], highest first, and those of the raw output", Run: classification},
		{Group: "extensions", Name: "classification-zero", Needs: "classification", Scope: suite.First, About: "a negative number of classes is refused", Run: func(r *suite.Run) error {
			c := r.Carried()
			c.Outputs = []map[string]any{{"name": r.Model.Metadata.Outputs[0].Name, "parameters": map[string]any{"classification": -1}}}
			return r.Refuses(c)
		}},
		{Group: "extensions", Name: "configuration", Needs: "model_configuration", Scope: suite.Each, About: "a model's configuration fits its metadata", Run: configuration},
		{Group: "extensions", Name: "configuration-unknown", Needs: "model_configuration", About: "the configuration of a model that is not there is refused", Run: func(r *suite.Run) error {
			return r.RefusesGet(suite.Path("conformance no such model", "", "/config"))
		}},
		{Group: "extensions", Name: "statistics", Needs: "statistics", Scope: suite.Each, About: "a model's statistics have every key, and count a request", Run: statistics},
		{Group: "extensions", Name: "statistics-all", Needs: "statistics", About: "the statistics of all models list each model", Run: func(r *suite.Run) error {
			all, err := readStatistics(r, "/v2/models/stats")
			if err != nil {
				return err
			}
			for _, m := range r.Suite.Models {
				if !slices.ContainsFunc(all, func(s modelStatistics) bool { return s.Name == m.Name }) {
					return fmt.Errorf("there is no entry for %q", m.Name)
				}
			}
			return nil
		}},
		{Group: "extensions", Name: "statistics-fail", Needs: "statistics", Scope: suite.First, About: "a request that the model refuses is not counted as a success", Run: failures},
		{Group: "extensions", Name: "schedule", Needs: "schedule_policy", Scope: suite.First, About: "priority and timeout are taken", Run: func(r *suite.Run) error {
			c := r.Carried()
			if c.Parameters == nil {
				c.Parameters = map[string]any{}
			}
			c.Parameters["priority"], c.Parameters["timeout"] = 0, 10_000_000
			got, err := r.Infer(c)
			if err != nil {
				return err
			}
			return r.Matches(got)
		}},
		{Group: "extensions", Name: "logging", Needs: "logging", About: "the log settings are an object", Run: object("/v2/logging")},
		{Group: "extensions", Name: "trace", Needs: "trace", About: "the trace settings are an object", Run: object("/v2/trace/setting")},
		{Group: "extensions", Name: "system-shared-memory", Needs: "system_shared_memory", About: "the regions are a list", Run: list("/v2/systemsharedmemory/status")},
		{Group: "extensions", Name: "cuda-shared-memory", Needs: "cuda_shared_memory", About: "the regions are a list", Run: list("/v2/cudasharedmemory/status")},
		{Group: "extensions", Name: "not-advertised", Scope: suite.First, About: "shared memory that is not advertised is refused, not taken for data", Run: func(r *suite.Run) error {
			if r.Suite.Has("system_shared_memory") {
				return suite.Skip("the server advertises shared memory")
			}
			if len(r.Model.Inputs) == 0 {
				return suite.Skip("the model has no inputs")
			}
			v := r.Model.Inputs[0]
			got, err := r.Post(suite.Path(r.Model.Name, "", "/infer"), map[string]any{"inputs": []any{map[string]any{
				"name": v.Name, "datatype": v.Datatype, "shape": v.Shape,
				"parameters": map[string]any{"shared_memory_region": "conformance", "shared_memory_byte_size": len(v.Raw)},
			}}})
			if err != nil {
				return err
			}
			return r.RefusedWell(got)
		}},
	}
}

func object(path string) func(*suite.Run) error {
	return func(r *suite.Run) error {
		got, err := r.Get(path)
		if err != nil {
			return err
		}
		var doc map[string]any
		return got.Object(&doc)
	}
}

func list(path string) func(*suite.Run) error {
	return func(r *suite.Run) error {
		got, err := r.Get(path)
		if err != nil {
			return err
		}
		var doc []any
		return got.Object(&doc)
	}
}

// classification asks for the three highest classes of the first output that holds numbers.
func classification(r *suite.Run) error {
	var raw *wire.Value
	for i := range r.Model.Reference.Outputs {
		if v := &r.Model.Reference.Outputs[i]; v.Datatype != "BYTES" && v.Datatype != "BOOL" && wire.Elements(v.Shape) > 0 {
			raw = v
			break
		}
	}
	if raw == nil {
		return suite.Skip("the model has no output of numbers")
	}
	c := r.Carried()
	c.Parameters = nil // classes are texts; JSON carries them
	c.Outputs = []map[string]any{{"name": raw.Name, "parameters": map[string]any{"classification": 3}}}
	got, err := r.Infer(c)
	if err != nil {
		return err
	}
	v := got.Find(raw.Name)
	if v == nil || len(got.Outputs) != 1 {
		return fmt.Errorf("the output that was asked for did not come alone")
	}
	if v.Datatype != "BYTES" {
		return fmt.Errorf("classes came as %s, they are BYTES", v.Datatype)
	}
	// With a batch dimension each row is classified by itself; whether there is one, the count tells.
	classes, rows, width := wire.Elements(v.Shape), int64(1), wire.Elements(raw.Shape)
	if classes != min(3, width) && len(raw.Shape) > 1 && raw.Shape[0] > 0 {
		rows = raw.Shape[0]
		width /= rows
	}
	per := min(3, width)
	if classes != rows*per {
		return fmt.Errorf("%d classes came for an output of shape %v; 3 were asked for", classes, raw.Shape)
	}
	var numbers []float64
	if err := raw.Each(func(_ int64, e []byte) { numbers = append(numbers, wire.Number(raw.Datatype, e)) }); err != nil {
		return err
	}
	var texts []string
	if err := v.Each(func(_ int64, e []byte) { texts = append(texts, string(e)) }); err != nil {
		return err
	}
	for row := range rows {
		mine := numbers[row*width : (row+1)*width]
		if err := ranked(texts[row*per:(row+1)*per], mine, r.Model.Steady); err != nil {
			return err
		}
	}
	return nil
}

// ranked holds class texts against the numbers that they rank.
func ranked(texts []string, numbers []float64, steady bool) error {
	sorted := slices.Clone(numbers)
	sort.Sort(sort.Reverse(sort.Float64Slice(sorted)))
	seen := map[int]bool{}
	for i, text := range texts {
		parts := strings.SplitN(text, ":", 3)
		if len(parts) < 2 {
			return fmt.Errorf("class %q is not value:index[:label]", text)
		}
		score, err := strconv.ParseFloat(parts[0], 64)
		if err != nil {
			return fmt.Errorf("class %q does not begin with a number", text)
		}
		at, err := strconv.Atoi(parts[1])
		if err != nil || at < 0 || at >= len(numbers) || seen[at] {
			return fmt.Errorf("class %q: its index is none of the output's, or was there before", text)
		}
		seen[at] = true
		if near := func(a, b float64) bool { return a == b || (a-b)*(a-b) <= 1e-6*(a*a+1e-6) }; steady && (!near(score, numbers[at]) || !near(numbers[at], sorted[i])) {
			return fmt.Errorf("class %q at place %d: the output has %v there, and %v is its value number %d", text, i, numbers[at], sorted[i], i)
		}
	}
	return nil
}

type configTensor struct {
	Name string
	Type string `json:"data_type"`
	Dims []any
}

func configuration(r *suite.Run) error {
	got, err := r.Get(suite.Path(r.Model.Name, "", "/config"))
	if err != nil {
		return err
	}
	var doc struct {
		Name          string
		Batch         *jsonInt `json:"max_batch_size"`
		Input, Output []configTensor
	}
	if err := got.Object(&doc); err != nil {
		return err
	}
	switch {
	case doc.Name != r.Model.Name:
		return fmt.Errorf("\"name\" is %q", doc.Name)
	case doc.Batch == nil:
		return fmt.Errorf("there is no \"max_batch_size\"")
	}
	if err := configured("input", doc.Input, r.Model.Metadata.Inputs, *doc.Batch > 0); err != nil {
		return err
	}
	return configured("output", doc.Output, r.Model.Metadata.Outputs, *doc.Batch > 0)
}

// jsonInt is a number that some servers write as a text.
type jsonInt int64

func (n *jsonInt) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	*n = jsonInt(v)
	return err
}

// configured compares the tensors of a configuration with the metadata, which has the batch dimension besides.
func configured(what string, tensors []configTensor, described []suite.Description, batched bool) error {
	if len(tensors) != len(described) {
		return fmt.Errorf("the configuration has %d %ss, the metadata %d", len(tensors), what, len(described))
	}
	for _, d := range described {
		i := slices.IndexFunc(tensors, func(t configTensor) bool { return t.Name == d.Name })
		if i < 0 {
			return fmt.Errorf("the configuration lacks the %s %q", what, d.Name)
		}
		kind := strings.TrimPrefix(tensors[i].Type, "TYPE_")
		if kind == "STRING" {
			kind = "BYTES"
		}
		if kind != d.Datatype {
			return fmt.Errorf("%s %q is %s in the configuration and %s in the metadata", what, d.Name, tensors[i].Type, d.Datatype)
		}
		shape := d.Shape
		if batched && len(shape) > 0 {
			shape = shape[1:]
		}
		if fmt.Sprint(tensors[i].Dims) != fmt.Sprint(shape) && len(tensors[i].Dims)+len(shape) > 0 {
			return fmt.Errorf("%s %q has the dims %v in the configuration and the shape %v in the metadata", what, d.Name, tensors[i].Dims, d.Shape)
		}
	}
	return nil
}

type duration struct{ Count, Ns *uint64 }

type modelStatistics struct {
	Name, Version string
	Last          *uint64             `json:"last_inference"`
	Inferences    *uint64             `json:"inference_count"`
	Executions    *uint64             `json:"execution_count"`
	Durations     map[string]duration `json:"inference_stats"`
	Batches       *[]map[string]any   `json:"batch_stats"`
}

func readStatistics(r *suite.Run, path string) ([]modelStatistics, error) {
	got, err := r.Get(path)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Models *[]modelStatistics `json:"model_stats"`
	}
	if err := got.Object(&doc); err != nil {
		return nil, err
	}
	if doc.Models == nil {
		return nil, fmt.Errorf("there is no \"model_stats\"")
	}
	return *doc.Models, nil
}

// counted adds up a model's statistics over its versions.
func counted(r *suite.Run) (inferences, successes uint64, err error) {
	all, err := readStatistics(r, suite.Path(r.Model.Name, "", "/stats"))
	if err != nil {
		return 0, 0, err
	}
	if len(all) == 0 {
		return 0, 0, fmt.Errorf("there is no entry for the model")
	}
	for _, s := range all {
		if s.Name != r.Model.Name {
			return 0, 0, fmt.Errorf("there is an entry for %q", s.Name)
		}
		if s.Last == nil || s.Inferences == nil || s.Executions == nil || s.Batches == nil {
			return 0, 0, fmt.Errorf("an entry lacks one of last_inference, inference_count, execution_count, batch_stats")
		}
		for _, key := range []string{"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"} {
			if d := s.Durations[key]; d.Count == nil || d.Ns == nil {
				return 0, 0, fmt.Errorf("inference_stats lacks %q with count and ns", key)
			}
		}
		inferences += *s.Inferences
		successes += *s.Durations["success"].Count
	}
	return inferences, successes, nil
}

func statistics(r *suite.Run) error {
	inferences, successes, err := counted(r)
	if err != nil {
		return err
	}
	if err := r.Again(); err != nil {
		return err
	}
	i, s, err := counted(r)
	if err != nil {
		return err
	}
	if i <= inferences || s <= successes {
		return fmt.Errorf("after one more inference, inference_count went from %d to %d and success.count from %d to %d", inferences, i, successes, s)
	}
	return nil
}

func failures(r *suite.Run) error {
	_, before, err := counted(r)
	if err != nil {
		return err
	}
	got, err := r.Do(http.MethodPost, suite.Path(r.Model.Name, "", "/infer"), nil, []byte(`{"inputs":[{"name":"conformance no such input","datatype":"FP32","shape":[1],"data":[1]}]}`))
	if err != nil {
		return err
	}
	if err := got.Refused(); err != nil {
		return err
	}
	_, after, err := counted(r)
	if err == nil && after != before {
		err = fmt.Errorf("success.count went from %d to %d", before, after)
	}
	return err
}
