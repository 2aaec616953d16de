package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPercentilesAreOfWhatWasMeasured(t *testing.T) {
	for _, c := range []struct {
		in   []time.Duration
		p    int
		want time.Duration
	}{{[]time.Duration{3}, 50, 3}, {[]time.Duration{4, 1, 3, 2}, 50, 2}, {[]time.Duration{5, 1, 4, 2, 3}, 99, 4}, {[]time.Duration{2, 1}, 0, 1}} {
		if got := percentile(c.in, c.p); got != c.want {
			t.Errorf("%d%% of %v is %v, want %v", c.p, c.in, got, c.want)
		}
	}
}

// A sheet says what misses its goal, in its row and at the end.
func TestVerdictsAreCounted(t *testing.T) {
	var out bytes.Buffer
	r := report{out: &out}
	s := r.sheet("what", "figure")
	s.row(goals{atMost("", 1.2, 1.25)}, "good", "1.20x")
	s.row(goals{atMost("a", 1, 2), within("b", 3*time.Millisecond, 2*time.Millisecond)}, "bad", "3 ms")
	s.row(nil, "none")
	s.note("absent", "no compiler")
	if err := s.flush(); err != nil {
		t.Fatal(err)
	}
	r.summary()
	for _, want := range []string{"<= 1.25x   holds", "a <= 2.00x, b <= 2 ms  MISSES", "absent was not measured: no compiler", "1 figures hold, 1 miss their goal", "MISSES bad  3 ms  goal a <="} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if r.held != 1 || r.missed != 1 {
		t.Errorf("%d hold, %d miss", r.held, r.missed)
	}
}

// Every contender does its work in every round, and the first that fails ends it by name.
func TestContendersTakeTurns(t *testing.T) {
	var order strings.Builder
	work := func(name string) contender {
		return contender{name, func(n int) error {
			order.WriteString(name)
			for end := threadTime() + minimal; threadTime() < end; { // one piece of work is enough
			}
			return nil
		}}
	}
	took, err := compare(t.Context(), 3, []contender{work("a"), work("b")})
	if err != nil || len(took) != 2 || took[0] < minimal {
		t.Fatalf("%v, %v", took, err)
	}
	if got := order.String(); got != "abababab" {
		t.Errorf("the order is %s", got)
	}
	_, err = compare(t.Context(), 3, []contender{{"broken", func(int) error { return errors.New("so") }}})
	if err == nil || err.Error() != "broken: so" {
		t.Errorf("%v", err)
	}
}

// Every guest that is put together by hand does what its kind is measured for.
func TestEchoesEcho(t *testing.T) {
	for _, size := range []int{1, 7, 8, 4096, 100_003} {
		all, err := echoes(t.Context(), size)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			for range 3 {
				if err := e.call(); err != nil {
					t.Errorf("%s, %d bytes: %v", e.name, size, err)
				}
			}
			e.close()
		}
	}
}

func TestAnUnknownTableIsRefused(t *testing.T) {
	b := &bench{report: report{out: &bytes.Buffer{}}}
	if err := b.runAll(context.Background(), "kernels,none"); err == nil || !strings.Contains(err.Error(), `no table "none"`) {
		t.Errorf("%v", err)
	}
}
