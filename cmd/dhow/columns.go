package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dhowfleet/dhow/fleet/resource"
	"github.com/dhowfleet/dhow/fleet/rollout"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// column is one column of a kind's table; wide columns are shown with -o wide only.
type column struct {
	name string
	wide bool
	cell func(*app, *fleetv1.Resource) string
}

type columns []column

func columnsOf(kind string, wide bool) columns {
	out := columns{{name: "NAME", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetMetadata().GetName() }}}
	for _, c := range kindColumns[kind] {
		if wide || !c.wide {
			out = append(out, c)
		}
	}
	return append(out, column{name: "AGE", cell: func(a *app, r *fleetv1.Resource) string { return a.ago(r.GetMetadata().GetCreatedAt()) }})
}

func (c columns) header() []string {
	var out []string
	for _, col := range c {
		out = append(out, col.name)
	}
	return out
}

func (c columns) cells(a *app, r *fleetv1.Resource) []string {
	var out []string
	for _, col := range c {
		out = append(out, col.cell(a, r))
	}
	return out
}

var kindColumns = map[string]columns{
	resource.KindRegion: {
		{name: "JURISDICTION", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetRegion().GetSpec().GetJurisdiction() }},
		{name: "SITES", cell: func(_ *app, r *fleetv1.Resource) string { return number(r.GetRegion().GetStatus().GetSites()) }},
		{name: "NODES", cell: func(_ *app, r *fleetv1.Resource) string { return number(r.GetRegion().GetStatus().GetNodes()) }},
		{name: "EGRESS", wide: true, cell: func(_ *app, r *fleetv1.Resource) string {
			return strings.Join(r.GetRegion().GetSpec().GetEgress(), ",")
		}},
	},
	resource.KindSite: {
		{name: "REGION", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetSite().GetSpec().GetRegion() }},
		{name: "NODES", cell: func(_ *app, r *fleetv1.Resource) string { return number(r.GetSite().GetStatus().GetNodes()) }},
		{name: "LATITUDE", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return degrees(r.GetSite().GetSpec().Latitude) }},
		{name: "LONGITUDE", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return degrees(r.GetSite().GetSpec().Longitude) }},
	},
	resource.KindModel: {
		{name: "VERSIONS", cell: func(_ *app, r *fleetv1.Resource) string {
			return strconv.Itoa(len(r.GetModel().GetStatus().GetVersions()))
		}},
		{name: "NEWEST", cell: func(_ *app, r *fleetv1.Resource) string { return newest(r).GetVersion() }},
		{name: "SIZE", cell: func(_ *app, r *fleetv1.Resource) string {
			if newest(r) == nil {
				return ""
			}
			return size(newest(r).GetSizeBytes())
		}},
		{name: "PUSHED", cell: func(a *app, r *fleetv1.Resource) string { return a.ago(newest(r).GetPushedAt()) }},
		{name: "DIGEST", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return newest(r).GetManifestDigest() }},
		{name: "DESCRIPTION", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return r.GetModel().GetSpec().GetDescription() }},
	},
	resource.KindRollout: {
		{name: "MODEL", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetRollout().GetSpec().GetModel() }},
		{name: "VERSION", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetRollout().GetSpec().GetVersion() }},
		{name: "PHASE", cell: func(_ *app, r *fleetv1.Resource) string { return phase(r.GetRollout().GetStatus()) }},
		{name: "SERVING", cell: func(_ *app, r *fleetv1.Resource) string {
			s := r.GetRollout().GetStatus()
			return fmt.Sprintf("%d/%d", s.GetServing(), s.GetNodes())
		}},
		{name: "WAITING", cell: func(_ *app, r *fleetv1.Resource) string { return number(r.GetRollout().GetStatus().GetWaiting()) }},
		{name: "FAILED", cell: func(_ *app, r *fleetv1.Resource) string { return number(r.GetRollout().GetStatus().GetFailed()) }},
		{name: "SELECTS", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return selects(r) }},
		{name: "TRAFFIC", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return traffic(r) }},
		{name: "MESSAGE", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return r.GetRollout().GetStatus().GetMessage() }},
	},
	resource.KindNode: {
		{name: "REGION", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetNode().GetStatus().GetRegion() }},
		{name: "SITE", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetNode().GetStatus().GetSite() }},
		{name: "STATE", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetNode().GetStatus().GetState() }},
		{name: "CONNECTION", cell: func(_ *app, r *fleetv1.Resource) string { return r.GetNode().GetStatus().GetConnection() }},
		{name: "SERVES", cell: func(_ *app, r *fleetv1.Resource) string { return serves(r.GetNode().GetStatus()) }},
		{name: "WARNINGS", cell: func(_ *app, r *fleetv1.Resource) string {
			return strconv.Itoa(len(r.GetNode().GetStatus().GetReport().GetWarnings()))
		}},
		{name: "SEEN", cell: func(a *app, r *fleetv1.Resource) string { return a.ago(r.GetNode().GetStatus().GetLastSeenAt()) }},
		{name: "TRANSPORT", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return r.GetNode().GetStatus().GetTransport() }},
		{name: "AGENT", wide: true, cell: func(_ *app, r *fleetv1.Resource) string {
			return r.GetNode().GetStatus().GetReport().GetAgentVersion()
		}},
		{name: "CORES", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return cores(hardwareOf(r).GetCpu()) }},
		{name: "MEMORY", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return memory(hardwareOf(r)) }},
		{name: "GPUS", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return strconv.Itoa(len(hardwareOf(r).GetGpus())) }},
		{name: "OUTBOX", wide: true, cell: func(_ *app, r *fleetv1.Resource) string {
			return strconv.FormatUint(r.GetNode().GetStatus().GetReport().GetOutboxPending(), 10)
		}},
		{name: "ID", wide: true, cell: func(_ *app, r *fleetv1.Resource) string { return r.GetNode().GetStatus().GetNodeId() }},
	},
}

func number(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

func degrees(d *float64) string {
	if d == nil {
		return ""
	}
	return strconv.FormatFloat(*d, 'f', -1, 64)
}

// newest returns the version that was pushed last, or nil.
func newest(r *fleetv1.Resource) *fleetv1.ModelVersion {
	if v := r.GetModel().GetStatus().GetVersions(); len(v) > 0 {
		return v[0]
	}
	return nil
}

func selects(r *fleetv1.Resource) string {
	var out []string
	for _, s := range r.GetRollout().GetSpec().GetStages() {
		place := "all nodes"
		if s.GetSelect().GetSite() != "" {
			place = "site " + s.GetSelect().GetSite()
		} else if s.GetSelect().GetRegion() != "" {
			place = "region " + s.GetSelect().GetRegion()
		}
		out = append(out, place)
	}
	return strings.Join(out, ", ")
}

// phase says the phase, and of a complete rollout that not all nodes serve now how many do.
func phase(s *fleetv1.RolloutStatus) string {
	if s.GetPhase() == rollout.Complete && s.GetServing() < s.GetNodes() {
		return fmt.Sprintf("%s (%d/%d)", s.GetPhase(), s.GetServing(), s.GetNodes())
	}
	return s.GetPhase()
}

func traffic(r *fleetv1.Resource) string {
	var out []string
	for _, s := range r.GetRollout().GetSpec().GetStages() {
		out = append(out, firstOf(s.GetTraffic(), "100%"))
	}
	return strings.Join(out, ", ")
}

// serves lists what a node answers requests with.
func serves(s *fleetv1.NodeStatus) string {
	var out []string
	for _, c := range s.GetReport().GetCopies() {
		if c.GetState() == syncv1.CopyState_COPY_STATE_SERVING {
			out = append(out, c.GetModel()+":"+c.GetVersion())
		}
	}
	return strings.Join(out, ",")
}

func hardwareOf(r *fleetv1.Resource) *syncv1.Hardware {
	return r.GetNode().GetStatus().GetReport().GetHardware()
}

func cores(c *syncv1.Cpu) string {
	switch {
	case c == nil:
		return ""
	case c.GetLimitCores() > 0:
		return strconv.FormatFloat(c.GetLimitCores(), 'f', -1, 64)
	}
	return number(c.GetLogicalCores())
}

func memory(h *syncv1.Hardware) string {
	n := h.GetMemoryBytes()
	if limit := h.GetMemoryLimitBytes(); limit > 0 && limit < n {
		n = limit
	}
	if n == 0 {
		return ""
	}
	return size(n)
}
