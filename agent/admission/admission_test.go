package admission

import (
	"errors"
	"math"
	"math/big"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestTheSentences(t *testing.T) {
	const mb = 1 << 20
	two := []Loaded{{"a", "1", 300 * mb}, {"b", "1", 100 * mb}}
	for _, c := range []struct {
		b          Budgets
		m          Machine
		need       Need
		code, want string
	}{
		{Budgets{Model: 512 * mb}, Machine{}, Need{Estimate: 1536 * mb}, "memory-model", "model m version 2 needs about 1.5GiB of memory, one model may take 512MiB; raise"},
		{Budgets{Model: 512 * mb}, Machine{}, Need{Estimate: 100 * mb, Peak: 600 * mb}, "memory-model", "needs 600MiB (measured) of memory, one model may take 512MiB"},
		{Budgets{Total: 512 * mb}, Machine{}, Need{Estimate: 513 * mb}, "memory-total", "all models together may take 512MiB; raise the budget for all models (model-memory)"},
		{Budgets{Total: 512 * mb}, Machine{}, Need{Estimate: 200 * mb}, "memory-total", "400MiB of the 512MiB for all models are taken by 2 others"},
		{Budgets{Reserve: 100 * mb}, Machine{Memory: 512 * mb}, Need{Estimate: 20 * mb}, "memory-machine", "of the machine's 512MiB, 400MiB are taken by 2 others and 100MiB are kept free"},
		{Budgets{Reserve: 10 * mb}, Machine{Memory: 4096 * mb, Available: 25 * mb}, Need{Estimate: 20 * mb}, "memory-machine", "only 25MiB of the machine's memory are free, of which 10MiB are to stay so"},
	} {
		err := Decide(c.b, c.m, two, "m", "2", c.need)
		var refused *Refused
		if !errors.As(err, &refused) || refused.Code != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s: %s", err, c.code, c.want)
		}
	}
	if err := Decide(Budgets{}, Machine{}, two, "m", "2", Need{Estimate: math.MaxInt64}); err != nil {
		t.Errorf("without bounds: %v", err)
	}
	if err := Decide(Budgets{Model: 512 * mb, Total: 600 * mb, Reserve: 10 * mb}, Machine{Memory: 620 * mb, Available: 220 * mb}, two, "m", "2", Need{Estimate: 900 * mb, Peak: 200 * mb}); err != nil {
		t.Error(err)
	}
}

// TestNothingIsAdmittedThatDoesNotFit in whole numbers of any size, and nothing is refused that does.
func TestNothingIsAdmittedThatDoesNotFit(t *testing.T) {
	amount := rapid.OneOf(rapid.Int64Range(-1, 20), rapid.Int64Range(0, math.MaxInt64), rapid.Just[int64](math.MaxInt64))
	rapid.Check(t, func(t *rapid.T) {
		b := Budgets{Model: amount.Draw(t, "model"), Total: amount.Draw(t, "total"), Reserve: amount.Draw(t, "reserve")}
		m := Machine{Memory: amount.Draw(t, "memory"), Available: amount.Draw(t, "available")}
		need := Need{Estimate: amount.Draw(t, "estimate"), Peak: amount.Draw(t, "peak")}
		var loaded []Loaded
		whole := func(n int64) *big.Int { return big.NewInt(max(n, 0)) }
		sum := new(big.Int)
		for range rapid.IntRange(0, 4).Draw(t, "loaded") {
			n := amount.Draw(t, "bytes")
			loaded = append(loaded, Loaded{Bytes: n})
			sum.Add(sum, whole(n))
		}
		one := whole(need.Bytes())
		all := new(big.Int).Add(sum, one)
		fits := func(n *big.Int, limit int64) bool { return limit <= 0 || n.Cmp(big.NewInt(limit)) <= 0 }
		want := fits(one, b.Model) && fits(all, b.Total) &&
			fits(new(big.Int).Add(all, whole(b.Reserve)), m.Memory) && fits(new(big.Int).Add(one, whole(b.Reserve)), m.Available)
		err := Decide(b, m, loaded, "m", "1", need)
		// What is beyond every number is taken for the largest one: only there can the two differ.
		if (err == nil) != want && all.IsInt64() && new(big.Int).Add(all, whole(b.Reserve)).IsInt64() {
			t.Fatalf("%+v %+v %+v %v: %v, want %v", b, m, need, loaded, err, want)
		}
		if refused, ok := errors.AsType[*Refused](err); ok {
			// Waiting helps exactly when something else may go, be it a model or another program.
			m.Available = 0
			if alone := Decide(b, m, nil, "m", "1", need); (alone != nil) != refused.Lasting {
				t.Fatalf("%v is said to last: %v; with nothing else loaded: %v", err, refused.Lasting, alone)
			}
		}
		if err == nil {
			// Whatever needs less may be loaded too.
			less := Need{Estimate: rapid.Int64Range(0, need.Bytes()).Draw(t, "less")}
			if err := Decide(b, m, loaded, "m", "1", less); err != nil {
				t.Fatalf("%+v may be loaded, %+v not: %v", need, less, err)
			}
		}
	})
}
