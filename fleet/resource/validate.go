package resource

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	dataclassv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/dataclass/v1"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
)

// The bounds of a resource.
const (
	maxLabels      = 32
	maxLabel       = 63
	maxDescription = 1024
	maxVersion     = 128
)

// Problem is one thing wrong with a resource by itself or with what it refers to.
type Problem struct {
	Path    string // such as "spec.stages[0].traffic"
	Message string
}

func (p Problem) Error() string {
	if p.Path == "" {
		return p.Message
	}
	return p.Path + ": " + p.Message
}

type problems []Problem

func (p *problems) add(path, format string, args ...any) {
	*p = append(*p, Problem{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (p *problems) name(path, name, example string) {
	if name == "" {
		p.add(path, "missing: write a name such as %s", example)
	} else if err := identity.ValidName(name); err != nil {
		p.add(path, "%s", err)
	}
}

// Validate checks a resource by itself. It is asked by the reader for the line, and again by the manager, which takes
// nobody's word.
func Validate(r *fleetv1.Resource) []Problem {
	var p problems
	kind, ok := exactKind(r.GetKind())
	switch {
	case !ok:
		p.add("kind", "there is no kind %q: it is one of %s", clip(r.GetKind()), kindNames(func(k Kind) bool { return k.Applied }))
		return p
	case !kind.Applied:
		p.add("kind", "a %s is reported by its agent and cannot be applied", kind.Name)
		return p
	case bodyKind(r) != kind.Name:
		p.add("spec", "missing, or not that of a %s", kind.Name)
		return p
	}
	p.name("metadata.name", r.GetMetadata().GetName(), "my-"+strings.ToLower(kind.Name))
	p.labels(r.GetMetadata().GetLabels())
	switch body := r.GetBody().(type) {
	case *fleetv1.Resource_Region:
		p.region(body.Region.GetSpec())
	case *fleetv1.Resource_Site:
		p.site(body.Site.GetSpec())
	case *fleetv1.Resource_Model:
		p.description("spec.description", body.Model.GetSpec().GetDescription())
	case *fleetv1.Resource_Rollout:
		p.rollout(body.Rollout.GetSpec())
	}
	return p
}

// description takes text of any language, but no control characters: it is printed to terminals and into YAML.
func (p *problems) description(path, s string) {
	if len(s) > maxDescription {
		p.add(path, "%d bytes are more than the %d that are kept", len(s), maxDescription)
	}
	for _, c := range s {
		if (unicode.IsControl(c) && c != '\n' && c != '\t') || c == utf8.RuneError || c == '\ufeff' || c == '\u2028' || c == '\u2029' || c&0xfffe == 0xfffe {
			p.add(path, "the character %U cannot be kept", c)
			return
		}
	}
}

func (p *problems) labels(labels map[string]string) {
	if len(labels) > maxLabels {
		p.add("metadata.labels", "%d labels are more than the %d that are kept", len(labels), maxLabels)
	}
	for _, key := range sortedKeys(labels) {
		path := "metadata.labels." + key
		switch {
		case key == "region" || key == "site":
			p.add(path, "%q selects by a resource's place and cannot be a label", key)
		case !labelText(key) || key == "":
			p.add("metadata.labels", "the key %q: want 1 to %d letters, digits, '-', '_', '.' or '/', beginning and ending with a letter or digit", clip(key), maxLabel)
		case labels[key] != "" && (!labelText(labels[key]) || strings.Contains(labels[key], "/")):
			p.add(path, "the value %q: want at most %d letters, digits, '-', '_' or '.', beginning and ending with a letter or digit", clip(labels[key]), maxLabel)
		}
	}
}

func labelText(s string) bool {
	if len(s) > maxLabel {
		return false
	}
	for i := range len(s) {
		c := s[i]
		edge := i == 0 || i == len(s)-1
		if !alphanumeric(c) && (edge || !strings.ContainsRune("-_./", rune(c))) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func (p *problems) region(s *fleetv1.RegionSpec) {
	p.name("spec.jurisdiction", s.GetJurisdiction(), "uae-mainland, uae-difc, uae-adgm or eu")
	known := egressClasses()
	seen := map[string]bool{}
	for i, class := range s.GetEgress() {
		path := fmt.Sprintf("spec.egress[%d]", i)
		switch {
		case seen[class]:
			p.add(path, "%s is here a second time", clip(class))
		case slices.Contains(known, class):
		case nearest(class, known) != "":
			p.add(path, "there is no data class %q: did you mean %s?", clip(class), nearest(class, known))
		default:
			p.add(path, "there is no data class %q: the classes are %s", clip(class), strings.Join(known, ", "))
		}
		seen[class] = true
	}
}

// egressClasses are the data classes that a region may let out; control always passes, since there is no sync without.
func egressClasses() []string {
	var out []string
	values := dataclassv1.DataClass(0).Descriptor().Values()
	for i := range values.Len() {
		switch dataclassv1.DataClass(values.Get(i).Number()) {
		case dataclassv1.DataClass_DATA_CLASS_UNSPECIFIED, dataclassv1.DataClass_DATA_CLASS_CONTROL:
			continue
		}
		name := strings.TrimPrefix(string(values.Get(i).Name()), "DATA_CLASS_")
		out = append(out, strings.ReplaceAll(strings.ToLower(name), "_", "-"))
	}
	return out
}

func (p *problems) site(s *fleetv1.SiteSpec) {
	p.name("spec.region", s.GetRegion(), "ae-dubai")
	if (s.Latitude == nil) != (s.Longitude == nil) {
		p.add("spec", "latitude and longitude are written together or not at all")
	}
	// The comparisons are the wrong way round so that what is not a number fails them.
	if s.Latitude != nil && !(s.GetLatitude() >= -90 && s.GetLatitude() <= 90) {
		p.add("spec.latitude", "%v is not between -90 and 90 degrees", s.GetLatitude())
	}
	if s.Longitude != nil && !(s.GetLongitude() >= -180 && s.GetLongitude() <= 180) {
		p.add("spec.longitude", "%v is not between -180 and 180 degrees", s.GetLongitude())
	}
}

func (p *problems) rollout(s *fleetv1.RolloutSpec) {
	p.name("spec.model", s.GetModel(), "fashion")
	if s.GetVersion() == "" {
		p.add("spec.version", `missing: write a pushed version of the model, such as "1"`)
	} else if !ValidVersion(s.GetVersion()) {
		p.add("spec.version", "%q is no version: want at most %d letters, digits, '.', '_' or '-', not beginning with '.' or '-'", clip(s.GetVersion()), maxVersion)
	}
	switch n := len(s.GetStages()); n {
	case 0:
		p.add("spec.stages", "missing: write one stage, such as {name: all, traffic: 100%%}")
	case 1:
		p.stage("spec.stages[0]", s.GetStages()[0])
	default:
		p.add("spec.stages", "%d stages, but a rollout of this version of Dhow has exactly one, with a name, a selection (region, site, or neither for all) and a share of traffic: keep one", n)
	}
	switch s.GetOnFailure() {
	case "", "rollback", "hold":
	default:
		p.add("spec.onFailure", `%q is neither "rollback" nor "hold"`, clip(s.GetOnFailure()))
	}
}

func (p *problems) stage(path string, s *fleetv1.RolloutStage) {
	p.name(path+".name", s.GetName(), "all")
	if region := s.GetSelect().GetRegion(); region != "" {
		p.name(path+".select.region", region, "")
	}
	if site := s.GetSelect().GetSite(); site != "" {
		p.name(path+".select.site", site, "")
	}
	if s.GetTraffic() != "" {
		if _, err := ParseShare(s.GetTraffic()); err != nil {
			p.add(path+".traffic", "%s", err)
		}
	}
}

// ValidVersion reports whether s can be a model's version, which is also its tag in the registry.
func ValidVersion(s string) bool {
	if s == "" || len(s) > maxVersion || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && s[i] != '.' && s[i] != '_' && s[i] != '-' {
			return false
		}
	}
	return true
}

// All is a share of everything, in millionths.
const All = 1_000_000

// ParseShare reads a share such as "10%" or "0.5%" and returns it in millionths. It is more than nothing and at most
// All, with at most four digits after the point.
func ParseShare(s string) (uint32, error) {
	text, ok := strings.CutSuffix(s, "%")
	if !ok {
		return 0, fmt.Errorf("%q is no share: write it in per cent, such as 10%%", clip(s))
	}
	whole, fraction, point := strings.Cut(text, ".")
	if whole == "" || len(whole) > 3 || len(fraction) > 4 || (point && fraction == "") || !digits(whole) || !digits(fraction) {
		return 0, fmt.Errorf("%q is no share: want a number with at most four digits after the point, such as 0.5%%", clip(s))
	}
	var n uint32
	for _, c := range whole + fraction + "0000"[len(fraction):] {
		n = n*10 + uint32(c-'0')
	}
	if n == 0 || n > All {
		return 0, fmt.Errorf("%q is not more than 0%% and at most 100%%", s)
	}
	return n, nil
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}
