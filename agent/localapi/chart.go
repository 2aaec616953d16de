package localapi

import (
	"fmt"
	"strconv"
	"strings"
)

// The size of a chart, in units of its own, and how many minutes it is wide.
const (
	chartWidth  = 300
	chartHeight = 56
	chartTop    = 4 // above the highest point
	chartHour   = 60
)

// chart is the last hour of a model: the slow end of its latency as a line, its errors as bars.
type chart struct {
	Width, Height int
	Lines         []string // points of a polyline each, parted where nothing was answered
	Dots          []dot    // minutes that stand alone
	Bars          []bar
	Label         string // what it shows, for those who do not see it
	Low, High     string // least and greatest p95
}

type dot struct{ X, Y string }

type bar struct{ X, Y, Width, Height string }

// newChart returns nil when nothing was asked in the last hour.
func newChart(minutes []Minute) *chart {
	if len(minutes) > chartHour {
		minutes = minutes[len(minutes)-chartHour:]
	}
	low, high, requests, errors := 0.0, 0.0, uint64(0), uint64(0)
	for _, m := range minutes {
		requests += m.Requests
		errors += m.Errors
		if m.P95Seconds > 0 {
			if low == 0 || m.P95Seconds < low {
				low = m.P95Seconds
			}
			high = max(high, m.P95Seconds)
		}
	}
	if requests == 0 {
		return nil
	}
	c := &chart{Width: chartWidth, Height: chartHeight, Low: formatSeconds(low), High: formatSeconds(high)}
	step := float64(chartWidth) / chartHour
	first := chartHour - len(minutes) // what is not remembered is empty on the left
	x := func(i int) float64 { return (float64(first+i) + 0.5) * step }
	var run []string
	end := func() {
		switch {
		case len(run) == 1:
			cx, cy, _ := strings.Cut(run[0], ",")
			c.Dots = append(c.Dots, dot{cx, cy})
		case len(run) > 1:
			c.Lines = append(c.Lines, strings.Join(run, " "))
		}
		run = nil
	}
	for i, m := range minutes {
		if m.Errors > 0 && m.Requests > 0 {
			// One error in a thousand is to be seen as well.
			h := max(float64(chartHeight)*min(float64(m.Errors)/float64(m.Requests), 1), 3)
			c.Bars = append(c.Bars, bar{coordinate(x(i) - step/2 + 0.5), coordinate(chartHeight - h), coordinate(step - 1), coordinate(h)})
		}
		if m.P95Seconds <= 0 {
			end()
			continue
		}
		y := chartHeight - (chartHeight-chartTop)*m.P95Seconds/high
		run = append(run, coordinate(x(i))+","+coordinate(min(y, chartHeight-1)))
	}
	end()
	c.Label = fmt.Sprintf("The last hour: %s requests, %s errors", formatCount(requests), formatCount(errors))
	if high > 0 {
		c.Label += ", p95 of a minute between " + c.Low + " and " + c.High
	}
	return c
}

func coordinate(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }

// blocks are the heights of a line of text.
var blocks = []rune("▁▂▃▄▅▆▇█")

// sparkline draws the p95 of the last hour in so many characters; what was not asked is blank, and minutes with an
// error stand as a cross, since a terminal may have no colours.
func sparkline(minutes []Minute, width int) string {
	values, failed := make([]float64, width), make([]bool, width)
	high := 0.0
	for i, m := range minutes {
		at := chartHour - len(minutes) + i
		if at < 0 {
			continue
		}
		at = at * width / chartHour
		values[at] = max(values[at], m.P95Seconds)
		failed[at] = failed[at] || m.Errors > 0
		high = max(high, values[at])
	}
	out := make([]rune, width)
	for i, v := range values {
		switch {
		case failed[i]:
			out[i] = '×'
		case v <= 0:
			out[i] = ' '
		default:
			out[i] = blocks[min(int(v/high*float64(len(blocks))), len(blocks)-1)]
		}
	}
	return string(out)
}
