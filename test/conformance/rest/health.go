// Package rest holds the checks of the protocol's core over HTTP: health, metadata, inference in JSON and with binary
// tensors, compressed bodies, and what must be refused.
//
// Checks lists them, in the order in which they are made; Last lists those that end a run. They keep no state.
package rest

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

// Checks lists what the core of the protocol says.
func Checks() []suite.Check {
	return slices.Concat(healthChecks(), metadataChecks(), inferChecks(), binaryChecks(), compressionChecks(), errorChecks())
}

func healthChecks() []suite.Check {
	body := func(path, key string) func(*suite.Run) error {
		return func(r *suite.Run) error {
			got, err := r.Get(path)
			if err != nil {
				return err
			}
			if err := got.OK(); err != nil {
				return err
			}
			if len(strings.TrimSpace(string(got.Body))) == 0 {
				return nil // some servers answer by the status alone
			}
			var doc map[string]any
			if err := wire.Decode(got.Body, &doc); err != nil {
				return err
			}
			// The protocol's text prints "live" for both.
			if doc[key] != true && doc["live"] != true {
				return fmt.Errorf("the answer does not say %q: true", key)
			}
			return nil
		}
	}
	return []suite.Check{
		{Group: "health", Name: "live", About: "the server says that it lives", Run: body("/v2/health/live", "live")},
		{Group: "health", Name: "ready", About: "the server says that it is ready", Run: body("/v2/health/ready", "ready")},
		{Group: "health", Name: "wrong-method", About: "health is not posted to", Run: func(r *suite.Run) error {
			got, err := r.Do(http.MethodPost, "/v2/health/live", nil, nil)
			if err != nil {
				return err
			}
			if got.Status/100 != 4 {
				return fmt.Errorf("status %d for POST", got.Status)
			}
			return nil
		}},
	}
}

func metadataChecks() []suite.Check {
	return []suite.Check{
		{Group: "metadata", Name: "server", About: "GET /v2 gives name, version and extensions", Run: serverMetadata},
		{Group: "metadata", Name: "model", Scope: suite.Each, About: "a model's metadata has every key, with datatypes of the protocol", Run: modelMetadata},
		{Group: "metadata", Name: "ready", Scope: suite.Each, About: "a model that answers is ready", Run: func(r *suite.Run) error {
			code, err := r.Status(suite.Path(r.Model.Name, "", "/ready"))
			if err == nil && code/100 != 2 {
				err = fmt.Errorf("status %d", code)
			}
			return err
		}},
		{Group: "metadata", Name: "versions", Scope: suite.Each, About: "each listed version has metadata and is ready", Run: versionMetadata},
		{Group: "metadata", Name: "percent-encoding", Scope: suite.Each, About: "a name with every byte percent-encoded is the same name", Run: func(r *suite.Run) error {
			var path strings.Builder
			for _, b := range []byte(r.Model.Name) {
				fmt.Fprintf(&path, "%%%02X", b)
			}
			got, err := r.Get("/v2/models/" + path.String())
			if err != nil {
				return err
			}
			var m suite.Metadata
			if err := got.Object(&m); err != nil {
				return err
			}
			if m.Name == nil || *m.Name != r.Model.Name {
				return fmt.Errorf("the metadata is that of another model")
			}
			return nil
		}},
		{Group: "metadata", Name: "case", Scope: suite.First, About: "names are case-sensitive", Run: func(r *suite.Run) error {
			other := strings.ToUpper(r.Model.Name)
			if other == r.Model.Name {
				other = strings.ToLower(r.Model.Name)
			}
			if other == r.Model.Name || r.Suite.Knows(other) {
				return suite.Skip("%q has no other case that no model has", r.Model.Name)
			}
			return r.RefusesGet(suite.Path(other, "", ""))
		}},
		{Group: "metadata", Name: "unknown-model", About: "metadata of a model that is not there is refused", Run: func(r *suite.Run) error {
			return r.RefusesGet(suite.Path("conformance no such model", "", ""))
		}},
		{Group: "metadata", Name: "unknown-model-ready", About: "a model that is not there is not ready", Run: func(r *suite.Run) error {
			code, err := r.Status(suite.Path("conformance no such model", "", "/ready"))
			if err == nil && code/100 != 4 && code != http.StatusServiceUnavailable {
				err = fmt.Errorf("status %d", code)
			}
			return err
		}},
		{Group: "metadata", Name: "unknown-version", Scope: suite.First, About: "metadata of a version that is not there is refused", Run: func(r *suite.Run) error {
			return r.RefusesGet(suite.Path(r.Model.Name, "987654321", ""))
		}},
		{Group: "metadata", Name: "unknown-path", About: "a path that means nothing is refused", Run: func(r *suite.Run) error {
			code, err := r.Status("/v2/conformance/nothing")
			if err == nil && code/100 != 4 {
				err = fmt.Errorf("status %d", code)
			}
			return err
		}},
	}
}

func serverMetadata(r *suite.Run) error {
	got, err := r.Get("/v2")
	if err != nil {
		return err
	}
	var doc struct {
		Name, Version *string
		Extensions    *[]string
	}
	if err := got.Object(&doc); err != nil {
		return err
	}
	switch {
	case doc.Name == nil || *doc.Name == "":
		return fmt.Errorf("there is no \"name\"")
	case doc.Version == nil:
		return fmt.Errorf("there is no \"version\"")
	case doc.Extensions == nil:
		return fmt.Errorf("there is no \"extensions\"; a server without any has an empty list")
	}
	return nil
}

func modelMetadata(r *suite.Run) error {
	got, err := r.Get(suite.Path(r.Model.Name, "", ""))
	if err != nil {
		return err
	}
	var m suite.Metadata
	if err := got.Object(&m); err != nil {
		return err
	}
	switch {
	case m.Name == nil || *m.Name != r.Model.Name:
		return fmt.Errorf("\"name\" is not %q", r.Model.Name)
	case m.Platform == nil || *m.Platform == "":
		return fmt.Errorf("there is no \"platform\"")
	}
	names := map[string]bool{}
	for i, d := range slices.Concat(m.Inputs, m.Outputs) {
		kind := "input"
		if i >= len(m.Inputs) {
			kind = "output"
		}
		if d.Name == "" || names[kind+d.Name] {
			return fmt.Errorf("%s %q: names must be there, and once", kind, d.Name)
		}
		names[kind+d.Name] = true
		if _, known := wire.Sizes[d.Datatype]; !known {
			return fmt.Errorf("%s %q has the datatype %q, which the protocol does not have", kind, d.Name, d.Datatype)
		}
		if d.Shape == nil {
			return fmt.Errorf("%s %q has no \"shape\"; a scalar's is []", kind, d.Name)
		}
		for _, n := range d.Shape {
			if n < -1 {
				return fmt.Errorf("%s %q has the shape %v; -1 is the dimension that varies", kind, d.Name, d.Shape)
			}
		}
	}
	return nil
}

func versionMetadata(r *suite.Run) error {
	if len(r.Model.Metadata.Versions) == 0 {
		return suite.Skip("the metadata lists no versions")
	}
	for _, v := range r.Model.Metadata.Versions {
		got, err := r.Get(suite.Path(r.Model.Name, v, ""))
		if err != nil {
			return err
		}
		var m suite.Metadata
		if err := got.Object(&m); err != nil {
			return fmt.Errorf("version %q: %v", v, err)
		}
		if m.Name == nil || *m.Name != r.Model.Name || !slices.Contains(m.Versions, v) {
			return fmt.Errorf("the metadata of version %q does not name the model and the version", v)
		}
		code, err := r.Status("/v2/models/" + url.PathEscape(r.Model.Name) + "/versions/" + url.PathEscape(v) + "/ready")
		if err != nil {
			return err
		}
		if code/100 != 2 {
			return fmt.Errorf("version %q is listed but not ready: status %d", v, code)
		}
	}
	return nil
}
