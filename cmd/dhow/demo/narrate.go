package demo

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dhowfleet/dhow/cmd/dhow/localfleet"
)

func (d *demo) step(what string) {
	d.steps++
	fmt.Fprintf(d.Out, "\n[%4.1fs] %d. %s\n", time.Since(d.started).Seconds(), d.steps, what)
}

func (d *demo) say(line string) { fmt.Fprintf(d.Out, "        %s\n", line) }

// until waits for check and says the sentence that it returns with what was awaited.
func (d *demo) until(ctx context.Context, what string, patience time.Duration, check func(context.Context) (string, error)) error {
	begin := time.Now()
	var sentence string
	err := localfleet.Until(ctx, patience, func(ctx context.Context) (err error) {
		sentence, err = check(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("not yet so that %s: %w", what, err)
	}
	d.say(strings.TrimSuffix(fmt.Sprintf("%s after %.1f s: %s", what, time.Since(begin).Seconds(), sentence), ": "))
	return nil
}

func (d *demo) table() {
	fmt.Fprintf(d.Out, "\n[%4.1fs] All held.\n\n", time.Since(d.started).Seconds())
	w := tabwriter.NewWriter(d.Out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "BRANCH\tREGION\tREQUESTS\tCOUNTED\tACCURACY\tP50\tP99")
	for _, b := range d.branches {
		s := &b.score
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%.3f\t%s\t%s\n", b.Site, b.Region, s.sent, b.counted, s.accuracy(),
			s.percentile(.5).Round(10*time.Microsecond), s.percentile(.99).Round(10*time.Microsecond))
	}
	_ = w.Flush() // the narration's writer is the caller's; a broken one shows there
}

func (d *demo) invite() {
	b, dhow := d.branches[0], d.Bin+"/dhow"
	fmt.Fprintf(d.Out, `
Everything stays up until you press Ctrl-C. In another terminal:
  export XDG_CONFIG_HOME=%s
  %s get nodes
  %s describe node %s
  %s get rollout fashion-v1 -o yaml
  %s infer --url %s --model fashion %s/%s
  curl -s %s/v2/models/fashion
`, d.fleet.CLI.ConfigHome(), dhow, dhow, b.Name, dhow, dhow, b.URL(), d.Photos, d.photos[0].Name, b.URL())
}

func counts(m map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%s (%d)", k, m[k]))
	}
	return strings.Join(out, ", ")
}
