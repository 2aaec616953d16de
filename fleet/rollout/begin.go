package rollout

import (
	"fmt"
	"strings"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"

	"github.com/dhowfleet/dhow/fleet/resource"
)

// begin reads the rollout's stage and looks up what it names. It returns a sentence about what keeps the rollout from
// beginning, or "". One that began once goes on even if what it names is taken away: nodes serve it already.
func (d *decision) begin(p *plan) string {
	switch stages := p.spec.GetStages(); {
	case len(stages) > 1:
		return fmt.Sprintf("it has %d stages, and one is supported: keep one", len(stages))
	case len(stages) == 1:
		p.region, p.site = selector(p.spec).GetRegion(), selector(p.spec).GetSite()
		if traffic := stages[0].GetTraffic(); traffic != "" {
			share, err := resource.ParseShare(traffic)
			if err != nil {
				return fmt.Sprintf("its share of traffic cannot be read: %v", err)
			}
			p.millionths = share
		}
	}
	if f := p.spec.GetOnFailure(); f != "" && f != "rollback" && f != Hold {
		return fmt.Sprintf("its onFailure is %q: write rollback or hold", f)
	}
	if p.phase != "" && p.phase != Pending && p.digest != "" {
		return ""
	}
	p.phase = ""
	if p.region != "" && !has(d.Regions, p.region) {
		return fmt.Sprintf("there is no region %q: declare it", p.region)
	}
	if p.site != "" {
		region, there := d.regionOf[p.site]
		if !there {
			return fmt.Sprintf("there is no site %q: declare it", p.site)
		}
		if p.region != "" && region != p.region {
			return fmt.Sprintf("site %q is in region %q, not in %q: select one of both", p.site, region, p.region)
		}
	}
	model := find(d.Models, p.spec.GetModel())
	if model == nil {
		return fmt.Sprintf("there is no model %q: push it with dhow model push", p.spec.GetModel())
	}
	var known []string
	for _, v := range model.GetModel().GetStatus().GetVersions() {
		if v.GetVersion() == p.spec.GetVersion() {
			p.digest = v.GetManifestDigest()
			return ""
		}
		known = append(known, v.GetVersion())
	}
	if len(known) == 0 {
		return fmt.Sprintf("model %q has no version yet: push version %q with dhow model push", p.spec.GetModel(), p.spec.GetVersion())
	}
	const shown = 5
	more := ""
	if len(known) > shown {
		known, more = known[:shown], " and older ones"
	}
	return fmt.Sprintf("model %q has no version %q: push it with dhow model push; there are %s%s", p.spec.GetModel(), p.spec.GetVersion(), strings.Join(known, ", "), more)
}

func has(resources []*fleetv1.Resource, name string) bool { return find(resources, name) != nil }

func find(resources []*fleetv1.Resource, name string) *fleetv1.Resource {
	for _, r := range resources {
		if r.GetMetadata().GetName() == name {
			return r
		}
	}
	return nil
}
