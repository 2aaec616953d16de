package rest

import (
	"fmt"
	"slices"
	"sync"

	"github.com/dhowfleet/dhow/test/conformance/suite"
	"github.com/dhowfleet/dhow/test/conformance/wire"
)

func inferChecks() []suite.Check {
	text := func(change func(*wire.Call), judge func(*suite.Run, *wire.Answer) error) func(*suite.Run) error {
		return func(r *suite.Run) error {
			c, err := r.TextCall()
			if err != nil {
				return err
			}
			change(&c)
			got, err := r.Infer(c)
			if err != nil {
				return err
			}
			if err := r.Matches(got); err != nil {
				return err
			}
			return judge(r, got)
		}
	}
	nothing := func(*suite.Run, *wire.Answer) error { return nil }
	return []suite.Check{
		{Group: "infer", Name: "model-found", About: "at least one model answers a request made by its metadata, and none in another form than the protocol's", Run: func(r *suite.Run) error {
			for _, m := range r.Suite.Unusable {
				if m.Malformed != "" {
					return fmt.Errorf("model %s answered, but not as the protocol says: %s", m.Name, m.Malformed)
				}
			}
			if len(r.Suite.Models) > 0 {
				return nil
			}
			return fmt.Errorf("none does; the first of %d says: %s", len(r.Suite.Unusable), r.Suite.Unusable[0].Unusable)
		}},
		{Group: "infer", Name: "metadata-holds", Scope: suite.Each, About: "an answer has the outputs, datatypes and shapes of the metadata", Run: func(r *suite.Run) error {
			got, err := r.Infer(r.Carried())
			if err != nil {
				return err
			}
			return r.Describes(got)
		}},
		{Group: "infer", Name: "json-flat", Scope: suite.Each, About: "data as one flat list", Run: text(func(*wire.Call) {}, nothing)},
		{Group: "infer", Name: "json-nested", Scope: suite.Each, About: "data as nested lists gives the same", Run: text(func(c *wire.Call) { c.Nest = true }, nothing)},
		{Group: "infer", Name: "id", Scope: suite.Each, About: "the id comes back as it was sent", Run: echo},
		{Group: "infer", Name: "parameters", Scope: suite.First, About: "empty parameters change nothing", Run: text(func(c *wire.Call) { c.Parameters = map[string]any{} }, nothing)},
		{Group: "infer", Name: "requested-outputs", Scope: suite.Each, About: "each output can be asked for alone, and nothing else comes", Run: requested},
		{Group: "infer", Name: "versions", Scope: suite.Each, About: "each version answers under its path and names itself", Run: versions},
		{Group: "infer", Name: "concurrent", Scope: suite.First, About: "requests at the same time each get their own answer", Run: concurrent},
	}
}

func echo(r *suite.Run) error {
	for _, id := range []string{"42", "a/b:c \"quoted\" \\ é 試", "0123456789abcdef0123456789abcdef"} {
		c := r.Carried()
		c.ID = id
		got, err := r.Infer(c)
		if err != nil {
			return err
		}
		if got.ID != id {
			return fmt.Errorf("the id %q came back as %q", id, got.ID)
		}
	}
	return nil
}

func requested(r *suite.Run) error {
	names := make([]string, len(r.Model.Metadata.Outputs))
	for i, d := range r.Model.Metadata.Outputs {
		names[i] = d.Name
	}
	asks := [][]string{}
	for i := range names {
		asks = append(asks, names[i:i+1])
	}
	if len(names) > 1 {
		asks = append(asks, names, slices.Concat(names[1:], names[:1]))
	}
	for _, ask := range asks[:min(len(asks), 8)] {
		c := r.Carried()
		for _, name := range ask {
			c.Outputs = append(c.Outputs, map[string]any{"name": name})
		}
		got, err := r.Infer(c)
		if err != nil {
			return err
		}
		if len(got.Outputs) != len(ask) {
			return fmt.Errorf("%d outputs were asked for, %d came", len(ask), len(got.Outputs))
		}
		for _, name := range ask {
			v, want := got.Find(name), r.Model.Reference.Find(name)
			if v == nil {
				return fmt.Errorf("output %q was asked for and did not come", name)
			}
			if r.Model.Steady && want != nil {
				if err := want.Same(v); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func versions(r *suite.Run) error {
	if len(r.Model.Metadata.Versions) == 0 {
		return suite.Skip("the metadata lists no versions")
	}
	for _, v := range r.Model.Metadata.Versions {
		c := r.Carried()
		c.Version = v
		got, err := r.Infer(c)
		if err != nil {
			return fmt.Errorf("version %q: %v", v, err)
		}
		if got.Version != v {
			return fmt.Errorf("version %q was asked for, \"model_version\" is %q", v, got.Version)
		}
	}
	return nil
}

func concurrent(r *suite.Run) error {
	const clients, each = 16, 4
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			own := r.Fork()
			for j := range each {
				c := own.Carried()
				c.ID = fmt.Sprintf("client-%d-request-%d", i, j)
				got, err := own.Infer(c)
				if err == nil && got.ID != c.ID {
					err = fmt.Errorf("the answer to %q has the id %q", c.ID, got.ID)
				}
				if err == nil {
					err = own.Matches(got)
				}
				if err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("with %d clients at once: %v", clients, err)
		}
	}
	return nil
}
