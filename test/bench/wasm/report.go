package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"
)

// report prints tables and counts which of their figures hold.
type report struct {
	out    io.Writer
	held   int
	missed int
	misses []string // for the summary
}

// machine says what the figures were measured on.
func (r *report) machine() {
	fmt.Fprintf(r.out, "%s, %d cores, load %s, %s, wazero %s, %s\n", processor(), runtime.NumCPU(), load(), runtime.Version(), wazeroVersion(), time.Now().Format("2006-01-02"))
}

func (r *report) summary() {
	fmt.Fprintf(r.out, "\n%d figures hold, %d miss their goal\n", r.held, r.missed)
	for _, m := range r.misses {
		fmt.Fprintf(r.out, "  MISSES %s\n", m)
	}
}

// sheet is one table on its way out. Its last two columns are goal and verdict.
type sheet struct {
	report *report
	w      *tabwriter.Writer
	cells  int
	notes  []string
}

func (r *report) sheet(columns ...string) *sheet {
	s := &sheet{report: r, w: tabwriter.NewWriter(r.out, 0, 0, 2, ' ', tabwriter.AlignRight), cells: len(columns)}
	fmt.Fprintln(s.w, strings.Join(columns, "\t")+"\tgoal\t\t")
	return s
}

// row prints cells with a verdict; goals that have none are "".
func (s *sheet) row(g goals, cells ...string) {
	for len(cells) < s.cells {
		cells = append(cells, "-")
	}
	text, verdict := g.verdict()
	switch verdict {
	case holds:
		s.report.held++
	case misses:
		s.report.missed++
		s.report.misses = append(s.report.misses, strings.Join(cells, "  ")+"  goal "+text)
	}
	fmt.Fprintln(s.w, strings.Join(cells, "\t")+"\t"+text+"\t"+verdict+"\t")
}

// note says below the table why something is missing.
func (s *sheet) note(what, reason string) {
	s.notes = append(s.notes, what+" was not judged: "+reason)
}

func (s *sheet) flush() error {
	err := s.w.Flush()
	for _, n := range s.notes {
		fmt.Fprintln(s.report.out, n)
	}
	return err
}

const (
	holds  = "holds"
	misses = "MISSES"
)

// goal is a bound on one figure.
type goal struct {
	text  string
	holds bool
}

// goals of one row; it holds when all do.
type goals []goal

func (g goals) verdict() (text, verdict string) {
	if len(g) == 0 {
		return "-", ""
	}
	verdict = holds
	var texts []string
	for _, one := range g {
		texts = append(texts, one.text)
		if !one.holds {
			verdict = misses
		}
	}
	return strings.Join(texts, ", "), verdict
}

// atMost wants a ratio to be at most a bound.
func atMost(what string, ratio, bound float64) goal {
	return goal{strings.TrimSpace(fmt.Sprintf("%s <= %.2fx", what, bound)), ratio <= bound}
}

// atLeast wants a ratio to be at least a bound.
func atLeast(what string, ratio, bound float64) goal {
	return goal{strings.TrimSpace(fmt.Sprintf("%s >= %gx", what, bound)), ratio >= bound}
}

// within wants a duration to be at most a bound.
func within(what string, d, bound time.Duration) goal {
	return goal{strings.TrimSpace(what + " <= " + span(bound)), d <= bound}
}

// span prints a duration with three digits.
func span(d time.Duration) string {
	switch abs := max(d, -d); {
	case abs < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case abs < time.Millisecond:
		return fmt.Sprintf("%.3g us", float64(d)/1e3)
	case abs < time.Second:
		return fmt.Sprintf("%.3g ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.3g s", d.Seconds())
}

func times(ratio float64) string { return fmt.Sprintf("%.2fx", ratio) }

// processor names the machine as Linux does.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
