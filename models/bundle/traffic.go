package bundle

import (
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
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

func (p *parser) batching(n *yaml.Node) *Batching {
	b := &Batching{}
	p.mapping(n, "batching",
		field{"max", true, func(n *yaml.Node) { p.number(n, "batching.max", &b.Max, 2, MaxBatch) }},
		field{"preferred", false, func(n *yaml.Node) {
			p.list(n, "batching.preferred", 16, func(n *yaml.Node) {
				size := 0
				p.number(n, "batching.preferred", &size, 1, MaxBatch)
				if b.Max > 0 && size > b.Max {
					p.fail(n, "batching.preferred: %d is more than batching.max, %d", size, b.Max)
				}
				b.Preferred = append(b.Preferred, size)
			})
		}},
		field{"delay", false, func(n *yaml.Node) {
			var s string
			p.text(n, "batching.delay", &s, func(s string) error {
				d, err := parseDuration(s)
				if err == nil && (d < 0 || d > time.Second) {
					err = fmt.Errorf("%s is outside of 0 to 1s", s)
				}
				b.Delay = d
				return err
			})
		}})
	return b
}

func (p *parser) number(n *yaml.Node, where string, into *int, least, most int) {
	var s string
	p.text(n, where, &s, func(s string) error {
		v, err := strconv.Atoi(s)
		if err != nil || v < least || v > most {
			return fmt.Errorf("%q is no number from %d to %d", s, least, most)
		}
		*into = v
		return nil
	})
}

func (p *parser) truth(n *yaml.Node, where string, into *bool) {
	var s string
	p.text(n, where, &s, func(s string) error {
		if s != "true" && s != "false" {
			return fmt.Errorf("%q is neither true nor false", s)
		}
		*into = s == "true"
		return nil
	})
}

// traffic are the keys that say how requests are run.
func (p *parser) traffic(s *Spec) []field {
	return []field{
		{"batching", false, func(n *yaml.Node) { s.Batching = p.batching(n) }},
		{"instances", false, func(n *yaml.Node) { p.number(n, "instances", &s.Instances, 1, MaxInstances) }},
		{"queue", false, func(n *yaml.Node) { p.number(n, "queue", &s.Queue, 1, MaxQueue) }},
		{"cache", false, func(n *yaml.Node) { p.truth(n, "cache", &s.Cache) }},
	}
}
