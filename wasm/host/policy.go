package host

import (
	"fmt"

	"github.com/dhowfleet/dhow/wasm/wasi"
)

// Policy is what the machine's operator lets modules have that ask for it. The zero value is nothing.
type Policy struct {
	Clock  bool `json:"clock,omitempty"`
	Random bool `json:"random,omitempty"`
	Files  bool `json:"files,omitempty"` // a folder of their own bundle
}

// Everything permits all there is.
// It is for tools that try modules, on the machine of whoever asks them to.
var Everything = Policy{Clock: true, Random: true, Files: true}

func (p Policy) permits(g wasi.Grants) error {
	for _, a := range []struct {
		asked, granted bool
		what, setting  string
	}{
		{g.Clock, p.Clock, "the clock", "clock"},
		{g.Random, p.Random, "random numbers", "random"},
		{g.Files != "", p.Files, "files of its bundle", "files"},
	} {
		if a.asked && !a.granted {
			return fmt.Errorf("it asks for %s, which this machine does not grant; set wasm-allow: %s in the agent's configuration, or do not ask for it in bundle.yaml", a.what, a.setting)
		}
	}
	return nil
}
