package bundle

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const reference = "../../docs/bundle.md"

// places are the mappings of bundle.yaml, each with a document that has an unknown key there, so that the refusal lists
// those that are known.
var places = map[string]string{
	"":               "nonsense: 1",
	"variants":       "variants: [{nonsense: 1}]",
	"inputs":         "inputs: [{nonsense: 1}]",
	"outputs":        "outputs: [{nonsense: 1}]",
	"pipeline":       "pipeline: {nonsense: 1}",
	"pipeline.STAGE": "pipeline: [{nonsense: 1}]",
	"budgets":        "budgets: {nonsense: 1}",
	"batching":       "batching: {nonsense: 1}",
}

var (
	unknown = regexp.MustCompile(`unknown key "nonsense" in [^;]*; known are ([a-zA-Z, ]+)`)
	keyRow  = regexp.MustCompile("(?m)^\\| `([a-zA-Z.]+)` \\|")
	example = regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
)

// keysOf returns the keys that are known where document has the key nonsense.
func keysOf(t *testing.T, document string) []string {
	_, err := ParseSpec([]byte(document))
	if err == nil {
		t.Fatalf("%s is read", document)
	}
	m := unknown.FindStringSubmatch(err.Error())
	if m == nil {
		t.Fatalf("%s: %v", document, err)
	}
	return strings.Split(m[1], ", ")
}

// TestTheReferenceListsEveryKey: the tables of docs/bundle.md are the keys that are read.
func TestTheReferenceListsEveryKey(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var known, said []string
	// A module has the same keys wherever it stands; the reference lists them once.
	module := keysOf(t, "pipeline: {pre: {nonsense: 1}}")
	if post := keysOf(t, "pipeline: {post: {nonsense: 1}}"); !slices.Equal(module, post) {
		t.Errorf("pre has the keys %v, post %v", module, post)
	}
	for _, key := range module {
		known = append(known, "MODULE."+key)
	}
	for place, document := range places {
		for _, key := range keysOf(t, document) {
			if place != "pipeline.STAGE" || key == "module" || !slices.Contains(module, key) {
				known = append(known, strings.TrimPrefix(place+"."+key, "."))
			}
		}
	}
	for _, m := range keyRow.FindAllStringSubmatch(string(text), -1) {
		said = append(said, m[1])
	}
	slices.Sort(known)
	slices.Sort(said)
	if !slices.Equal(known, said) {
		t.Errorf("%s has the keys\n%v\nknown are\n%v", reference, said, known)
	}
}

// TestTheReferencesExamplesAreRead: what docs/bundle.md shows can be copied. A part of a bundle stands behind a smallest
// one.
func TestTheReferencesExamplesAreRead(t *testing.T) {
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	const smallest = "apiVersion: dhow/v1\nname: m\nversion: '1'\ninputs: [{name: x, datatype: FP32, shape: [-1]}]\noutputs: [{name: y, datatype: FP32, shape: [-1]}]\n"
	examples := example.FindAllStringSubmatch(string(text), -1)
	if len(examples) < 4 {
		t.Errorf("%s has %d examples", reference, len(examples))
	}
	for _, m := range examples {
		document := m[1]
		if !strings.HasPrefix(document, "apiVersion") {
			document = smallest + document
		}
		if _, err := ParseSpec([]byte(document)); err != nil {
			t.Errorf("%v in\n%s", err, document)
		}
	}
}
