package extension

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

const repositoryExtension = "model_repository"

type indexEntry struct{ Name, Version, State, Reason *string }

func index(r *suite.Run, ready bool) ([]indexEntry, error) {
	got, err := r.Post("/v2/repository/index", map[string]bool{"ready": ready})
	if err != nil {
		return nil, err
	}
	var entries []indexEntry
	return entries, got.Object(&entries)
}

func repositoryChecks() []suite.Check {
	return []suite.Check{
		{Group: "repository", Name: "index", Needs: repositoryExtension, About: "the index names each model and a state", Run: func(r *suite.Run) error {
			entries, err := index(r, false)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if e.Name == nil || *e.Name == "" {
					return fmt.Errorf("an entry has no \"name\"")
				}
				if e.State != nil && !slices.Contains([]string{"READY", "UNAVAILABLE", "LOADING", "UNLOADING", ""}, *e.State) {
					return fmt.Errorf("%q has the state %q", *e.Name, *e.State)
				}
			}
			for _, m := range r.Suite.Models {
				if !lists(entries, m.Name, "READY") {
					return fmt.Errorf("%q answers, but the index does not say READY", m.Name)
				}
			}
			return nil
		}},
		{Group: "repository", Name: "index-empty-body", Needs: repositoryExtension, About: "the index can be asked for without a body", Run: func(r *suite.Run) error {
			got, err := r.Do(http.MethodPost, "/v2/repository/index", nil, nil)
			if err != nil {
				return err
			}
			var entries []indexEntry
			return got.Object(&entries)
		}},
		{Group: "repository", Name: "index-ready", Needs: repositoryExtension, About: "with ready, the index lists only what is ready", Run: func(r *suite.Run) error {
			entries, err := index(r, true)
			if err != nil {
				return err
			}
			for _, e := range entries {
				if e.Name != nil && e.State != nil && *e.State != "READY" && *e.State != "" {
					return fmt.Errorf("%q is listed with state %q", *e.Name, *e.State)
				}
			}
			return nil
		}},
		{Group: "repository", Name: "load-unknown", Needs: repositoryExtension, About: "loading what is not there is refused", Run: func(r *suite.Run) error {
			got, err := r.Post("/v2/repository/models/conformance%20no%20such%20model/load", map[string]any{})
			if err != nil {
				return err
			}
			return got.Refused()
		}},
		{Group: "repository", Name: "unload-load", Needs: repositoryExtension, About: "a model that is unloaded is not ready, and is when it is loaded again", Run: reload},
	}
}

func lists(entries []indexEntry, name, state string) bool {
	return slices.ContainsFunc(entries, func(e indexEntry) bool {
		return e.Name != nil && *e.Name == name && (e.State == nil || *e.State == state)
	})
}

func reload(r *suite.Run) error {
	name := r.Suite.Options.Control
	if name == "" {
		return suite.Skip("it stops a model for a moment; name one that may be with -control")
	}
	path := "/v2/repository/models/" + url.PathEscape(name)
	err := unloadAndLoad(r, name, path)
	if err != nil {
		// The model was there before; that it is again is worth more than what the server says to it.
		_, _ = r.Fork().Post(path+"/load", map[string]any{})
	}
	return err
}

func unloadAndLoad(r *suite.Run, name, path string) error {
	for _, step := range []struct {
		verb  string
		ready bool
	}{{"/unload", false}, {"/load", true}, {"/load", true}} {
		got, err := r.Post(path+step.verb, map[string]any{})
		if err != nil {
			return err
		}
		if err := got.OK(); err != nil {
			return fmt.Errorf("%s: %v", step.verb, err)
		}
		code, err := r.Status(suite.Path(name, "", "/ready"))
		if err != nil {
			return err
		}
		if ready := code/100 == 2; ready != step.ready {
			return fmt.Errorf("after %s, the model's readiness has status %d", step.verb, code)
		}
		entries, err := index(r, false)
		if err != nil {
			return err
		}
		if lists(entries, name, "READY") != step.ready {
			return fmt.Errorf("after %s, the index does not say so", step.verb)
		}
	}
	return nil
}

func predictChecks() []suite.Check {
	return []suite.Check{
		{Group: "v1", Name: "ready", Scope: suite.First, About: "GET /v1/models/{model} says that the model is ready", Run: func(r *suite.Run) error {
			if err := hasV1(r); err != nil {
				return err
			}
			got, err := r.Get("/v1/models/" + url.PathEscape(r.Model.Name))
			if err != nil {
				return err
			}
			var doc struct {
				Name  string
				Ready any
			}
			if err := got.Object(&doc); err != nil {
				return err
			}
			if doc.Name != r.Model.Name || !strings.EqualFold(fmt.Sprint(doc.Ready), "true") {
				return fmt.Errorf("the answer does not name the model as ready")
			}
			return nil
		}},
		{Group: "v1", Name: "predict", Scope: suite.Each, About: "POST /v1/models/{model}:predict gives a prediction for each instance", Run: predict},
		{Group: "v1", Name: "unknown-model", About: "a prediction by a model that is not there is refused", Run: func(r *suite.Run) error {
			if err := hasV1(r); err != nil {
				return err
			}
			got, err := r.Post("/v1/models/conformance%20no%20such%20model:predict", map[string]any{"instances": []any{1}})
			if err != nil {
				return err
			}
			return got.Refused()
		}},
		{Group: "v1", Name: "no-instances", Scope: suite.First, About: "a prediction without instances is refused", Run: func(r *suite.Run) error {
			if err := hasV1(r); err != nil {
				return err
			}
			got, err := r.Post("/v1/models/"+url.PathEscape(r.Model.Name)+":predict", map[string]any{})
			if err != nil {
				return err
			}
			return r.RefusedWell(got)
		}},
	}
}

// hasV1 skips where the older protocol is not spoken at all: it has no list of extensions to be named in.
func hasV1(r *suite.Run) error {
	code, err := r.Status("/v1/models")
	if err != nil {
		return err
	}
	if code/100 == 4 {
		return suite.Skip("GET /v1/models has status %d: the server does not speak KServe's version 1", code)
	}
	return nil
}

func predict(r *suite.Run) error {
	if err := hasV1(r); err != nil {
		return err
	}
	if _, err := r.TextCall(); err != nil {
		return err
	}
	if len(r.Model.Inputs) == 0 {
		return suite.Skip("the model has no inputs")
	}
	rows := int64(-1)
	for i, d := range r.Model.Metadata.Inputs {
		v := &r.Model.Inputs[i]
		if len(v.Shape) == 0 || v.Shape[0] == 0 || d.Shape[0] >= 0 || rows >= 0 && rows != v.Shape[0] {
			return suite.Skip("input %q has no first dimension that varies with the number of instances", d.Name)
		}
		rows = v.Shape[0]
	}
	instances := make([]any, rows)
	for row := range rows {
		object := map[string]any{}
		for i := range r.Model.Inputs {
			v := &r.Model.Inputs[i]
			list := v.List()
			step := int64(len(list)) / rows
			part := any(wire.Nested(list[row*step:(row+1)*step], v.Shape[1:]))
			if len(v.Shape) == 1 {
				part = list[row]
			}
			object[v.Name] = part
			if len(r.Model.Inputs) == 1 {
				instances[row] = part
			}
		}
		if len(r.Model.Inputs) > 1 {
			instances[row] = object
		}
	}
	for i := range r.Model.Reference.Outputs {
		if v := &r.Model.Reference.Outputs[i]; len(v.Shape) == 0 || v.Shape[0] != rows {
			return suite.Skip("output %q has no row for each instance", v.Name)
		}
	}
	got, err := r.Post("/v1/models/"+url.PathEscape(r.Model.Name)+":predict", map[string]any{"instances": instances})
	if err != nil {
		return err
	}
	var doc struct{ Predictions []any }
	if err := got.Object(&doc); err != nil {
		return err
	}
	if int64(len(doc.Predictions)) != rows {
		return fmt.Errorf("%d predictions came for %d instances", len(doc.Predictions), rows)
	}
	return nil
}
