package hostile

import (
	"context"
	"strings"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// TestTheCorpusIsOne: every module is there once, says what it does, and is WASM if it says so: a module that no engine
// would take proves nothing about loops.
func TestTheCorpusIsOne(t *testing.T) {
	t.Parallel()
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(api.CoreFeaturesV2))
	defer r.Close(context.Background())
	seen, valid := map[string]bool{}, 0
	for _, c := range Cases() {
		if seen[c.Name] || c.Kind == "" || c.Does == "" {
			t.Errorf("%s: there twice, or says nothing", c.Name)
		}
		seen[c.Name] = true
		if strings.HasPrefix(c.Name, "count-") {
			continue // wazero makes room for as many entries as a section says, and the process is killed for it
		}
		if c.Want.What == "complexity" || c.Want.What == "too large" || c.Want.What == "unsupported" || c.Want.What == "table" {
			continue // wazero would take it, but not soon; or it has limits of its own
		}
		compiled, err := r.CompileModule(t.Context(), c.Build())
		if (err != nil) != c.Invalid {
			t.Errorf("%s: invalid is %v, wazero says %v", c.Name, c.Invalid, err)
		}
		if err == nil {
			valid++
			_ = compiled.Close(t.Context())
		}
	}
	t.Logf("%d modules, %d of them tried and found valid", len(seen), valid)
	if len(seen) < 60 || valid < 60 {
		t.Errorf("only %d modules, %d of them valid", len(seen), valid)
	}
}
