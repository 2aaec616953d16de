package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dhowfleet/dhow/fleet/client"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func (a *app) describeNode(ctx context.Context, c *client.Client, d *description, r *fleetv1.Resource) error {
	s := r.GetNode().GetStatus()
	report := s.GetReport()
	d.field("Region", s.GetRegion())
	d.field("Site", s.GetSite())
	d.field("ID", s.GetNodeId())
	d.field("State", a.nodeState(r))
	d.field("Note", s.GetProtocolNote())
	d.field("Connection", a.connection(s))
	d.field("Certificate", a.certificate(s))
	d.field("Agent", strings.TrimPrefix(agent(a, report), ", "))
	d.field("Desired", desired(s))
	if n := report.GetOutboxPending(); n > 0 {
		d.field("Outbox", fmt.Sprintf("%d aggregates wait for delivery", n))
	}

	d.section("Model copies")
	if copies := report.GetCopies(); len(copies) == 0 {
		d.note("none")
	} else {
		a.copies(d, copies)
	}
	d.section("Warnings")
	if len(report.GetWarnings()) == 0 {
		d.note("none")
	}
	for _, w := range report.GetWarnings() {
		d.note("%s: %s (for %s)", w.GetCode(), w.GetMessage(), firstOf(a.ago(w.GetSince()), "an unknown time"))
		if w.GetRemedy() != "" {
			d.note("    -> %s", w.GetRemedy())
		}
	}
	d.section("Hardware")
	hardware(d, report.GetHardware())

	totals, err := a.totals(ctx, c, &fleetv1.GetTotalsRequest{Node: r.GetMetadata().GetName()})
	if err != nil {
		return err
	}
	// Of a deleted node that had this name before.
	totals = slices.DeleteFunc(totals, (*fleetv1.NodeTotals).GetNodeDeleted)
	d.section("Requests since it joined")
	if len(totals) == 0 {
		d.note("none delivered yet")
		return nil
	}
	t := d.table(totalsHeader(false)...)
	for _, n := range totals {
		t.row(totalsCells(n, false)...)
	}
	t.flush()
	return nil
}

func (a *app) nodeState(r *fleetv1.Resource) string {
	state := r.GetNode().GetStatus().GetState()
	if state == "Pending" {
		state += fmt.Sprintf(" (let it in with dhow node approve %s)", r.GetMetadata().GetName())
	}
	return state
}

func (a *app) connection(s *fleetv1.NodeStatus) string {
	out := s.GetConnection()
	if s.GetTransport() != "" {
		out += " over " + s.GetTransport()
	}
	if s.GetLastSeenAt() != nil {
		out += fmt.Sprintf(", heard from %s ago", a.ago(s.GetLastSeenAt()))
	}
	return out
}

func (a *app) certificate(s *fleetv1.NodeStatus) string {
	end := s.GetCertificateExpiresAt()
	if end == nil {
		return "none yet"
	}
	left := end.AsTime().Sub(a.now())
	if left <= 0 {
		return fmt.Sprintf("expired %s ago (%s); the node renews it when it reaches the manager", span(-left), moment(end))
	}
	return fmt.Sprintf("good for %s (until %s)", span(left), moment(end))
}

func agent(a *app, report *syncv1.ReportRequest) string {
	out := ""
	if v := report.GetAgentVersion(); v != "" {
		out = "version " + v
	}
	if t := report.GetStartedAt(); t != nil {
		out += fmt.Sprintf(", running for %s", a.ago(t))
	}
	return out
}

// desired says whether the node has what it was told.
func desired(s *fleetv1.NodeStatus) string {
	switch have := s.GetReport(); {
	case s.GetDesiredGeneration() == 0:
		return "nothing was decided yet"
	case have.GetDigest() == s.GetDesiredDigest():
		return fmt.Sprintf("generation %d, which the node has", s.GetDesiredGeneration())
	case have.GetGeneration() == 0:
		return fmt.Sprintf("generation %d, which the node has not taken yet", s.GetDesiredGeneration())
	default:
		return fmt.Sprintf("generation %d; the node has %d", s.GetDesiredGeneration(), have.GetGeneration())
	}
}

func (a *app) copies(d *description, copies []*syncv1.CopyStatus) {
	t := d.table("MODEL", "VERSION", "STATE", "SINCE", "PROVIDER", "REASON", "MESSAGE")
	for _, c := range copies {
		t.row(c.GetModel(), c.GetVersion(), copyState(c), a.ago(c.GetSince()), c.GetExecutionProvider(), c.GetReason(), c.GetMessage())
	}
	t.flush()
}

func hardware(d *description, h *syncv1.Hardware) {
	if h == nil {
		d.note("not reported yet")
		return
	}
	line := func(name, value string) {
		if value != "" {
			d.note("%-11s %s", name+":", value)
		}
	}
	line("System", strings.TrimSpace(strings.Join([]string{h.GetOs(), h.GetArch(), h.GetKernel()}, " ")))
	if cpu := h.GetCpu(); cpu != nil {
		text := fmt.Sprintf("%s, %s, %s", firstOf(cpu.GetModel(), "unknown"), count(int(cpu.GetPhysicalCores()), "core"), count(int(cpu.GetLogicalCores()), "thread"))
		if cpu.GetLimitCores() > 0 {
			text += fmt.Sprintf(", of which it may use %s", cores(cpu))
		}
		line("CPU", text)
		extensions := slices.Clone(cpu.GetExtensions())
		slices.Sort(extensions)
		line("Extensions", strings.Join(extensions, " "))
	}
	text := size(h.GetMemoryBytes())
	if h.GetMemoryLimitBytes() > 0 {
		text += fmt.Sprintf(", of which it may use %s", size(h.GetMemoryLimitBytes()))
	}
	line("Memory", text)
	if h.GetDiskBytes() > 0 {
		line("Disk", fmt.Sprintf("%s, %s free", size(h.GetDiskBytes()), size(h.GetDiskFreeBytes())))
	}
	for _, g := range h.GetGpus() {
		text := fmt.Sprintf("%s, %s, compute capability %s, driver %s", g.GetName(), size(g.GetMemoryBytes()), g.GetComputeCapability(), g.GetDriverVersion())
		line(fmt.Sprintf("GPU %d", g.GetIndex()), text)
		for _, m := range g.GetMigDevices() {
			line("MIG", fmt.Sprintf("%s, %s", m.GetProfile(), size(m.GetMemoryBytes())))
		}
	}
	if len(h.GetGpus()) == 0 {
		line("GPU", firstOf(h.GetGpuNote(), "none"))
	}
}
