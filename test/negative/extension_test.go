package negative

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/dhowfleet/dhow/agent/modelrepository"
	"github.com/dhowfleet/dhow/agent/openinference"
)

// shelf is a repository of one model that does not load.
type shelf struct{ fixed bool }

func (s shelf) Index(context.Context, bool) ([]modelrepository.Entry, error) { return nil, nil }

func (s shelf) Load(_ context.Context, name string, _ map[string]string) error {
	switch {
	case s.fixed:
		return fmt.Errorf("%w: the models of this node are set by its fleet manager", modelrepository.ErrNotControlled)
	case name != "neg":
		return &modelrepository.NotFoundError{Name: name}
	}
	return nil
}

func (s shelf) Unload(ctx context.Context, name string, _ bool) error { return s.Load(ctx, name, nil) }

func parameters(p string) request {
	return to("neg", strings.Replace(good, `"id":"good"`, `"parameters":{`+p+`}`, 1))
}

func wish(model, input, output string) request {
	return to(model, `{"inputs":[{`+input+`}],"outputs":[{`+output+`}]}`)
}

func extensions() []restCase {
	const x, t = `"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]`, `"name":"t","shape":[1],"datatype":"BYTES","data":["a"]`
	get := func(path string) request { return request{method: "GET", path: path} }
	return []restCase{
		{"no class", wish("neg", x, `"name":"y","parameters":{"classification":0}`), 400, "classification"},
		{"less than no class", wish("neg", x, `"name":"y","parameters":{"classification":-1}`), 400, "classification"},
		{"half a class", wish("neg", x, `"name":"y","parameters":{"classification":1.5}`), 400, "classification"},
		{"2^64 classes", wish("neg", x, `"name":"y","parameters":{"classification":18446744073709551616}`), 400, "classification"},
		{"classes in words", wish("neg", x, `"name":"y","parameters":{"classification":"3"}`), 400, "a number should be"},
		{"classes of strings", wish("text", t, `"name":"u","parameters":{"classification":1}`), 400, "BYTES"},
		{"an output twice", wish("neg", x, `"name":"y"},{"name":"y"`), 400, "twice"},
		{"a priority in words", parameters(`"priority":"high"`), 400, "a number should be"},
		{"a negative priority", parameters(`"priority":-1`), 400, "priority"},
		{"a timeout in words", parameters(`"timeout":"5s"`), 400, "a number should be"},
		{"a negative timeout", parameters(`"timeout":-5`), 400, "timeout"},
		{"a timeout of 2^64", parameters(`"timeout":18446744073709551616`), 400, "timeout"},
		{"a request that is too slow for its own timeout", to("slow", strings.Replace(good, `"id":"good"`, `"parameters":{"timeout":1}`, 1)), 504, "time"},
		{"a sequence", parameters(`"sequence_id":7`), 400, "sequences"},
		{"a sequence by name", parameters(`"sequence_id":"a"`), 400, "sequences"},
		{"the start of a sequence", parameters(`"sequence_start":true`), 400, "sequences"},
		{"shared memory for an input", wish("neg", `"name":"x","shape":[1,4],"datatype":"FP32","parameters":{"shared_memory_region":"r","shared_memory_byte_size":16}`, `"name":"y"`), 400, "shared memory"},
		{"shared memory for an output", wish("neg", x, `"name":"y","parameters":{"shared_memory_region":"r"}`), 400, "shared memory"},
		{"shared memory", get("/v2/systemsharedmemory/status"), 501, "shared memory"},
		{"shared memory of a GPU", get("/v2/cudasharedmemory/status"), 501, "shared memory"},
		{"traces", get("/v2/trace/setting"), 501, "trace"},
		{"statistics that nobody keeps", get("/v2/models/stats"), 501, ""},
		{"log settings that nobody has", get("/v2/logging"), 501, ""},
		{"the configuration of a model that is not there", get("/v2/models/none/config"), 404, `"none"`},
		{"an index without a repository", request{path: "/v2/repository/index", body: "{}"}, 501, "repository"},
		{"a load without a repository", request{path: "/v2/repository/models/neg/load", body: "{}"}, 501, "repository"},
	}
}

func repositories() []restCase {
	call := func(verb, body string) request {
		return request{path: "/v2/repository/models/neg/" + verb, body: body}
	}
	index := func(body string) request { return request{path: "/v2/repository/index", body: body} }
	return []restCase{
		{"an index asked with GET", request{method: "GET", path: "/v2/repository/index"}, 405, "POST"},
		{"an index asked with a list", index("[]"), 400, "an object should be"},
		{"an index asked with broken JSON", index(`{"ready":`), 400, "broken"},
		{"an index asked with a word", index(`{"ready":"yes"}`), 400, "true or false should be"},
		{"a load with GET", request{method: "GET", path: "/v2/repository/models/neg/load"}, 405, "POST"},
		{"a load of a model that is not there", request{path: "/v2/repository/models/none/load", body: "{}"}, 404, `"none"`},
		{"a load of a path", request{path: "/v2/repository/models/..%2F..%2Fetc/load", body: "{}"}, 404, ""},
		{"a load with broken JSON", call("load", "{"), 400, "broken"},
		{"a load with a list of parameters", call("load", `{"parameters":[]}`), 400, "an object should be"},
		{"a load with a list as configuration", call("load", `{"parameters":{"config":[]}}`), 400, "a list"},
		{"an unload of a model that is not there", request{path: "/v2/repository/models/none/unload", body: "{}"}, 404, `"none"`},
		{"a reload", call("reload", "{}"), 404, ""},
	}
}

func predictions() []restCase {
	v1 := func(model, body string) request { return request{path: "/v1/models/" + model + ":predict", body: body} }
	return []restCase{
		{"v1: nothing", v1("neg", ""), 400, "broken"},
		{"v1: no instances", v1("neg", "{}"), 400, "instances"},
		{"v1: an empty list of instances", v1("neg", `{"instances":[]}`), 400, "instances"},
		{"v1: a number as instances", v1("neg", `{"instances":5}`), 400, ""},
		{"v1: null as instances", v1("neg", `{"instances":null}`), 400, ""},
		{"v1: instances twice", v1("neg", `{"instances":[[1,2,3,4]],"instances":[[1,2,3,4]]}`), 400, ""},
		{"v1: instances and inputs", v1("neg", `{"instances":[[1,2,3,4]],"inputs":[[1,2,3,4]]}`), 400, ""},
		{"v1: an instance too short", v1("neg", `{"instances":[[1,2,3]]}`), 400, "x"},
		{"v1: an instance too long", v1("neg", `{"instances":[[1,2,3,4,5]]}`), 400, "x"},
		{"v1: instances of unlike length", v1("neg", `{"instances":[[1,2,3,4],[1,2,3]]}`), 400, "x"},
		{"v1: strings for numbers", v1("neg", `{"instances":[["a","b","c","d"]]}`), 400, ""},
		{"v1: an object without the input", v1("sum", `{"instances":[{"a":[1,2]}]}`), 400, "b"},
		{"v1: an object with an unknown input", v1("sum", `{"instances":[{"a":[1,2],"b":[1,2],"z":[1,2]}]}`), 400, "z"},
		{"v1: lists for a model of two inputs", v1("sum", `{"instances":[[1,2]]}`), 400, ""},
		{"v1: objects and lists", v1("sum", `{"instances":[{"a":[1,2],"b":[1,2]},[1,2]]}`), 400, ""},
		{"v1: no base64 where it is said", v1("text", `{"instances":[{"b64":"%%%"}]}`), 400, ""},
		{"v1: nested too deep", v1("neg", `{"instances":`+strings.Repeat("[", 20000)), 400, ""},
		{"v1: a model that is not there", v1("none", `{"instances":[[1]]}`), 404, `"none"`},
		{"v1: a type without a form in JSON", v1("half", `{"instances":[1]}`), 400, "FP16"},
		{"v1: a computation that fails", v1("fails", `{"instances":[1,2]}`), 500, "fail"},
		{"v1: a model that is too slow", v1("slow", `{"instances":[[1,2,3,4]]}`), 504, "time"},
		{"v1: GET of a prediction", request{method: "GET", path: "/v1/models/neg:predict"}, 404, "neg:predict"},
		{"v1: an explanation", request{path: "/v1/models/neg:explain", body: "{}"}, 405, "GET"},
		{"v1: a prediction of a page elsewhere", request{path: "/v1/models/neg:predict", body: `{"instances":[[1,2,3,4]]}`, header: []string{"Origin", "https://evil.example"}}, 403, "web pages"},
	}
}

func TestExtensionsAskedWrongly(t *testing.T) { run(t, start(t, nil), extensions()) }

func TestRepositoriesAskedWrongly(t *testing.T) {
	run(t, start(t, func(o *openinference.Options) { o.Repository = shelf{} }), repositories())
}

func TestRepositoriesThatAreNotTheirs(t *testing.T) {
	run(t, start(t, func(o *openinference.Options) { o.Repository = shelf{fixed: true} }), []restCase{
		{"a load", request{path: "/v2/repository/models/neg/load", body: "{}"}, 400, "fleet manager"},
		{"an unload", request{path: "/v2/repository/models/neg/unload", body: "{}"}, 400, "fleet manager"},
	})
}

func TestPredictionsAskedWrongly(t *testing.T) { run(t, start(t, nil), predictions()) }
