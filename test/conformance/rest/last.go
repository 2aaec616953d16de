package rest

import (
	"fmt"

	"github.com/dhowfleet/dhow/test/conformance/suite"
)

// Last are the checks that end a run: is the server as it was?
func Last() []suite.Check {
	return []suite.Check{
		{Group: "last", Name: "still-live", About: "after all that, the server lives and is ready", Run: func(r *suite.Run) error {
			for _, path := range []string{"/v2/health/live", "/v2/health/ready"} {
				code, err := r.Status(path)
				if err != nil {
					return err
				}
				if code/100 != 2 {
					return fmt.Errorf("%s has status %d", path, code)
				}
			}
			return nil
		}},
		{Group: "last", Name: "same-answers", Scope: suite.Each, About: "after all that, each model answers as it did", Run: (*suite.Run).Again},
	}
}
