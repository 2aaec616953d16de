package statistics

import "time"

// hour is how many minutes are remembered, the one under way among them.
const hour = 60

// Minute is what one minute brought.
type Minute struct {
	Start            time.Time
	Requests, Errors uint64
	P50, P95         time.Duration // of the successful ones; 0 when there was none
}

// Recent is what the minute before and the one under way brought.
type Recent struct {
	Window           time.Duration
	Requests, Errors uint64
	P50, P95, P99    time.Duration // of the successful ones; 0 when there was none
}

// PerSecond is the rate of requests.
func (r Recent) PerSecond() float64 {
	return float64(r.Requests) / max(r.Window, time.Second).Seconds()
}

// history is the last hour of a version.
//
// Nothing is kept by minute while requests come: when a minute is over, it is the difference of the counters to those at
// its start.
type history struct {
	over     []Minute // complete ones, oldest first; Start is not set
	atStart  mark     // of the minute under way
	previous mark     // of the minute before
}

// mark is how far the counters were.
type mark struct {
	requests, errors uint64
	latency          Histogram
}

func minuteOf(t time.Duration) int64 { return int64(t / time.Minute) }

func markOf(c *counts) mark {
	return mark{requests: c.success.Count + c.fail.Count, errors: c.errors, latency: c.latency}
}

// since returns what was counted between two marks.
func (k *mark) since(before *mark) Minute {
	h := k.latency.since(&before.latency)
	return Minute{Requests: k.requests - before.requests, Errors: k.errors - before.errors, P50: h.Quantile(0.5), P95: h.Quantile(0.95)}
}

// roll closes the minutes before the given one, with the counters at c. It is called with mu held.
func (m *Model) roll(c *counts, minute int64) {
	passed := minute - m.minute.Load()
	if passed <= 0 {
		return
	}
	p, at := &m.past, markOf(c)
	p.over = append(p.over, at.since(&p.atStart))
	// What was counted since belongs to the minute that just ended, so that those after it brought nothing.
	for range min(passed-1, hour) {
		p.over = append(p.over, Minute{})
	}
	if excess := len(p.over) - (hour - 1); excess > 0 {
		p.over = append(p.over[:0], p.over[excess:]...)
	}
	p.previous = p.atStart
	if passed > 1 {
		p.previous = at
	}
	p.atStart = at
	m.minute.Store(minute)
}

// recent returns the last hour and the last minute or two. It is called with mu held, after roll.
func (m *Model) recent(c *counts, now time.Duration, wall time.Time) ([]Minute, Recent) {
	p, at := &m.past, markOf(c)
	minute := m.minute.Load()
	out := append(make([]Minute, 0, len(p.over)+1), p.over...)
	out = append(out, at.since(&p.atStart))
	for i := range out {
		begin := time.Duration(minute-int64(len(out)-1-i)) * time.Minute
		out[i].Start = wall.Add(max(begin, m.born) - now)
	}
	h := at.latency.since(&p.previous.latency)
	from := max(time.Duration(minute-1)*time.Minute, m.born)
	return out, Recent{
		Window: max(now-from, 0), Requests: at.requests - p.previous.requests, Errors: at.errors - p.previous.errors,
		P50: h.Quantile(0.5), P95: h.Quantile(0.95), P99: h.Quantile(0.99),
	}
}
