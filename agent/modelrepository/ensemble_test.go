package modelrepository

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/serving"
)

// chain is the configuration of an ensemble that asks one model after the other.
func chain(models ...string) string {
	var b strings.Builder
	b.WriteString("platform: \"ensemble\" max_batch_size: 4\ninput { name: \"x\" data_type: TYPE_FP32 dims: 3 } output { name: \"y\" data_type: TYPE_FP32 dims: 3 }\nensemble_scheduling {\n")
	from := "x"
	for i, m := range models {
		to := fmt.Sprintf("t%d", i)
		if i == len(models)-1 {
			to = "y"
		}
		name, version, _ := strings.Cut(m, "@")
		if version == "" {
			version = "-1"
		}
		fmt.Fprintf(&b, "step { model_name: %q model_version: %s input_map { key: \"x\" value: %q } output_map { key: \"y\" value: %q } }\n", name, version, from, to)
		from = to
	}
	b.WriteString("}\n")
	return b.String()
}

func TestAnEnsembleAnswersAsOne(t *testing.T) {
	b := newBench(t, Config{})
	b.add("b", 2)
	b.add("c", 3)
	b.add("c", 5)
	b.write("c/config.pbtxt", "version_policy { all {} }")
	b.write("a/config.pbtxt", chain("b", "c@3", "nested"))
	b.write("nested/config.pbtxt", chain("c", "c@3"))
	b.start()
	b.serves("a", "", 2+3+5+3)
	b.serves("nested", "1", 5+3)
	info, err := b.table.Lookup("a", "")
	if err != nil || info.Platform != "ensemble" || len(info.Inputs) != 1 || info.Inputs[0].Shape[0] != -1 {
		t.Fatalf("%+v, %v", info, err)
	}
}

func TestAnEnsembleFollowsItsModels(t *testing.T) {
	ctx := context.Background()
	b := newBench(t, Config{Mode: Explicit})
	b.add("b", 2)
	b.add("c", 3)
	b.write("a/config.pbtxt", chain("b", "c"))
	b.load("a")
	b.serves("a", "", 5)
	b.serves("b", "", 2) // loaded for it
	if err := b.repo.Unload(ctx, "c", false); err != nil {
		t.Fatal(err)
	}
	b.absent("a", "")
	if got := b.reason("a", "1"); !strings.Contains(got, `it needs the model "c", which is not loaded`) {
		t.Error(got)
	}
	b.add("c", 7)
	b.load("c")
	b.serves("a", "", 9)
	if err := b.repo.Unload(ctx, "a", true); err != nil {
		t.Fatal(err)
	}
	if got := b.index(true); got != "" {
		t.Error("with what it is made of, still ready:", got)
	}
	// What another ensemble needs stays.
	b.write("d/config.pbtxt", chain("b"))
	b.load("a")
	b.load("d")
	if err := b.repo.Unload(ctx, "a", true); err != nil {
		t.Fatal(err)
	}
	if got := b.index(true); got != "b 2 READY, d 1 READY" {
		t.Error(got)
	}
}

func TestEnsemblesThatCannotBeServed(t *testing.T) {
	for _, c := range []struct{ config, want string }{
		{chain("no"), `"no"`},
		{chain("b", "a"), "is the ensemble itself"},
		{chain("b", "other"), "contains itself: other -> a"},
		{chain("b@9"), `"b" in version 9`},
		{strings.Replace(chain("b"), `key: "x"`, `key: "z"`, 1), "z"},
		{strings.Replace(chain("b"), "TYPE_FP32", "TYPE_INT64", 1), "INT64"},
		{"platform: \"ensemble\" input { name: \"x\" data_type: TYPE_FP32 dims: 3 } output { name: \"y\" data_type: TYPE_FP32 dims: 3 }", "wants ensemble_scheduling"},
	} {
		b := newBench(t, Config{Mode: Explicit})
		b.add("b", 1)
		b.write("a/config.pbtxt", c.config)
		b.write("other/config.pbtxt", chain("a"))
		name := "a"
		if strings.Contains(c.want, "other") {
			name = "other"
		}
		err := b.repo.Load(context.Background(), name, nil)
		wants(t, err, c.want)
		b.absent(name, "")
		// In the other modes they wait, which says as much and ends.
		b = newBench(t, Config{})
		b.add("b", 1)
		b.write("a/config.pbtxt", c.config)
		b.write("other/config.pbtxt", chain("a"))
		if err := b.repo.Start(context.Background()); err == nil {
			t.Error("no error of", c.config)
		}
		b.absent("a", "")
		b.serves("b", "", 1)
	}
}

func TestAStepThatLeavesIsNoFaultOfTheRequest(t *testing.T) {
	b := newBench(t, Config{Mode: Explicit})
	c := &caller{table: b.table, model: "gone"}
	_, err := c.Infer(context.Background(), nil, nil, nil)
	if err == nil || errors.As(err, new(*serving.NotFoundError)) {
		t.Errorf("%v, want another error than that of a client that names no model", err)
	}
}
