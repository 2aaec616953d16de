package localapi

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// view is what the page shows, in words.
type view struct {
	Title    string
	Node     string
	State    string // good, warn or bad: the colour of the whole
	Summary  string
	Figures  []figure
	Warnings []warning
	Models   []card
	Hint     string // where there is no model
	Facts    []section
	Version  string
	At       string
}

// figure is a number with its name.
type figure struct{ Name, Value, Note string }

type warning struct{ Code, Message, Remedy, Age string }

// section is a list of facts under a heading.
type section struct {
	Name  string
	Facts []figure
	Lines []string
}

// card is a model copy.
type card struct {
	Model, Version string
	State, Tone    string // Tone is good, busy, idle or bad
	Role           string
	Problem        string
	Busy           bool // Percent says how far it is
	Percent        int
	Figures        []figure
	Chart          *chart
	Details        string
}

func newView(d Document, now time.Time) view {
	v := view{Title: "Dhow", Version: fmt.Sprintf("dhow-agent %s, protocol %d", d.Version, d.Protocol), At: now.Format("2006-01-02 15:04:05 MST")}
	v.Node = or(d.Uplink.Name, d.Uplink.Node)
	if v.Node != "" {
		v.Title = v.Node + " · Dhow"
	}
	for _, w := range d.Warnings {
		v.Warnings = append(v.Warnings, warning{w.Code, w.Message, w.Remedy, formatAge(now.Sub(w.Since))})
	}
	serving, failed := 0, 0
	for _, m := range d.Models {
		c := newCard(m, now)
		v.Models = append(v.Models, c)
		switch c.Tone {
		case "good":
			serving++
		case "bad":
			failed++
		}
	}
	v.Figures = totals(d)
	switch {
	case failed > 0:
		v.State, v.Summary = "bad", fmt.Sprintf("%s failed", models(failed))
	case len(v.Warnings) > 0:
		v.State, v.Summary = "warn", "needs attention"
	case len(v.Models) == 0:
		v.State, v.Summary = "idle", "no model yet"
	default:
		v.State, v.Summary = "good", fmt.Sprintf("%s in service", models(serving))
	}
	switch {
	case len(v.Models) > 0:
	case d.Repository != "":
		v.Hint = "The model repository " + d.Repository + " has no model. Put one into it as MODEL/1/model.onnx."
	case d.Uplink.Server != "" && !d.Uplink.Enrolled:
		v.Hint = "This node waits to be let into its fleet. Models come after that."
	default:
		v.Hint = "Nothing was rolled out to this node yet."
	}
	v.Facts = facts(d, now)
	return v
}

func models(n int) string {
	if n == 1 {
		return "1 model"
	}
	return fmt.Sprintf("%d models", n)
}

// totals adds up what the models did.
func totals(d Document) []figure {
	var rate, slowest float64
	var pending int64
	var requests, errors uint64
	for _, m := range d.Models {
		s := m.Statistics
		if s == nil {
			continue
		}
		rate += s.Recent.RequestsPerSecond
		slowest = max(slowest, s.Recent.P95Seconds)
		pending += s.Pending
		for _, minute := range s.Minutes {
			requests += minute.Requests
			errors += minute.Errors
		}
	}
	waiting := figure{"In flight", formatCount(uint64(max(pending, 0))), "being answered now"}
	if q := d.Queue; q != nil {
		waiting = figure{"Waiting", formatCount(uint64(max(q.Waiting, 0))), fmt.Sprintf("of at most %s, for %d places", formatCount(uint64(q.Limit)), q.Places)}
	}
	return []figure{
		{"Requests a second", formatRate(rate), "in the last minutes"},
		{"Slowest model’s p95", formatSeconds(slowest), "in the last minutes"},
		{"Errors", formatPercent(errors, requests), fmt.Sprintf("%s of %s in the last hour", formatCount(errors), formatCount(requests))},
		waiting,
	}
}

// tones are the states of copies that are not a stage on the way.
var tones = map[string]string{
	"serving": "good", "ready": "good", "failed": "bad", "unavailable": "bad",
}

// unloaded is the reason of a model that was taken out by request, in the model repository protocol.
const unloaded = "unloaded"

func newCard(m Model, now time.Time) card {
	c := card{Model: m.Model, Version: m.Version, State: m.State, Role: m.Role, Tone: or(tones[strings.ToLower(m.State)], "busy")}
	if m.Reason == unloaded {
		c.Tone = "idle" // somebody wanted it so
	}
	if m.Share > 0 && m.Share < 1 {
		c.Role = strings.TrimSpace(fmt.Sprintf("%s %.3g %%", c.Role, m.Share*100))
	}
	if m.State == "downloading" && m.Bytes > 0 {
		c.Busy, c.Percent = true, int(min(m.BytesDone, m.Bytes)*100/m.Bytes)
	}
	switch {
	case m.Reason != "" && m.Message != "":
		c.Problem = m.Reason + ": " + m.Message
	default:
		c.Problem = or(m.Reason, m.Message)
	}
	var details []string
	if !m.Since.IsZero() {
		details = append(details, m.State+" for "+formatAge(now.Sub(m.Since)))
	}
	if m.Provider != "" {
		details = append(details, m.Provider)
	}
	if m.MemoryBytes > 0 {
		details = append(details, formatBytes(m.MemoryBytes)+" of memory")
	}
	if s := m.Statistics; s != nil {
		c.Figures = []figure{
			{"requests/s", formatRate(s.Recent.RequestsPerSecond), ""},
			{"p50", formatSeconds(s.Recent.P50Seconds), ""},
			{"p95", formatSeconds(s.Recent.P95Seconds), ""},
			{"p99", formatSeconds(s.Recent.P99Seconds), ""},
			{"in flight", formatShort(uint64(max(s.Pending, 0))), ""},
			{"avg wait", formatSeconds(s.QueueSeconds), ""},
			{"errors", formatShort(s.Errors), ""},
			{"requests", formatShort(s.Requests), ""},
		}
		if b := s.averageBatch(); b >= 1.005 {
			c.Figures = append(c.Figures, figure{"avg batch", digits(b), ""})
		}
		if looked := s.CacheHits + s.CacheMisses; looked > 0 {
			c.Figures = append(c.Figures, figure{"cached", formatPercent(s.CacheHits, looked), ""})
		}
		c.Chart = newChart(s.Minutes)
		if !s.LastInference.IsZero() {
			details = append(details, "last answer "+formatAge(now.Sub(s.LastInference))+" ago")
		}
	}
	c.Details = strings.Join(details, " · ")
	return c
}

// facts says the rest.
func facts(d Document, now time.Time) []section {
	agent := section{Name: "Agent", Facts: []figure{{"Running for", formatAge(now.Sub(d.StartedAt)), ""}}}
	for _, a := range d.Addresses {
		agent.Facts = append(agent.Facts, figure{a.Protocol, a.Address, ""})
	}
	if d.Repository != "" {
		agent.Facts = append(agent.Facts, figure{"Model repository", d.Repository, ""})
	}
	if c := d.Cache; c != nil {
		agent.Facts = append(agent.Facts, figure{"Response cache", fmt.Sprintf("%s answers, %s of %s", formatCount(c.Entries), formatBytes(c.Bytes), formatBytes(c.LimitBytes)), ""})
	}
	if l := d.AccessLog; l != nil {
		agent.Facts = append(agent.Facts, figure{"Access log", fmt.Sprintf("%s lines, %s dropped", formatCount(l.Written), formatCount(l.Dropped)), ""})
	}
	if t := d.Telemetry; d.Uplink.Server != "" || d.Repository == "" { // without a fleet nothing is kept
		agent.Facts = append(agent.Facts, figure{"Telemetry", fmt.Sprintf("%s requests written down, %s dropped, %s lost", formatCount(t.Written), formatCount(t.Dropped), formatCount(t.Lost)), ""})
	}
	out := []section{agent}
	if u := d.Uplink; u.Server != "" {
		out = append(out, fleet(d, u, now))
	}
	if len(d.Hardware) > 0 {
		out = append(out, section{Name: "Machine", Lines: slices.Clone(d.Hardware)})
	}
	return out
}

func fleet(d Document, u Uplink, now time.Time) section {
	s := section{Name: "Fleet"}
	add := func(name, value string) { s.Facts = append(s.Facts, figure{Name: name, Value: value}) }
	add("Manager", u.Server)
	switch {
	case u.Connected:
		add("Line", strings.TrimSuffix("connected for "+formatAge(now.Sub(u.Since))+" over "+u.Transport, " over "))
	default:
		add("Line", "not connected for "+formatAge(now.Sub(u.Since))+", models serve on; "+or(u.LastError, "no answer yet"))
	}
	if !u.Enrolled {
		add("Node", "not enrolled yet")
		return s
	}
	add("Node", u.Node)
	if u.Region != "" || u.Site != "" {
		add("Place", strings.Trim(u.Region+" / "+u.Site, " /"))
	}
	add("Desired state", fmt.Sprintf("generation %d", u.Generation))
	if !u.CertificateExpires.IsZero() {
		add("Certificate", "until "+u.CertificateExpires.Format(time.DateOnly))
	}
	box := fmt.Sprintf("%s aggregates wait (%s)", formatCount(d.Outbox.Pending), formatBytes(d.Outbox.Bytes))
	if d.Outbox.Dropped > 0 {
		box += ", " + formatCount(d.Outbox.Dropped) + " were dropped"
	}
	add("Outbox", box)
	return s
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
