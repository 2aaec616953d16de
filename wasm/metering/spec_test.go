package metering

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// script is one of the WebAssembly specification's tests, as commands.
type script struct {
	Commands []struct {
		Type     string
		Line     int
		Name     string
		As       string
		Filename string
		Action   struct {
			Type, Module, Field string
			Args                []value
		}
	}
}

type value struct {
	Type     string
	LaneType string `json:"lane_type"`
	Value    json.RawMessage
}

// words returns a value as it lies on the stack.
func (v value) words() ([]uint64, error) {
	number := func(s string, bits int) (uint64, error) {
		if s == "null" {
			return 0, nil
		}
		if n, err := strconv.ParseInt(s, 10, 64); err == nil && n < 0 {
			return uint64(n) & (1<<bits - 1), nil
		}
		return strconv.ParseUint(s, 10, 64)
	}
	if v.Type != "v128" {
		var s string
		if err := json.Unmarshal(v.Value, &s); err != nil {
			return nil, err
		}
		n, err := number(s, 64)
		return []uint64{n}, err
	}
	var lanes []string
	if err := json.Unmarshal(v.Value, &lanes); err != nil {
		return nil, err
	}
	bits := 128 / len(lanes)
	out := make([]uint64, 2)
	for i, lane := range lanes {
		n, err := number(lane, bits)
		if err != nil {
			return nil, err
		}
		out[i*bits/64] |= n << (i * bits % 64)
	}
	return out, nil
}

// registered returns the name under which others import from the module of a command: a later one says so.
func (s script) registered(at int) string {
	module := s.Commands[at]
	latest := true
	for _, c := range s.Commands[at+1:] {
		switch {
		case c.Type == "module":
			latest = false
		case c.Type == "register" && (c.Name == "" && latest || c.Name != "" && c.Name == module.Name):
			return c.As
		}
	}
	return module.Name
}

// side runs a script, metered or not.
type side struct {
	wazero.Runtime
	modules map[string]api.Module
	latest  api.Module
	refills int
}

func newSide(t *testing.T, config wazero.RuntimeConfig, spectest []byte) *side {
	t.Helper()
	ctx := context.Background()
	s := &side{Runtime: wazero.NewRuntimeWithConfig(ctx, config.WithCoreFeatures(api.CoreFeaturesV2)), modules: map[string]api.Module{}}
	t.Cleanup(func() { _ = s.Close(ctx) })
	_, err := s.NewHostModuleBuilder(ImportModule).NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) {
		if s.refills++; int64(stack[1]) < 0 {
			panic(errors.New("the stack is used up"))
		}
		stack[0] = 1000 // little, so that it is called often
	}), []api.ValueType{api.ValueTypeI64, api.ValueTypeI64}, []api.ValueType{api.ValueTypeI64}).Export(ImportRefill).Instantiate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.InstantiateWithConfig(ctx, spectest, wazero.NewModuleConfig()); err != nil {
		t.Fatal(err)
	}
	return s
}

// outcome is what two sides must agree on.
type outcome struct {
	results []uint64
	failed  string
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	if at, rest, found := strings.Cut(first, "] failed"); found && strings.HasPrefix(at, "start function[") {
		return rest // a function's index is another in the metered module
	}
	return first
}

func (s *side) instantiate(code []byte, name string) outcome {
	c, err := s.CompileModule(context.Background(), code)
	if err != nil {
		return outcome{failed: "does not compile"}
	}
	m, err := s.InstantiateModule(context.Background(), c, wazero.NewModuleConfig().WithName(name).WithStartFunctions())
	if err != nil {
		return outcome{failed: reason(err)}
	}
	s.latest = m
	return outcome{}
}

func (s *side) invoke(name, field string, args []uint64) outcome {
	m := s.latest
	if name != "" {
		m = s.modules[name]
	}
	if m == nil || m.ExportedFunction(field) == nil {
		return outcome{failed: "there is no such function"}
	}
	if g := m.ExportedGlobal(ExportFuel); g != nil {
		g.(api.MutableGlobal).Set(0)
		m.ExportedGlobal(ExportStack).(api.MutableGlobal).Set(DefaultStack)
	}
	results, err := m.ExportedFunction(field).Call(context.Background(), args...)
	return outcome{results: results, failed: reason(err)}
}

// TestSpecification: the specification's own tests give the same results, the same traps, and the same memory, metered
// and plain.
func TestSpecification(t *testing.T) {
	dir, err := wazeroDir()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(dir, "internal", "integration_test", "spectest")
	spectest, err := os.ReadFile(filepath.Join(dir, "testdata", "spectest.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	metered, err := Rewrite(spectest, Options{})
	if err != nil {
		t.Fatal(err)
	}
	scripts, err := filepath.Glob(filepath.Join(dir, "v2", "testdata", "*.json"))
	if err != nil || len(scripts) < 100 {
		t.Fatalf("%d scripts found: %v", len(scripts), err)
	}
	invoked, skipped, refills := 0, 0, 0
	for i, path := range scripts {
		if operations := filepath.Base(path); !long() && i%8 != 0 &&
			(strings.HasPrefix(operations, "simd") || strings.HasPrefix(operations, "f") || operations == "conversions.json" || operations == "const.json") {
			continue // many operations, few ways through a function
		}
		var s script
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		plain, other := newSide(t, interpreter(), spectest), newSide(t, interpreter(), metered.Code)
		refused, memory := false, map[api.Module]bool{}
		for at, c := range s.Commands {
			where := fmt.Sprintf("%s:%d", filepath.Base(path), c.Line)
			switch c.Type {
			case "module", "assert_uninstantiable", "assert_unlinkable":
				code, err := os.ReadFile(filepath.Join(filepath.Dir(path), c.Filename))
				if err != nil {
					t.Fatal(err)
				}
				m, err := Rewrite(code, Options{})
				if refused = err != nil; refused {
					skipped++
					continue
				}
				name := s.registered(at)
				want, got := plain.instantiate(code, name), other.instantiate(m.Code, name)
				if want.failed == "" {
					memory[plain.latest] = m.Info.Memories > 0
				}
				if want.failed != got.failed && !strings.Contains(want.failed, "maximum size mismatch") { // no table grows
					t.Errorf("%s: plain %q, metered %q", where, want.failed, got.failed)
				}
				if c.Name != "" {
					plain.modules[c.Name], other.modules[c.Name] = plain.latest, other.latest
				}
			case "assert_return", "assert_trap", "action":
				if c.Action.Type != "invoke" || refused {
					skipped++
					continue
				}
				var args []uint64
				for _, a := range c.Action.Args {
					w, err := a.words()
					if err != nil {
						t.Fatal(where, err)
					}
					args = append(args, w...)
				}
				want, got := plain.invoke(c.Action.Module, c.Action.Field, args), other.invoke(c.Action.Module, c.Action.Field, args)
				invoked++
				if want.failed != got.failed || !slices.Equal(want.results, got.results) && !references(c.Action.Args) {
					t.Errorf("%s: %s(%v): plain %v, metered %v", where, c.Action.Field, args, want, got)
				}
				if !memory[plain.latest] {
					continue
				}
				a, _ := plain.latest.Memory().Read(0, plain.latest.Memory().Size())
				if b, _ := other.latest.Memory().Read(0, other.latest.Memory().Size()); string(a) != string(b) {
					t.Errorf("%s: %s(%v) leaves another memory", where, c.Action.Field, args)
				}
			}
		}
		refills += other.refills
		_, _ = plain.Close(context.Background()), other.Close(context.Background())
	}
	t.Logf("%d calls agree, %d were left out, refill was called %d times", invoked, skipped, refills)
	if invoked < 10_000 || refills < 1000 {
		t.Errorf("%d calls with %d refills say little", invoked, refills)
	}
}

// references tells whether a call is about references, which are addresses that no two runs share.
func references(args []value) bool {
	return slices.ContainsFunc(args, func(v value) bool { return strings.HasSuffix(v.Type, "ref") })
}
