package metering

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestMutants changes bytes of valid modules, of the corpus and drawn ones: an invalid mutant never becomes valid, a
// valid one that is accepted stays valid.
func TestMutants(t *testing.T) {
	check := newJudge(t, interpreter())
	random := rand.New(rand.NewPCG(1, 2))
	var seeds [][]byte
	for _, path := range corpus(t) {
		code, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if len(code) < 4000 && check.compiles(code) == nil {
			seeds = append(seeds, code)
		}
	}
	for seed := range 300 {
		seeds = append(seeds, rapid.Custom(func(t *rapid.T) []byte { return drawProgram(t, true) }).Example(seed))
	}
	count := 20_000
	if long() {
		count = 2_000_000
	}
	var refused, valid, invalid int
	for range count {
		code := slices.Clone(seeds[random.IntN(len(seeds))])
		for range 1 + random.IntN(3) {
			at := random.IntN(len(code))
			switch random.IntN(5) {
			case 0:
				code[at] ^= 1 << random.IntN(8)
			case 1:
				code[at] = byte(random.UintN(256))
			case 2: // small numbers are indexes
				code[at] = byte(random.UintN(8))
			case 3: // a byte of another place, such as an opcode
				code[at] = code[random.IntN(len(code))]
			case 4: // a number is longer than it was, and something behind it gone
				if at+2 < len(code) {
					code[at], code[at+1] = code[at]|0x80, 0
				}
			}
		}
		m, err := Rewrite(code, Options{Mode: Mode(random.IntN(2))})
		if err != nil {
			refused++
			continue
		}
		plain, metered := check.compiles(code), check.compiles(m.Code)
		if (plain == nil) != (metered == nil) {
			t.Fatalf("plain: %v\nmetered: %v\n%x", plain, metered, code)
		}
		if plain == nil {
			valid++
		} else {
			invalid++
		}
	}
	t.Logf("%d mutants: %d refused, %d accepted and valid, %d left to the compiler, which refuses them", count, refused, valid, invalid)
	if valid == 0 || invalid == 0 || refused == 0 {
		t.Error("the mutants are all of one kind: the test says little")
	}
}
