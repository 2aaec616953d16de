package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"
)

// table prints aligned columns. The first rows set the widths; rows that come later, in a watch, follow them.
type table struct {
	out    io.Writer
	header []string
	widths []int
	rows   [][]string
}

func newTable(out io.Writer, header ...string) *table { return &table{out: out, header: header} }

func (t *table) row(cells ...string) {
	for i, c := range cells {
		if cells[i] = printable(c); cells[i] == "" {
			cells[i] = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// flush prints the rows since the last time, at the first time with the header.
func (t *table) flush() {
	if t.widths == nil {
		t.widths = make([]int, len(t.header))
		for _, row := range append([][]string{t.header}, t.rows...) {
			for i, c := range row {
				t.widths[i] = max(t.widths[i], utf8.RuneCountInString(c))
			}
		}
		t.line(t.header)
	}
	for _, row := range t.rows {
		t.line(row)
	}
	t.rows = nil
}

func (t *table) line(cells []string) {
	var b strings.Builder
	for i, c := range cells {
		b.WriteString(c)
		if i < len(cells)-1 {
			b.WriteString(strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(c))+3))
		}
	}
	fmt.Fprintln(t.out, strings.TrimRight(b.String(), " "))
}

// printable replaces what could steer a terminal. Nodes write some of what is shown.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError || r == '\u202e' || r == '\u2066' || r == '\u2067' || r == '\u202d' {
			return '?'
		}
		return r
	}, s)
}

// ago says how long ago a time was, in one unit.
func (a *app) ago(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return span(a.now().Sub(t.AsTime()))
}

// span says a duration in its largest unit.
func span(d time.Duration) string {
	sign := ""
	if d < 0 {
		d = -d
		if d >= time.Second {
			sign = "-"
		}
	}
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{365 * 24 * time.Hour, "y"}, {24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}} {
		if d >= 2*u.unit {
			return fmt.Sprintf("%s%d%s", sign, d/u.unit, u.name)
		}
	}
	return fmt.Sprintf("%s%ds", sign, d/time.Second)
}

// size says a number of bytes.
func size(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, names := float64(n), []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := -1
	for v >= unit && i < len(names)-1 {
		v /= unit
		i++
	}
	if v < 10 {
		return fmt.Sprintf("%.1f %s", v, names[i])
	}
	return fmt.Sprintf("%.0f %s", v, names[i])
}

func moment(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().UTC().Format("2006-01-02 15:04:05 UTC")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
