package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

func (d *demo) step(what string) {
	d.steps++
	fmt.Fprintf(d.Out, "\n[%4.1fs] %d. %s\n", time.Since(d.started).Seconds(), d.steps, what)
}

func (d *demo) say(line string) { fmt.Fprintf(d.Out, "        %s\n", line) }

// finalError is a condition that no waiting mends.
type finalError struct{ error }

func final(err error) error { return finalError{err} }

// until asks check again and again until it holds, cannot hold any more, or patience runs out. The sentence that check
// returns is said with what was awaited.
func (d *demo) until(ctx context.Context, what string, patience time.Duration, check func(context.Context) (string, error)) error {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		sentence, err := check(ctx)
		if err == nil {
			if what != "" {
				d.say(strings.TrimSuffix(fmt.Sprintf("%s after %.1f s: %s", what, time.Since(begin).Seconds(), sentence), ": "))
			}
			return nil
		}
		var f finalError
		if errors.As(err, &f) {
			return f.error
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s and not yet %s: %w", patience, what, last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *demo) table() {
	fmt.Fprintf(d.Out, "\n[%4.1fs] All held.\n\n", time.Since(d.started).Seconds())
	w := tabwriter.NewWriter(d.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "BRANCH\tREGION\tREQUESTS\tCOUNTED\tACCURACY\tP50\tP99")
	for _, b := range d.branches {
		s := &b.score
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.3f\t%s\t%s\n", b.site, b.region, s.sent, b.counted, s.accuracy(),
			s.percentile(.5).Round(10*time.Microsecond), s.percentile(.99).Round(10*time.Microsecond))
	}
	_ = w.Flush() // the narration's writer is the caller's; a broken one shows there
}

func (d *demo) invite() {
	b := d.branches[0]
	fmt.Fprintf(d.Out, `
Everything stays up until you press Ctrl-C. In another terminal:
  export XDG_CONFIG_HOME=%s
  %s get nodes
  %s describe node %s-1
  %s get rollout fashion-v1 -o yaml
  %s infer --url %s --model fashion %s/%s
  curl -s %s/v2/models/fashion
`, d.cli.configHome, d.cli.binary, d.cli.binary, b.site, d.cli.binary, d.cli.binary, b.url(), d.Photos, d.photos[0].name, b.url())
}

func counts(m map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s (%d)", k, m[k]))
	}
	return strings.Join(out, ", ")
}

// parseInit reads the pin of the fleet's authority from what `dhow-fleet init -o json` printed.
func parseInit(out []byte) (string, error) {
	var printed struct {
		CA string `json:"caSha256"`
	}
	if err := json.Unmarshal(out, &printed); err != nil {
		return "", fmt.Errorf("dhow-fleet init printed what is no JSON: %w", err)
	}
	if printed.CA == "" {
		return "", errors.New("dhow-fleet init printed no caSha256")
	}
	return printed.CA, nil
}
