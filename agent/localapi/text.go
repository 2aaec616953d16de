package localapi

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// sparkWidth is how many characters stand for an hour.
const sparkWidth = 20

// WriteText writes a document for a person at a terminal.
func WriteText(out io.Writer, d Document, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	ago := func(t time.Time) string { return now.Sub(t).Round(time.Second).String() }
	fmt.Fprintf(w, "Agent\t%s, protocol %d, up %s\n", plain(d.Version), d.Protocol, ago(d.StartedAt))
	for _, a := range d.Addresses {
		fmt.Fprintf(w, "%s\t%s\n", plain(a.Protocol), plain(a.Address))
	}
	if d.Repository != "" {
		fmt.Fprintf(w, "Repository\t%s\n", plain(d.Repository))
	}
	if u := d.Uplink; u.Server != "" || d.Repository == "" {
		writeUplink(w, d, ago)
		fmt.Fprintf(w, "Requests\t%d written down, %d dropped, %d lost since the start\n", d.Telemetry.Written, d.Telemetry.Dropped, d.Telemetry.Lost)
	}
	if q := d.Queue; q != nil {
		fmt.Fprintf(w, "Queue\t%d of at most %d wait for %d places\n", q.Waiting, q.Limit, q.Places)
	}
	if c := d.Cache; c != nil {
		fmt.Fprintf(w, "Cache\t%s answers, %s of %s\n", formatCount(c.Entries), formatBytes(c.Bytes), formatBytes(c.LimitBytes))
	}
	if l := d.AccessLog; l != nil {
		fmt.Fprintf(w, "Access log\t%d lines, %d dropped\n", l.Written, l.Dropped)
	}
	if len(d.Models) == 0 {
		fmt.Fprintf(w, "Models\tnone\n")
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := writeModels(out, d.Models, ago); err != nil {
		return err
	}
	for _, x := range d.Warnings {
		fmt.Fprintf(w, "\nWarning\t%s for %s: %s\nRemedy\t%s\n", plain(x.Code), ago(x.Since), plain(x.Message), plain(x.Remedy))
	}
	return w.Flush()
}

func writeUplink(w io.Writer, d Document, ago func(time.Time) string) {
	u := d.Uplink
	switch {
	case !u.Enrolled:
		fmt.Fprintf(w, "Node\tnot enrolled yet\n")
	default:
		fmt.Fprintf(w, "Node\t%s (%s), region %s, site %s, certificate until %s\n", plain(or(u.Name, "no name yet")), plain(u.Node), plain(u.Region), plain(u.Site), u.CertificateExpires.Format(time.DateOnly))
	}
	switch {
	case u.Connected:
		fmt.Fprintf(w, "Manager\t%s, connected over %s for %s, generation %d\n", plain(u.Server), plain(u.Transport), ago(u.Since), u.Generation)
	default:
		fmt.Fprintf(w, "Manager\t%s, not connected for %s (%s), generation %d\n", plain(u.Server), ago(u.Since), plain(or(u.LastError, "no answer yet")), u.Generation)
	}
	fmt.Fprintf(w, "Outbox\t%d aggregates wait, %d were dropped\n", d.Outbox.Pending, d.Outbox.Dropped)
}

// writeModels writes what there is of each model copy, and what each did when one of them has served.
func writeModels(out io.Writer, models []Model, ago func(time.Time) string) error {
	if len(models) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\nMODEL\tVERSION\tROLE\tSTATE\tSINCE\tPROVIDER\tMEMORY\tREASON\n")
	counted := false
	for _, m := range models {
		counted = counted || m.Statistics != nil
		state := m.State
		if m.State == "downloading" && m.Bytes > 0 {
			state = fmt.Sprintf("%s %d%%", m.State, min(m.BytesDone, m.Bytes)*100/m.Bytes)
		}
		reason := m.Reason
		if m.Message != "" {
			reason = strings.TrimPrefix(reason+": "+m.Message, ": ")
		}
		since, memory := "", ""
		if !m.Since.IsZero() {
			since = ago(m.Since)
		}
		if m.MemoryBytes > 0 {
			memory = formatBytes(m.MemoryBytes)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(m.Model), plain(m.Version), plain(m.Role), plain(state), since, plain(m.Provider), memory, plain(reason))
	}
	if counted {
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintf(w, "\nMODEL\tVERSION\tREQ/S\tP50\tP95\tP99\tIN FLIGHT\tWAIT\tREQUESTS\tERRORS\tBATCH\tCACHED\tP95 OF THE LAST HOUR\n")
		for _, m := range models {
			s := m.Statistics
			if s == nil {
				continue
			}
			batch := none
			if b := s.averageBatch(); b > 0 {
				batch = digits(b)
			}
			cached := none
			if looked := s.CacheHits + s.CacheMisses; looked > 0 {
				cached = formatPercent(s.CacheHits, looked)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%d\t%s\t%s\t|%s|\n", plain(m.Model), plain(m.Version), formatRate(s.Recent.RequestsPerSecond),
				formatSeconds(s.Recent.P50Seconds), formatSeconds(s.Recent.P95Seconds), formatSeconds(s.Recent.P99Seconds),
				s.Pending, formatSeconds(s.QueueSeconds), s.Requests, s.Errors, batch, cached, sparkline(s.Minutes, sparkWidth))
		}
	}
	return w.Flush()
}

// plain keeps a name from ruling the terminal that shows it, or the table that it is in.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return '\uFFFD'
		}
		return r
	}, s)
}
