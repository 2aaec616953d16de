package failpoint

import "testing"

func TestKillsAtTheNthPassing(t *testing.T) {
	killed := 0
	kill = func() { killed++ }
	defer arm("")
	arm("a/b:3")
	for i := 1; i <= 5; i++ {
		Here("a/b")
		Here("a/c")
		if want := map[bool]int{false: 0, true: 1}[i >= 3]; killed != want {
			t.Fatalf("after passing %d: killed %d times, want %d", i, killed, want)
		}
	}
}
