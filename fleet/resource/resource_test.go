package resource

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func node(name, region, site, state string) *fleetv1.Resource {
	r := New(KindNode, name)
	r.GetNode().Status = &fleetv1.NodeStatus{Region: region, Site: site, State: state}
	return r
}

func fleet(t *testing.T) *World {
	t.Helper()
	docs, err := Read("fleet", []byte(fleetFile))
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorld(node("deira-1", "ae-dubai", "deira", "Active"), node("old", "ae-dubai", "deira", "Revoked"))
	for _, d := range docs {
		w.Put(d.Resource)
	}
	w.Get(KindModel, "fashion").GetModel().Status = &fleetv1.ModelStatus{Versions: []*fleetv1.ModelVersion{{Version: "2"}, {Version: "1"}}}
	return w
}

func TestReferencesMustExist(t *testing.T) {
	w := fleet(t)
	for _, kind := range Kinds() {
		for _, name := range w.Names(kind.Name) {
			if p := w.Check(w.Get(kind.Name, name)); len(p) > 0 {
				t.Errorf("%s %s refers to what exists, and yet: %v", kind.Name, name, p)
			}
		}
	}
	read := func(yaml string) *fleetv1.Resource {
		docs, err := Read("f", []byte(yaml))
		if err != nil {
			t.Fatal(err)
		}
		return docs[0].Resource
	}
	rollout := "kind: Rollout\nmetadata: {name: x}\nspec: {model: fashion, version: \"1\", stages: [{name: all, select: {region: ae-dubai, site: deira}}]}\n"
	for name, c := range map[string]struct{ yaml, want string }{
		"close region":  {"kind: Site\nmetadata: {name: a}\nspec: {region: ae-dubia}\n", `spec.region: there is no region "ae-dubia": did you mean ae-dubai?`},
		"far region":    {"kind: Site\nmetadata: {name: a}\nspec: {region: mars}\n", `there is no region "mars": there are ae-dubai`},
		"moved site":    {"kind: Site\nmetadata: {name: deira}\nspec: {region: eu}\n", `1 node of this site is enrolled in region ae-dubai`},
		"model":         {strings.Replace(rollout, "fashion", "other", 1), `spec.model: there is no model "other"`},
		"version":       {strings.Replace(rollout, `"1"`, `"3"`, 1), `the model fashion has no version "3": pushed are 2, 1`},
		"select region": {strings.Replace(rollout, "region: ae-dubai", "region: eu", 1), `spec.stages[0].select.region: there is no region "eu"`},
		"select site":   {strings.Replace(rollout, "site: deira", "site: deiro", 1), `did you mean deira?`},
	} {
		problems := w.Check(read(c.yaml))
		var all []string
		for _, p := range problems {
			all = append(all, p.Error())
		}
		if !strings.Contains(strings.Join(all, "\n"), c.want) {
			t.Errorf("%s: %q does not say %q", name, all, c.want)
		}
	}
	w.Put(read("kind: Region\nmetadata: {name: eu}\nspec: {jurisdiction: eu}\n"))
	p := w.Check(read(strings.Replace(rollout, "region: ae-dubai", "region: eu", 1)))
	if len(p) != 1 || !strings.Contains(p[0].Error(), "the site deira is in the region ae-dubai, not in eu") {
		t.Errorf("a site of another region: %v", p)
	}
}

func TestReferrersAreNamed(t *testing.T) {
	w := fleet(t)
	for kind, want := range map[string]string{
		KindRegion: "1 site (deira) and 1 rollout (fashion-v1) and 1 node (deira-1)",
		KindSite:   "1 node (deira-1)",
		KindModel:  "1 rollout (fashion-v1)",
	} {
		if got := w.Referrers(kind, w.Names(kind)[0]); got != want {
			t.Errorf("what refers to the %s: %q, want %q", kind, got, want)
		}
	}
	w.Remove(KindRollout, "fashion-v1")
	if got := w.Referrers(KindModel, "fashion"); got != "" {
		t.Errorf("nothing refers to the model any more, and yet: %q", got)
	}
	w.Put(node("deira-1", "ae-dubai", "deira", "Revoked"))
	if got := w.Referrers(KindSite, "deira"); got != "" {
		t.Errorf("revoked nodes hold on to the site: %q", got)
	}
}

func TestShares(t *testing.T) {
	for s, want := range map[string]uint32{"100%": All, "10%": 100_000, "0.5%": 5_000, "0.0001%": 1, "099.9999%": 999_999, "1.50%": 15_000} {
		if got, err := ParseShare(s); err != nil || got != want {
			t.Errorf("ParseShare(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "%", "10", "0%", "0.0%", "100.0001%", "-1%", "+1%", "1.%", ".5%", "1e1%", "10 %", "0.00001%", "1000%", "١%"} {
		if got, err := ParseShare(s); err == nil {
			t.Errorf("ParseShare(%q) = %d, want an error", s, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "text")
		if n, err := ParseShare(s); err == nil && (n == 0 || n > All) {
			t.Fatalf("ParseShare(%q) = %d", s, n)
		}
	})
}

func TestKindNames(t *testing.T) {
	for s, want := range map[string]string{"node": KindNode, "NODES": KindNode, "no": KindNode, "Rollout": KindRollout, "ro": KindRollout, "regions": KindRegion} {
		if k, err := KindNamed(s); err != nil || k.Name != want {
			t.Errorf("KindNamed(%q) = %q, %v; want %q", s, k.Name, err, want)
		}
	}
	if _, err := KindNamed("rolouts"); err == nil || !strings.Contains(err.Error(), "did you mean rollouts?") {
		t.Errorf("a slip of the key: %v", err)
	}
	if _, err := KindNamed("deployments"); err == nil || !strings.Contains(err.Error(), "Region, Site, Model, Rollout, Node") {
		t.Errorf("a foreign kind: %v", err)
	}
}

func TestSelectors(t *testing.T) {
	w := fleet(t)
	for selector, want := range map[string]string{
		"":                           "deira-1 old",
		"region=ae-dubai,site=deira": "deira-1 old",
		"region=eu":                  "",
		"site==deira":                "deira-1 old",
		"tier=gold":                  "",
	} {
		pairs, err := ParseSelector(selector)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, name := range w.Names(KindNode) {
			if Matches(w.Get(KindNode, name), pairs) {
				got = append(got, name)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q selects %v, want %q", selector, got, want)
		}
	}
	if pairs, _ := ParseSelector("tier=gold"); !Matches(w.Get(KindRegion, "ae-dubai"), pairs) {
		t.Error("a label does not select")
	}
	for _, s := range []string{"a", "=b", "a=1,a=2", "a!=b", ","} {
		if got, err := ParseSelector(s); err == nil {
			t.Errorf("ParseSelector(%q) = %v, want an error", s, got)
		}
	}
}

func TestDiff(t *testing.T) {
	w := fleet(t)
	before := w.Get(KindRollout, "fashion-v1")
	after := Declared(before)
	docs, err := Read("f", []byte(strings.Replace(strings.Split(fleetFile, "---\n")[4], "12.5%", "50%", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Diff(before, after); err != nil || got != "" {
		t.Errorf("the same spec differs: %q, %v", got, err)
	}
	got, err := Diff(before, docs[0].Resource)
	if err != nil || !strings.Contains(got, "-      traffic: 12.5%\n+      traffic: 50%\n") || !strings.Contains(got, " kind: Rollout\n") {
		t.Errorf("diff %v:\n%s", err, got)
	}
	if got, _ := Diff(nil, before); strings.Contains(got, "\n-") || !strings.HasPrefix(got, "+kind: Rollout\n") {
		t.Errorf("what is new is not all added:\n%s", got)
	}
	if got, _ := Diff(before, nil); !strings.HasPrefix(got, "-kind: Rollout\n") {
		t.Errorf("what goes is not all removed:\n%s", got)
	}
}

// Applying a diff to what was there gives what comes: the lines with ' ' and '-' are the old, with ' ' and '+' the new.
func TestDiffHoldsBothSides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawn.Draw(t, "before"), drawn.Draw(t, "after")
		d, err := Diff(a, b)
		if err != nil {
			t.Fatal(err)
		}
		var before, after []string
		for line := range strings.Lines(d) {
			if line[0] != '+' {
				before = append(before, strings.TrimSuffix(line[1:], "\n"))
			}
			if line[0] != '-' {
				after = append(after, strings.TrimSuffix(line[1:], "\n"))
			}
		}
		wantBefore, _ := declaredLines(a)
		wantAfter, _ := declaredLines(b)
		if d == "" {
			before, after = wantBefore, wantBefore
		}
		if strings.Join(before, "\n") != strings.Join(wantBefore, "\n") || strings.Join(after, "\n") != strings.Join(wantAfter, "\n") {
			t.Fatalf("the diff does not hold both sides:\n%s", d)
		}
	})
}

func TestNodesArePrintedWhole(t *testing.T) {
	n := node("deira-1", "ae-dubai", "deira", "Active")
	n.GetNode().Status.Report = &syncv1.ReportRequest{
		Generation: 1 << 60,
		Hardware:   &syncv1.Hardware{Cpu: &syncv1.Cpu{LimitCores: 1.5, Extensions: []string{"AVX2"}}},
		Copies:     []*syncv1.CopyStatus{{Model: "fashion", Version: "1", State: syncv1.CopyState_COPY_STATE_SERVING}},
	}
	data, err := YAML(n)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"generation: 1152921504606846976", "limitCores: 1.5", "- AVX2", "state: COPY_STATE_SERVING", `version: "1"`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("%q is not in\n%s", want, data)
		}
	}
}
