package resource

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

const fleetFile = `# a fleet
kind: Region
metadata: {name: ae-dubai, labels: {tier: gold}}
spec:
  jurisdiction: uae-mainland
  egress: [health, metrics, model-weights]
---
kind: Site
metadata: {name: deira}
spec: {region: ae-dubai, latitude: 25.2711, longitude: 55.3075}
---
---
kind: Model
metadata:
  name: fashion
spec:
---
kind: Rollout
metadata: {name: fashion-v1}
spec:
  model: fashion
  version: "1"
  stages:
    - {name: all, select: {region: ae-dubai}, traffic: 12.5%}
  onFailure: hold
  retry: 3
`

func TestReadsEveryKind(t *testing.T) {
	docs, err := Read("fleet.yaml", []byte(fleetFile))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range docs {
		got = append(got, fmt.Sprintf("%s %s@%d:%d", d.Resource.GetKind(), d.Resource.GetMetadata().GetName(), d.Number, d.Line))
	}
	want := "Region ae-dubai@1:2 Site deira@2:8 Model fashion@4:13 Rollout fashion-v1@5:18"
	if strings.Join(got, " ") != want {
		t.Fatalf("read %v, want %s", got, want)
	}
	if !proto.Equal(docs[3].Resource.GetRollout().GetSpec(), &fleetv1.RolloutSpec{
		Model: "fashion", Version: "1", OnFailure: "hold", Retry: 3,
		Stages: []*fleetv1.RolloutStage{{Name: "all", Select: &fleetv1.StageSelector{Region: "ae-dubai"}, Traffic: "12.5%"}},
	}) {
		t.Errorf("rollout read as %v", docs[3].Resource.GetRollout().GetSpec())
	}
	if lat := docs[1].Resource.GetSite().GetSpec().GetLatitude(); lat != 25.2711 {
		t.Errorf("latitude read as %v", lat)
	}
	if docs[0].Resource.GetMetadata().GetLabels()["tier"] != "gold" {
		t.Error("the label is gone")
	}
}

// Each mistake is named with its document, its line and what to do.
func TestRefusesWithPlaceAndRemedy(t *testing.T) {
	rollout := "kind: Rollout\nmetadata: {name: r}\nspec:\n  model: fashion\n  version: \"1\"\n  stages:\n    - name: all\n"
	for name, c := range map[string]struct{ yaml, want string }{
		"unknown field":        {"kind: Region\nmetadata: {name: a}\nspec:\n  jurisdiction: eu\n  egres: []\n", `document 1, line 5: spec: "egres" is not a field of RegionSpec: did you mean egress?`},
		"snake case":           {rollout + "  on_failure: hold\n", `line 8: spec: "on_failure" is not a field of RolloutSpec: did you mean onFailure?`},
		"field without like":   {rollout + "  freeze: []\n", `its fields are model, version, stages, onFailure, retry`},
		"second document":      {"kind: Model\nmetadata: {name: a}\n---\nkind: Modell\nmetadata: {name: b}\n", `document 2, line 4: kind: there is no kind "Modell": did you mean Model?`},
		"kind far off":         {"kind: Deployment\n", `it is one of Region, Site, Model, Rollout`},
		"no kind":              {"metadata: {name: a}\n", `line 1: kind: missing`},
		"node":                 {"kind: Node\nmetadata: {name: a}\n", `a Node is reported by its agent and cannot be applied`},
		"number for text":      {strings.Replace(rollout, `"1"`, "1.10", 1), `line 5: spec.version: want text, this is the number 1.10: write "1.10"`},
		"number for a share":   {rollout + "      traffic: 50\n", `want a share, this is the number 50: write it in per cent, such as 50%`},
		"truth for text":       {strings.Replace(rollout, "fashion", "yes", 1), ``}, // YAML 1.2: text
		"true for text":        {strings.Replace(rollout, "fashion", "true", 1), `the truth value true: write "true"`},
		"text for number":      {rollout + "  retry: often\n", `spec.retry: want a whole number that is not negative, this is the text "often"`},
		"negative":             {rollout + "  retry: -1\n", `this is the number -1`},
		"list for mapping":     {"kind: Region\nmetadata: []\n", `line 2: metadata: want a mapping, this is a list`},
		"mapping for list":     {"kind: Region\nmetadata: {name: a}\nspec: {jurisdiction: eu, egress: health}\n", `spec.egress: want a list, this is the text "health"`},
		"duplicate key":        {"kind: Region\nmetadata: {name: a, name: b}\nspec: {jurisdiction: eu}\n", `name is here a second time, the first is in line 2`},
		"alias":                {"kind: Region\nmetadata: &m {name: a}\nspec: *m\n", `this is an alias, which is not taken here`},
		"merge":                {"kind: Region\nmetadata: {name: a}\nspec: {<<: {jurisdiction: eu}}\n", `a key must be plain text`},
		"two stages":           {rollout + "    - name: more\n", `line 6: spec.stages: 2 stages, but a rollout of this version of Dhow has exactly one`},
		"no stage":             {"kind: Rollout\nmetadata: {name: r}\nspec: {model: m, version: \"1\"}\n", `line 3: spec.stages: missing: write one stage`},
		"share":                {strings.Replace(rollout, "name: all", "{name: all, traffic: 110%}", 1), `spec.stages[0].traffic: "110%" is not more than 0% and at most 100%`},
		"share without unit":   {strings.Replace(rollout, "name: all", "{name: all, traffic: \"10\"}", 1), `write it in per cent, such as 10%`},
		"on failure":           {rollout + "  onFailure: panic\n", `line 8: spec.onFailure: "panic" is neither "rollback" nor "hold"`},
		"bad name":             {"kind: Model\nmetadata: {name: Fashion}\n", `line 2: metadata.name: the name "Fashion"`},
		"no name":              {"kind: Model\n", `metadata.name: missing: write a name such as my-model`},
		"latitude alone":       {"kind: Site\nmetadata: {name: a}\nspec: {region: r, latitude: 3}\n", `latitude and longitude are written together`},
		"latitude not number":  {"kind: Site\nmetadata: {name: a}\nspec: {region: r, latitude: .nan, longitude: 3}\n", `spec.latitude`},
		"longitude":            {"kind: Site\nmetadata: {name: a}\nspec: {region: r, latitude: 3, longitude: 181}\n", `181 is not between -180 and 180`},
		"data class":           {"kind: Region\nmetadata: {name: a}\nspec: {jurisdiction: eu, egress: [metric]}\n", `spec.egress[0]: there is no data class "metric": did you mean metrics?`},
		"control is no class":  {"kind: Region\nmetadata: {name: a}\nspec: {jurisdiction: eu, egress: [control]}\n", `the classes are health, metrics, evidence, drift, model-weights, log-tails`},
		"class twice":          {"kind: Region\nmetadata: {name: a}\nspec: {jurisdiction: eu, egress: [drift, drift]}\n", `spec.egress[1]: drift is here a second time`},
		"label is a place":     {"kind: Model\nmetadata: {name: a, labels: {region: x}}\n", `"region" selects by a resource's place`},
		"label value":          {"kind: Model\nmetadata: {name: a, labels: {x: 'a b'}}\n", `metadata.labels.x: the value "a b"`},
		"not yaml":             {"kind: Model\nmetadata: {name: a\n", `document 1: this is no YAML: line`},
		"scalar document":      {"hello\n", `a document is a mapping with kind, metadata and spec, this is the text "hello"`},
		"control character":    {"kind: Model\nmetadata: {name: a}\nspec: {description: \"a\\e[1m\"}\n", `the character U+001B cannot be kept`},
		"model with no fields": {"kind: Model\nmetadata: {name: a}\nspec: {versions: []}\n", `"versions" is not a field of ModelSpec: its fields are description`},
	} {
		t.Run(name, func(t *testing.T) {
			docs, err := Read("f.yaml", []byte(c.yaml))
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				t.Fatalf("taken: %v", docs)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q\ndoes not say %q", err, c.want)
			}
			if !strings.HasPrefix(err.Error(), "f.yaml: document ") {
				t.Errorf("error %q does not begin with the file and document", err)
			}
		})
	}
}

func TestEveryProblemIsListedUpToABound(t *testing.T) {
	_, err := Read("f", []byte(strings.Repeat("kind: Nothing\n---\n", 50)))
	if n := strings.Count(err.Error(), "there is no kind"); n != maxProblems {
		t.Errorf("%d problems listed, want %d", n, maxProblems)
	}
	if !strings.HasSuffix(err.Error(), "and 30 more problems") {
		t.Errorf("the rest is not counted: %s", err)
	}
	var first *Error
	if !errors.As(err, &first) || first.Document != 1 || first.Line != 1 {
		t.Errorf("the first problem is %+v", first)
	}
}

func TestReadIsBounded(t *testing.T) {
	if _, err := Read("f", make([]byte, MaxBytes+1)); err == nil {
		t.Error("a file over the bound was read")
	}
	if _, err := Read("f", []byte(strings.Repeat("---\na: b\n", MaxDocuments+1))); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("too many documents: %v", err)
	}
}

// drawn makes any valid applied resource.
var drawn = rapid.Custom(func(t *rapid.T) *fleetv1.Resource {
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)
	kind := rapid.SampledFrom([]string{KindRegion, KindSite, KindModel, KindRollout}).Draw(t, "kind")
	r := New(kind, name.Draw(t, "name"))
	r.Metadata.ResourceVersion = rapid.Uint64().Draw(t, "version")
	if labels := rapid.MapOfN(rapid.StringMatching(`[A-Za-z0-9]([-A-Za-z0-9_./]{0,10}[A-Za-z0-9])?`), rapid.StringMatching(`([A-Za-z0-9]([-A-Za-z0-9_.]{0,10}[A-Za-z0-9])?)?`), 0, 4).Draw(t, "labels"); len(labels) > 0 {
		delete(labels, "region")
		delete(labels, "site")
		r.Metadata.Labels = labels
	}
	switch body := r.GetBody().(type) {
	case *fleetv1.Resource_Region:
		body.Region.Spec = &fleetv1.RegionSpec{Jurisdiction: name.Draw(t, "jurisdiction")}
		if n := rapid.IntRange(0, 6).Draw(t, "classes"); n > 0 {
			body.Region.Spec.Egress = egressClasses()[:n]
		}
		body.Region.Status = &fleetv1.RegionStatus{Sites: 3}
	case *fleetv1.Resource_Site:
		body.Site.Spec = &fleetv1.SiteSpec{Region: name.Draw(t, "region")}
		if rapid.Bool().Draw(t, "placed") {
			body.Site.Spec.Latitude = proto.Float64(rapid.Float64Range(-90, 90).Draw(t, "latitude"))
			body.Site.Spec.Longitude = proto.Float64(rapid.Float64Range(-180, 180).Draw(t, "longitude"))
		}
	case *fleetv1.Resource_Model:
		body.Model.Spec = &fleetv1.ModelSpec{Description: rapid.StringN(0, 100, 1000).Filter(func(s string) bool {
			var p problems
			p.description("", s)
			return len(p) == 0
		}).Draw(t, "description")}
	case *fleetv1.Resource_Rollout:
		body.Rollout.Spec = &fleetv1.RolloutSpec{
			Model: name.Draw(t, "model"), Version: rapid.StringMatching(`[A-Za-z0-9_][A-Za-z0-9._-]{0,20}`).Draw(t, "tag"),
			Retry: rapid.Uint32().Draw(t, "retry"), OnFailure: rapid.SampledFrom([]string{"", "rollback", "hold"}).Draw(t, "onFailure"),
			Stages: []*fleetv1.RolloutStage{{Name: name.Draw(t, "stage"), Traffic: rapid.SampledFrom([]string{"", "10%", "0.0001%", "100%"}).Draw(t, "traffic")}},
		}
		if rapid.Bool().Draw(t, "selects") {
			body.Rollout.Spec.Stages[0].Select = &fleetv1.StageSelector{Region: name.Draw(t, "selected")}
		}
		body.Rollout.Status = &fleetv1.RolloutStatus{Phase: "Complete", Message: "all: well"}
	}
	return r
})

// What is printed is read back as the same resource, whatever its values look like to YAML.
func TestPrintedIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(drawn, 1, 4).Draw(t, "resources")
		asYAML, err := YAML(all...)
		if err != nil {
			t.Fatal(err)
		}
		one, err := JSON(all[0])
		if err != nil {
			t.Fatal(err)
		}
		list, err := JSON(&fleetv1.ListResponse{Resources: all, ResourceVersion: 1 << 60})
		if err != nil {
			t.Fatal(err)
		}
		for form, c := range map[string]struct {
			data []byte
			want []*fleetv1.Resource
		}{"yaml": {asYAML, all}, "json": {one, all[:1]}, "json list": {list, all}} {
			docs, err := Read(form, c.data)
			if err != nil {
				t.Fatalf("%v\n%s", err, c.data)
			}
			if len(docs) != len(c.want) {
				t.Fatalf("%s: %d resources read, want %d\n%s", form, len(docs), len(c.want), c.data)
			}
			for i, d := range docs {
				if want := Declared(c.want[i]); !proto.Equal(d.Resource, want) {
					t.Fatalf("%s: read %v, want %v\n%s", form, d.Resource, want, c.data)
				}
			}
		}
	})
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(fleetFile))
	f.Add([]byte(`{"resources":[{"kind":"Model","metadata":{"name":"a","resourceVersion":"3"},"model":{"spec":{},"status":{}}}],"resourceVersion":"9"}`))
	f.Add([]byte("kind: Region\nmetadata: &a {name: x, labels: *a}\nspec: !!binary aGk=\n"))
	f.Add([]byte("? [a]\n: b\n--- |\n text\n...\n"))
	f.Add([]byte("%YAML 1.1\n---\nkind: !x Site\nspec: {<<: [1]}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := Read("f", data)
		if err != nil {
			return
		}
		for _, d := range docs {
			if problems := Validate(d.Resource); len(problems) > 0 {
				t.Fatalf("read without an error, and yet: %v", problems)
			}
			text, err := YAML(d.Resource)
			if err != nil {
				t.Fatal(err)
			}
			again, err := Read("again", text)
			if err != nil || len(again) != 1 || !proto.Equal(again[0].Resource, d.Resource) {
				t.Fatalf("printed and read again: %v, %v\n%s", again, err, text)
			}
		}
	})
}
