package bundle

import (
	"fmt"
	"time"

	"github.com/dhowfleet/dhow/models/strictyaml"
)

// Bounds of how requests may be joined.
const (
	MaxBatch     = 1024
	MaxInstances = 64
	MaxQueue     = 100_000
)

// Batching joins the requests of several clients to one run of the model. A request that finds the model idle is run at
// once, alone.
type Batching struct {
	// Max is how many rows a run has at most.
	Max int
	// Preferred are sizes at which a run does not wait for more, Delay how long it waits for one of them; 0 waits never.
	Preferred []int
	Delay     time.Duration
}

func (p *parser) batching(n *strictyaml.Node) *Batching {
	b := &Batching{}
	p.Mapping(n, "batching",
		strictyaml.Key("max", true, func(n *strictyaml.Node) { strictyaml.Int(&p.Reader, n, "batching.max", &b.Max, 2, MaxBatch) }),
		strictyaml.Key("preferred", false, func(n *strictyaml.Node) {
			p.List(n, "batching.preferred", 16, func(n *strictyaml.Node) {
				size := 0
				strictyaml.Int(&p.Reader, n, "batching.preferred", &size, 1, MaxBatch)
				if b.Max > 0 && size > b.Max {
					p.Failf(n, "batching.preferred: %d is more than batching.max, %d", size, b.Max)
				}
				b.Preferred = append(b.Preferred, size)
			})
		}),
		strictyaml.Key("delay", false, func(n *strictyaml.Node) {
			var s string
			p.Text(n, "batching.delay", &s, func(s string) error {
				d, err := parseDuration(s)
				if err == nil && (d < 0 || d > time.Second) {
					err = fmt.Errorf("%s is outside of 0 to 1s", s)
				}
				b.Delay = d
				return err
			})
		}),
	)
	return b
}

// traffic are the keys that say how requests are run.
func (p *parser) traffic(s *Spec) []strictyaml.Field {
	return []strictyaml.Field{
		strictyaml.Key("batching", false, func(n *strictyaml.Node) { s.Batching = p.batching(n) }),
		strictyaml.Key("instances", false, func(n *strictyaml.Node) { strictyaml.Int(&p.Reader, n, "instances", &s.Instances, 1, MaxInstances) }),
		strictyaml.Key("queue", false, func(n *strictyaml.Node) { strictyaml.Int(&p.Reader, n, "queue", &s.Queue, 1, MaxQueue) }),
		strictyaml.Key("cache", false, func(n *strictyaml.Node) { p.Bool(n, "cache", &s.Cache) }),
	}
}
