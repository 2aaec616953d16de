package tracing

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestHeaders(t *testing.T) {
	const trace = "4bf92f3577b34da6a3ce929d0e0e4736"
	for value, want := range map[string]string{
		good:                                   good,
		"00-" + trace + "-00f067aa0ba902b7-00": "00-" + trace + "-00f067aa0ba902b7-00",
		// Flags that level 1 does not know are not passed on.
		"00-" + trace + "-00f067aa0ba902b7-ff": good,
		"00-" + trace + "-00f067aa0ba902b7-02": "00-" + trace + "-00f067aa0ba902b7-00",
		// A later version is read as far as 00 goes, and continued as 00.
		"01-" + trace + "-00f067aa0ba902b7-01":           good,
		"cc-" + trace + "-00f067aa0ba902b7-01-what-ever": good,
		"cc-" + trace + "-00f067aa0ba902b7-01-":          good,
		// What is malformed is none.
		"":                                      "",
		" " + good:                              "",
		good + " ":                              "",
		"ff-" + trace + "-00f067aa0ba902b7-01":  "",
		"00-" + trace + "-00f067aa0ba902b7-01-": "",
		"00-" + trace + "-00f067aa0ba902b7-01-extra":                  "",
		"cc-" + trace + "-00f067aa0ba902b7-01.what":                   "",
		"00-" + strings.ToUpper(trace) + "-00f067aa0ba902b7-01":       "",
		"00-" + trace + "-00F067aa0ba902b7-01":                        "",
		"00-" + trace + "-00f067aa0ba902b7-0A":                        "",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01":     "",
		"00-" + trace + "-0000000000000000-01":                        "",
		"00-" + trace[1:] + "-00f067aa0ba902b7-01":                    "",
		"00-" + trace + "-00f067aa0ba902b7-1":                         "",
		"0g-" + trace + "-00f067aa0ba902b7-01":                        "",
		"00_" + trace + "-00f067aa0ba902b7-01":                        "",
		"00-" + trace + "_00f067aa0ba902b7-01":                        "",
		"00-" + trace + "-00f067aa0ba902b7_01":                        "",
		"00-" + trace[:31] + "é-00f067aa0ba902b7-01":                  "",
		good + "," + good:                                             "",
		"00-4bf92f35-77b3-4da6-a3ce-929d0e0e473-00f067aa0ba902b7-01x": "",
	} {
		c, ok := FromHeader(value)
		if got := c.String(); got != want || ok != (want != "") {
			t.Errorf("%q: %q %v, should be %q", value, got, ok, want)
		}
	}
	if c, ok := FromHeaders([]string{good}); !ok || c.TraceID() != trace {
		t.Error("one header is not read")
	}
	for _, several := range [][]string{nil, {good, good}, {"", good}} {
		if c, ok := FromHeaders(several); ok || c.TraceID() != "" {
			t.Errorf("%q is a trace", several)
		}
	}
}

func TestAChildStaysInItsTrace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parent, _ := FromHeader(good)
		child := parent.Child(rapid.Uint64().Draw(t, "random"))
		again, ok := FromHeader(child.String())
		if !ok || again != child || again.Trace != parent.Trace || again.Sampled != parent.Sampled {
			t.Fatalf("%v became %v", parent, child)
		}
	})
}

var standard = regexp.MustCompile(`^(00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}|([1-9a-f][0-9a-f]|0[1-9a-f])-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-(?s:.*))?)$`)

func FuzzFromHeader(f *testing.F) {
	f.Add(good)
	f.Add("01" + good[2:] + "-more")
	f.Add("ff" + good[2:])
	f.Add(strings.Repeat("0", size))
	f.Fuzz(func(t *testing.T, value string) {
		c, ok := FromHeader(value)
		if ok != c.Valid() {
			t.Fatalf("%q: read %v, valid %v", value, ok, c.Valid())
		}
		want := standard.MatchString(value) && !strings.HasPrefix(value, "ff") && strings.Trim(value[3:35], "0") != "" && strings.Trim(value[36:52], "0") != ""
		if ok != want {
			t.Fatalf("%q: read %v, the standard says %v", value, ok, want)
		}
		if ok && (c.TraceID() != value[3:35] || c.String()[:53] != "00"+value[2:53]) {
			t.Fatalf("%q became %q", value, c.String())
		}
	})
}
