package killtest_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/dhowfleet/dhow/test/failpoint"
	"github.com/dhowfleet/dhow/test/failpoint/killtest"
)

func TestMain(m *testing.M) {
	if name := os.Getenv("DHOW_KILLTEST_VICTIM"); name != "" {
		fmt.Println("hello", name)
		failpoint.Here("killtest/first")
		fmt.Println("further")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestTheVictimDiesWhereItIsTold(t *testing.T) {
	env := []string{"DHOW_KILLTEST_VICTIM=ana"}
	if out := killtest.Killed(t, "killtest/first", env); out != "hello ana\n" {
		t.Errorf("it said %q", out)
	}
	for _, point := range []string{"", "killtest/first:2"} {
		if out, killed := killtest.Run(t, point, env); killed || out != "hello ana\nfurther\n" {
			t.Errorf("with %q: killed %t, %q", point, killed, out)
		}
	}
	killtest.Listed(t, []string{"killtest/first"})
}
