package localapi

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"
	"pgregory.net/rapid"
)

var now = time.Unix(1_800_000_000, 0).UTC()

// full is a document with everything in it.
func full() Document {
	var minutes []Minute
	for i := range 60 {
		minutes = append(minutes, Minute{Start: now.Add(time.Duration(i-60) * time.Minute), Requests: 100, P50Seconds: 0.001, P95Seconds: 0.002 + float64(i%3)/1000})
	}
	minutes[10] = Minute{Start: minutes[10].Start}
	minutes[20].Errors = 7
	return Document{
		Version: "1.0", Protocol: 1, StartedAt: now.Add(-75 * time.Hour),
		Uplink:   Uplink{Server: "m:8443", Enrolled: true, Node: "n-1", Name: "till-3", Region: "ae-dubai", Site: "deira", Connected: true, Since: now.Add(-time.Minute), Transport: "HTTP/3", Generation: 7, CertificateExpires: now.Add(24 * time.Hour)},
		Warnings: []Warning{{Code: "disk-full", Message: "no room", Remedy: "make some", Since: now.Add(-time.Second)}},
		Models: []Model{
			{Model: "fashion", Version: "2", State: "serving", Role: "baseline", Share: 0.9, Since: now.Add(-time.Hour), Provider: "CPUExecutionProvider", MemoryBytes: 31 << 20, Statistics: &Statistics{
				Requests: 5900, Errors: 7, Failures: map[string]uint64{"BACKEND": 7}, Pending: 3, QueueSeconds: 0.0002, Inferences: 30, Executions: 10, CacheHits: 1, CacheMisses: 3, LastInference: now,
				Recent: Recent{WindowSeconds: 90, Requests: 150, RequestsPerSecond: 1.66, P50Seconds: 0.0012, P95Seconds: 0.0034, P99Seconds: 0.035}, Minutes: minutes,
			}},
			{Model: "fashion", Version: "3", State: "serving", Role: "shadow", Since: now, Statistics: &Statistics{}},
			{Model: "voice", Version: "1", State: "downloading", Since: now, Bytes: 200, BytesDone: 50, Reason: "waiting-network", Message: "the node tries again"},
		},
		Outbox: Outbox{Pending: 3, Bytes: 2048, Dropped: 1}, Telemetry: Telemetry{Written: 1_203_441},
		Addresses: []Address{{"HTTP", "127.0.0.1:8000"}}, Repository: "/srv/models", Queue: &Queue{Waiting: 2, Limit: 128, Places: 2},
		Cache: &Cache{Entries: 4, Bytes: 3 << 20, LimitBytes: 64 << 20}, AccessLog: &AccessLog{Written: 9, Dropped: 2}, Hardware: []string{"2 cores"},
	}
}

// render returns the page of a document.
func render(d Document) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	servePage(w, d, now)
	return w
}

// words returns the text of a page, and the names of its elements.
func words(t interface{ Fatalf(string, ...any) }, page string) (text string, elements map[string]int, attributes map[string]int) {
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatalf("%v", err)
	}
	elements, attributes = map[string]int{}, map[string]int{}
	var b strings.Builder
	for n := range root.Descendants() {
		switch {
		case n.Type == html.TextNode && n.Parent.Data != "style":
			b.WriteString(strings.TrimSpace(n.Data) + "\n")
		case n.Type == html.ElementNode:
			elements[n.Data]++
			for _, a := range n.Attr {
				attributes[a.Key]++
			}
		}
	}
	return b.String(), elements, attributes
}

func TestThePageSaysWhatTheDocumentSays(t *testing.T) {
	w := render(full())
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != "text/html; charset=utf-8" || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatal(w.Code, w.Header())
	}
	text, elements, _ := words(t, w.Body.String())
	for _, want := range []string{
		"till-3", "needs attention", "no room", "make some", "disk-full", "fashion", "serving", "baseline 90 %", "shadow", "CPUExecutionProvider", "31 MiB of memory",
		"1.7", "1.2 ms", "3.4 ms", "35 ms", "200 µs", "5,900", "3.0", "25 %", "voice", "25 %", "waiting-network: the node tries again", "No request in the last hour.",
		"7 of 5,900 in the last hour", "of at most 128, for 2 places", "connected for 1 min over HTTP/3", "generation 7", "ae-dubai / deira", "3 aggregates wait (2.0 KiB), 1 were dropped",
		"4 answers, 3.0 MiB of 64 MiB", "9 lines, 2 dropped", "1,203,441 requests written down", "2 cores", "3 d 3 h", "/srv/models", "127.0.0.1:8000", "dhow-agent 1.0, protocol 1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
	if elements["svg"] != 1 || elements["polyline"] != 2 || elements["rect"] != 1 || elements["progress"] != 1 || elements["h1"] != 1 || elements["main"] != 1 || elements["article"] != 3 {
		t.Errorf("%v", elements)
	}
}

// TestThePageNeedsNothing: it works on a machine that is offline, and runs nothing.
func TestThePageNeedsNothing(t *testing.T) {
	w := render(full())
	page := w.Body.String()
	_, elements, attributes := words(t, page)
	for _, banned := range []string{"script", "link", "img", "iframe", "object", "form", "base"} {
		if elements[banned] > 0 {
			t.Errorf("the page has a <%s>", banned)
		}
	}
	for name := range attributes {
		if name == "src" || name == "style" || name == "action" || strings.HasPrefix(name, "on") {
			t.Errorf("the page has an attribute %s", name)
		}
	}
	if regexp.MustCompile(`(?i)https?:|//|url\(|@import`).MatchString(strings.ReplaceAll(page, "until ", "")) {
		t.Error("the page names an address elsewhere")
	}
	// The policy lets through the style that is in the page, which a browser hashes as it stands.
	_, inPage, _ := strings.Cut(page, "<style>")
	inPage, _, _ = strings.Cut(inPage, "</style>")
	sum := sha256.Sum256([]byte(inPage))
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'") {
		t.Errorf("the style of the page is not the one of %s", csp)
	}
}

// TestNamesDoNothing: whatever a model is called, the page has the elements that it would have.
func TestNamesDoNothing(t *testing.T) {
	base := Document{Models: []Model{{Model: "m", Version: "1", State: "failed", Reason: "r", Message: "x", Provider: "p", Role: "b"}}, Warnings: []Warning{{Code: "c", Message: "m", Remedy: "r"}}, Hardware: []string{"h"}, Repository: "/r", Uplink: Uplink{Server: "s", Name: "n", Enrolled: true, Node: "i", LastError: "e"}}
	_, elements, attributes := words(t, render(base).Body.String())
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.SampledFrom([]string{
			`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `</style><script>`, `{{.Style}}`, `'-alert(1)-'`, "javascript:alert(1)", "<!--", "]]>", "&lt;b&gt;", "\u202e", strings.Repeat("x", 5000),
		}), rapid.StringN(1, 50, -1)).Draw(t, "text")
		d := Document{Version: s, Models: []Model{{Model: s, Version: s, State: "failed", Reason: s, Message: s, Provider: s, Role: s}}, Warnings: []Warning{{Code: s, Message: s, Remedy: s}}, Hardware: []string{s}, Repository: s, Uplink: Uplink{Server: s, Name: s, Enrolled: true, Node: s, LastError: s}}
		page := render(d).Body.String()
		text, gotElements, gotAttributes := words(t, page)
		if fmt.Sprint(gotElements) != fmt.Sprint(elements) || fmt.Sprint(gotAttributes) != fmt.Sprint(attributes) {
			t.Fatalf("%q changed the page: %v instead of %v", s, gotElements, elements)
		}
		if clean := strings.TrimSpace(s); !strings.ContainsAny(s, "\x00\r") && strings.ToValidUTF8(s, "") == s && !strings.Contains(text, clean) {
			t.Fatalf("%q is not on the page: %s", s, text)
		}
	})
}

func TestStatesOfTheWhole(t *testing.T) {
	serving := Model{Model: "m", Version: "1", State: "serving"}
	for _, c := range []struct {
		d              Document
		state, summary string
		hint           string
	}{
		{Document{}, "idle", "no model yet", "Nothing was rolled out to this node yet."},
		{Document{Repository: "/m"}, "idle", "no model yet", "MODEL/1/model.onnx"},
		{Document{Uplink: Uplink{Server: "m:1"}}, "idle", "no model yet", "waits to be let into its fleet"},
		{Document{Models: []Model{serving}}, "good", "1 model in service", ""},
		{Document{Models: []Model{serving, {Model: "n", State: "READY"}}}, "good", "2 models in service", ""},
		{Document{Models: []Model{serving}, Warnings: []Warning{{Code: "x"}}}, "warn", "needs attention", ""},
		{Document{Models: []Model{serving, {Model: "n", State: "failed"}}, Warnings: []Warning{{Code: "x"}}}, "bad", "1 model failed", ""},
		{Document{Models: []Model{{Model: "n", State: "UNAVAILABLE", Reason: "unloaded"}}}, "good", "0 models in service", ""},
	} {
		v := newView(c.d, now)
		if v.State != c.state || v.Summary != c.summary || !strings.Contains(v.Hint, c.hint) || (v.Hint == "") != (c.hint == "") {
			t.Errorf("%+v: %s, %s, %s", c.d, v.State, v.Summary, v.Hint)
		}
	}
}

func TestChartsStayInTheirFrame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		minutes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Minute {
			n := rapid.Uint64Range(0, 5).Draw(t, "requests")
			m := Minute{Requests: n, Errors: rapid.Uint64Range(0, n).Draw(t, "errors")}
			if m.Errors < n {
				m.P95Seconds = rapid.Float64Range(1e-6, 1000).Draw(t, "p95")
			}
			return m
		}), 0, 70).Draw(t, "minutes")
		c := newChart(minutes)
		shown := minutes[max(len(minutes)-60, 0):]
		var answered, failed, requests int
		for _, m := range shown {
			requests += int(m.Requests)
			if m.P95Seconds > 0 {
				answered++
			}
			if m.Errors > 0 {
				failed++
			}
		}
		if (c == nil) != (requests == 0) {
			t.Fatalf("%d requests, chart %v", requests, c)
		}
		if c == nil {
			return
		}
		points := len(c.Dots)
		in := func(text string, most float64) {
			if v, err := strconv.ParseFloat(text, 64); err != nil || v < 0 || v > most || math.IsNaN(v) {
				t.Fatalf("%q is not between 0 and %v", text, most)
			}
		}
		for _, line := range c.Lines {
			for point := range strings.FieldsSeq(line) {
				points++
				x, y, _ := strings.Cut(point, ",")
				in(x, chartWidth)
				in(y, chartHeight)
			}
		}
		for _, b := range c.Bars {
			in(b.X, chartWidth)
			in(b.Y, chartHeight)
			in(b.Height, chartHeight)
		}
		if points != answered || len(c.Bars) != failed {
			t.Fatalf("%d points and %d bars for %d and %d minutes", points, len(c.Bars), answered, failed)
		}
		spark := []rune(sparkline(minutes, sparkWidth))
		if len(spark) != sparkWidth || strings.ContainsRune(string(spark), '×') != (failed > 0) {
			t.Fatalf("%q for %d failed minutes", string(spark), failed)
		}
	})
	if got := sparkline([]Minute{{P95Seconds: 1}, {P95Seconds: 8}, {Errors: 1}, {}}, chartHour); got != strings.Repeat(" ", 56)+"▂█× " {
		t.Errorf("%q", got)
	}
}

// TestColoursCanBeRead computes the contrast of text and ground, which has to be 4.5 to 1 (WCAG 2.1, level AA).
func TestColoursCanBeRead(t *testing.T) {
	light, dark, _ := strings.Cut(style, "prefers-color-scheme: dark")
	variable := regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`)
	for name, css := range map[string]string{"light": light, "dark": dark} {
		colours := map[string]float64{}
		for _, m := range variable.FindAllStringSubmatch(css, -1) {
			rgb, err := strconv.ParseUint(m[2], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			colours[m[1]] = luminance(rgb)
		}
		for _, pair := range [][2]string{
			{"text", "ground"}, {"text", "card"}, {"quiet", "ground"}, {"quiet", "card"}, {"text", "warn-ground"}, {"quiet", "warn-ground"}, {"warn", "card"}, {"warn", "ground"},
			{"good", "good-ground"}, {"busy", "busy-ground"}, {"bad", "bad-ground"}, {"bad", "card"}, {"bad", "ground"}, {"good", "ground"}, {"busy", "ground"}, {"line", "ground"},
		} {
			a, okA := colours[pair[0]]
			b, okB := colours[pair[1]]
			if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); !okA || !okB || ratio < 4.5 {
				t.Errorf("%s: %s on %s has a contrast of %.2f", name, pair[0], pair[1], ratio)
			}
		}
	}
}

// luminance is the relative luminance of sRGB, by WCAG 2.1.
func luminance(rgb uint64) float64 {
	linear := func(c uint64) float64 {
		v := float64(c&0xff) / 255
		if v <= 0.04045 {
			return v / 12.92
		}
		return math.Pow((v+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(rgb>>16) + 0.7152*linear(rgb>>8) + 0.0722*linear(rgb)
}

func TestWhereThePageIs(t *testing.T) {
	var fail error
	h := New(func(*http.Request) (Document, error) { return full(), fail })
	for path, want := range map[string]int{"/": 200, "/dhow/": 200, "/dhow/status": 200, "/dhow": 307, "/dhow/other": 404, "/v2": 404} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/dhow/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Error(w.Code)
	}
	fail = errors.New("cannot read <state.db>")
	w = httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusInternalServerError || !strings.Contains(w.Body.String(), "state.db") || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Error(w.Code, w.Header(), w.Body)
	}
}
