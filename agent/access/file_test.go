package access

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func hash(i int) string { return HashOf(fmt.Sprint(i)).String() }

func TestFilesThatDoNotHold(t *testing.T) {
	good := "kind: ServingKey\nmetadata: {name: till}\nspec: {hash: \"" + hash(1) + "\", groups: [inference]}\n"
	replace := func(old, by string) string {
		if !strings.Contains(good, old) {
			t.Fatal(old)
		}
		return strings.Replace(good, old, by, 1)
	}
	for _, c := range []struct{ text, want string }{
		{"kind: [", "document 1: this is no YAML: line"},
		{"- a\n", "line 1: a mapping should be here"},
		{"hello\n", "line 1: a mapping should be here"},
		{replace("ServingKey", "Servingkey"), `kind: it is "Servingkey", this file takes ServingKey`},
		{replace("kind: ServingKey\n", ""), `kind: it is "", this file takes ServingKey`},
		{replace("{name: till}", "{}"), "metadata.name: a name is missing"},
		{replace("name: till", "name: Till"), "lower-case"},
		{replace("name: till", "name: [till]"), "line 2: metadata.name: a single value should be here"},
		{replace("{name: till}", "{name: till, label: x}"), `line 2: metadata: there is no field "label"`},
		{replace("groups", "group"), `line 3: spec: there is no field "group"`},
		{good + "models: []\n", `line 4: there is no field "models"`},
		{good + "kind: ServingKey\n", "line 4: kind: it is given twice"},
		{replace(hash(1), "sha256:abc"), "spec.hash: it is sha256: and 64 hexadecimal digits"},
		{replace("sha256:", "md5:"), "spec.hash: it is sha256:"},
		{replace(`hash: "`+hash(1)+`", `, ""), "spec.hash: missing: write what dhow-agent key create prints"},
		{replace("[inference]", "[]"), "spec.groups: missing: write some of health, metadata, inference"},
		{replace("[inference]", "inference"), "spec.groups: a list should be here"},
		{replace("[inference]", "[infer]"), `spec.groups: there is no group "infer"`},
		{replace("[inference]", "[inference, null]"), "spec.groups: a single value should be here"},
		{replace("[inference]", "[inference], models: []"), "spec.models: an empty list: leave models out to allow all"},
		{replace("[inference]", "[inference], models: [\"\"]"), "spec.models: \"\" is no name"},
		{replace("[inference]", "[inference], models: [&a x, *a]"), "spec.models: a single value should be here"},
		{replace("[inference]", "[inference], quota: 5"), "spec.quota: a mapping should be here"},
		{replace("[inference]", "[inference], quota: {requestsPerMinute: -1}"), `spec.quota.requestsPerMinute: "-1" is no whole number`},
		{replace("[inference]", "[inference], quota: {requestsPerMinute: 1e3}"), "is no whole number"},
		{replace("[inference]", "[inference], quota: {requestsPerMinute: 99999999}"), "is not between 0 and 6000000"},
		{replace("[inference]", "[inference], quota: {burst: 5}"), "it needs requestsPerMinute"},
		{replace("[inference]", "[inference], quota: {concurrent: 99999999999999999999}"), "is no whole number"},
		{replace("[inference]", "[inference], expires: soon"), `spec.expires: "soon" is neither a day`},
		{replace("[inference]", "[inference], expires: 2027-02-30"), "is neither a day"},
		{good + "---\n" + good, "document 2, line 5: metadata.name: document 1 has the name till already"},
		{good + "---\n" + replace("till", "cash"), "spec.hash: document 1 has this key already"},
		{strings.Repeat("x: 1\n---\n", 30), "and 10 more problems"},
		{strings.Repeat("{a: ", 20000), "this is no YAML"},
	} {
		keys, err := Parse("keys.yaml", []byte(c.text))
		if err == nil || keys != nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "keys.yaml: ") {
			t.Errorf("%.300s\n%v\nwant %s", c.text, err, c.want)
		}
	}
	if keys, err := Parse("keys.yaml", []byte("---\n# none yet\n---\n")); err != nil || len(keys) != 0 {
		t.Errorf("%v, %v", keys, err)
	}
}

// TestDocumentsReadAsTheyWereWritten: what key create prints is what the agent reads.
func TestDocumentsReadAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []Key
		var text []byte
		for i := range rapid.IntRange(1, 4).Draw(t, "keys") {
			k := Key{
				Name:     fmt.Sprintf("%s-%d", rapid.StringMatching("[a-z][a-z0-9-]{0,20}").Draw(t, "name"), i),
				Hash:     HashOf(NewKey()),
				Groups:   rapid.SliceOfNDistinct(rapid.SampledFrom(append(Groups(), All)), 1, 4, rapid.ID[Group]).Draw(t, "groups"),
				Priority: uint64(rapid.Uint32Range(0, 1<<31-1).Draw(t, "priority")),
				Quota:    Quota{RequestsPerMinute: rapid.IntRange(1, maxPerMinute).Draw(t, "rate"), Burst: rapid.IntRange(0, maxBurst).Draw(t, "burst"), Concurrent: rapid.IntRange(0, maxConcurrent).Draw(t, "concurrent")},
			}
			if models := rapid.SliceOfN(rapid.StringN(1, 20, maxPattern), 0, 4).Draw(t, "models"); len(models) > 0 {
				k.Models = models
			}
			if rapid.Bool().Draw(t, "expires") {
				k.Expires = now.Add(time.Duration(rapid.IntRange(0, 1<<30).Draw(t, "seconds")) * time.Second)
			}
			if err := k.Validate(); err != nil {
				t.Fatal(err)
			}
			doc, err := k.Document()
			if err != nil {
				t.Fatal(err)
			}
			text, want = append(text, doc...), append(want, k)
		}
		got, err := Parse("keys.yaml", text)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v\n%+v\n%+v\n%s", err, got, want, text)
		}
	})
}

func FuzzParse(f *testing.F) {
	doc, _ := (&Key{Name: "till", Hash: HashOf("k"), Groups: []Group{All}, Models: []string{"a*"}, Quota: Quota{RequestsPerMinute: 5}, Expires: now}).Document()
	f.Add(doc)
	f.Add([]byte("kind: ServingKey\nmetadata: &a {name: *a}\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Add([]byte("kind: !!binary aGk=\nspec: {<<: {hash: x}}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := Parse("f", text)
		if err != nil {
			return
		}
		for i := range keys {
			if err := keys[i].Validate(); err != nil || keys[i].set() == 0 {
				t.Fatalf("%+v was let through: %v", keys[i], err)
			}
		}
	})
}

func TestTheFileMayChangeAnyTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.yaml")
	first := keyring(t, path, Key{Name: "first", Groups: []Group{All}, Quota: Quota{RequestsPerMinute: 1, Burst: 1}})[0]
	firstText, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var warnings []error
	var log bytes.Buffer
	p := open(t, path, Options{Warn: func(err error) { warnings = append(warnings, err) }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	authorize := func(key string) error {
		_, done, err := p.Authorize(bearer(key), Inference, "m")
		done()
		return err
	}
	if err := authorize(first); err != nil {
		t.Fatal(err)
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, broken := range []string{"kind: [", "kind: Node\n", strings.ReplaceAll(string(firstText), "groups", "group")} {
		put(broken)
		for range 3 {
			if p.Reload() == nil {
				t.Errorf("%q holds", broken)
			}
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(); err == nil || !strings.Contains(err.Error(), "chmod o-w") {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if p.Reload() == nil {
		t.Error("a file that is gone holds")
	}
	if len(warnings) != 5 || strings.Count(log.String(), "stay as they were") != 5 {
		t.Errorf("%d warnings: %v\n%s", len(warnings), warnings, log.String())
	}
	refused(t, authorize(first), QuotaExceeded, "") // the rule is there all the while
	// The file comes back as it was: nothing is forgotten, and the warning ends.
	put(string(firstText))
	if err := p.Reload(); err != nil || len(warnings) != 6 || warnings[5] != nil {
		t.Errorf("%v, %v", err, warnings)
	}
	refused(t, authorize(first), QuotaExceeded, "")
	// Another quota counts from what was used; another key is another key.
	second := NewKey()
	doc, _ := (&Key{Name: "second", Hash: HashOf(second), Groups: []Group{Inference}}).Document()
	put(strings.Replace(string(firstText), "burst: 1", "burst: 2", 1) + string(doc))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	if err := authorize(second); err != nil {
		t.Error(err)
	}
	if err := authorize(first); err != nil {
		t.Error(err)
	}
	refused(t, authorize(first), QuotaExceeded, "")
	if keys := p.Keys(); len(keys) != 2 || keys[0].Name != "first" || keys[1].Name != "second" {
		t.Errorf("%+v", keys)
	}
	put(string(doc))
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	refused(t, authorize(first), Unauthenticated, "not known")
	// A file without keys is a file: nobody has one.
	put("# none\n")
	if err := p.Reload(); err != nil {
		t.Fatal(err)
	}
	refused(t, authorize(second), Unauthenticated, "not known")
	_, _, err = p.Gate(true).Authorize(header("", ""), Inference, "m")
	refused(t, err, Unauthenticated, "a key is needed")
}

func TestRunLooksEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		keyring(t, path, Key{Name: "first", Groups: []Group{All}})
		p := open(t, path, Options{})
		go p.Run(t.Context())
		key := keyring(t, path, Key{Name: "second", Groups: []Group{All}})[0]
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if _, _, err := p.Authorize(bearer(key), Inference, "m"); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenSaysWhyItCannot(t *testing.T) {
	for _, c := range []struct{ text, want string }{{"", "no such file"}, {"kind: Node\n", "takes ServingKey"}, {strings.Repeat("#", maxFile+1), "more than"}} {
		path := filepath.Join(t.TempDir(), "keys.yaml")
		if c.text != "" {
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Open(path, Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
