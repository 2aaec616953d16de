package metrics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"pgregory.net/rapid"

	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
)

// parse reads a page as Prometheus does.
func parse(page []byte) (map[string]*dto.MetricFamily, error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	return parser.TextToMetricFamilies(bytes.NewReader(page))
}

// at returns the value of the sample that has the labels, given as name and value in turn.
func at(t *testing.T, families map[string]*dto.MetricFamily, name string, labels ...string) float64 {
	t.Helper()
	want := map[string]string{}
	for i := 0; i < len(labels); i += 2 {
		want[labels[i]] = labels[i+1]
	}
	for _, m := range families[name].GetMetric() {
		got := map[string]string{}
		for _, l := range m.GetLabel() {
			got[l.GetName()] = l.GetValue()
		}
		if !maps.Equal(got, want) {
			continue
		}
		switch families[name].GetType() {
		case dto.MetricType_COUNTER:
			return m.GetCounter().GetValue()
		case dto.MetricType_GAUGE:
			return m.GetGauge().GetValue()
		default:
			return float64(m.GetHistogram().GetSampleCount())
		}
	}
	t.Errorf("no sample %s%v", name, labels)
	return math.NaN()
}

func everything() Options {
	r := statistics.New()
	m := r.Model("fashion", "2")
	for _, d := range []time.Duration{50 * time.Microsecond, 3 * time.Millisecond, 100 * time.Millisecond, 700 * time.Millisecond, 9 * time.Second, time.Minute} {
		m.Begin()
		m.End(telemetry.OK, d, &statistics.Timing{Queue: 7 * time.Millisecond, Input: time.Millisecond, Infer: 2 * time.Millisecond, Output: 4 * time.Millisecond, Rows: 2, Executed: 2, Missed: true, Lookup: time.Millisecond})
	}
	m.Begin()
	m.End(telemetry.OK, time.Millisecond, &statistics.Timing{Hit: true, Lookup: 3 * time.Millisecond})
	for _, c := range []telemetry.Code{telemetry.Overloaded, telemetry.Deadline, telemetry.Canceled, telemetry.ModelError, telemetry.InvalidInput} {
		m.Begin()
		m.End(c, time.Second, nil)
	}
	m.Begin()
	r.Model("a \"b\"\n\\c\xff", "1")
	return Options{
		Models:  r.Snapshot,
		Machine: func() Machine { return Machine{CPU: 0.25, MemoryTotal: 8 << 30, MemoryUsed: 1 << 30} },
		Process: func() (Process, bool) {
			return Process{CPU: 1500 * time.Millisecond, Resident: 25 << 20, Anonymous: 5 << 20, OpenFiles: 12, MaxFiles: 1024, Start: time.Unix(1_800_000_000, 0), Goroutines: 9}, true
		},
		GPUs: func(context.Context) []GPU {
			return []GPU{{UUID: "GPU-1", Utilization: 0.5, MemoryTotal: 80 << 30, MemoryUsed: 2 << 30, PowerUsage: 88.5, PowerLimit: 700, Energy: 12.5}, {UUID: "GPU-2", Utilization: math.NaN(), MemoryTotal: 1, MemoryUsed: 0, PowerUsage: math.NaN(), PowerLimit: math.NaN(), Energy: math.NaN()}}
		},
		Agent: func(context.Context) Agent {
			return Agent{
				Version: "1.0", GoVersion: "go1.26", Fleet: true, Enrolled: true, OutboxPending: 3, OutboxBytes: 40, TelemetryWritten: 5, AccessDropped: 1,
				Cache: &Cache{Entries: 2, Bytes: 100, Limit: 1000}, Warnings: []string{"disk-full"},
				Models: []Model{{Model: "fashion", Version: "2", State: "serving", Role: "baseline", Memory: 1 << 20}, {Model: "fashion", Version: "3", State: "failed"}},
			}
		},
	}
}

// conventional are the names that Triton's dashboards and autoscalers know, with their kinds.
var conventional = map[string]dto.MetricType{
	"nv_inference_request_success": dto.MetricType_COUNTER, "nv_inference_request_failure": dto.MetricType_COUNTER,
	"nv_inference_count": dto.MetricType_COUNTER, "nv_inference_exec_count": dto.MetricType_COUNTER,
	"nv_inference_pending_request_count": dto.MetricType_GAUGE, "nv_inference_request_duration_us": dto.MetricType_COUNTER,
	"nv_inference_queue_duration_us": dto.MetricType_COUNTER, "nv_inference_compute_input_duration_us": dto.MetricType_COUNTER,
	"nv_inference_compute_infer_duration_us": dto.MetricType_COUNTER, "nv_inference_compute_output_duration_us": dto.MetricType_COUNTER,
	"nv_inference_first_response_histogram_ms": dto.MetricType_HISTOGRAM,
	"nv_cache_num_hits_per_model":              dto.MetricType_COUNTER, "nv_cache_num_misses_per_model": dto.MetricType_COUNTER,
	"nv_cache_hit_duration_per_model": dto.MetricType_COUNTER, "nv_cache_miss_duration_per_model": dto.MetricType_COUNTER,
	"nv_gpu_utilization": dto.MetricType_GAUGE, "nv_gpu_memory_total_bytes": dto.MetricType_GAUGE, "nv_gpu_memory_used_bytes": dto.MetricType_GAUGE,
	"nv_gpu_power_usage": dto.MetricType_GAUGE, "nv_gpu_power_limit": dto.MetricType_GAUGE, "nv_energy_consumption": dto.MetricType_COUNTER,
	"nv_cpu_utilization": dto.MetricType_GAUGE, "nv_cpu_memory_total_bytes": dto.MetricType_GAUGE, "nv_cpu_memory_used_bytes": dto.MetricType_GAUGE,
}

func TestThePageIsReadAsItIsMeant(t *testing.T) {
	families, err := parse(Append(nil, t.Context(), everything()))
	if err != nil {
		t.Fatal(err)
	}
	for name, kind := range conventional {
		if f := families[name]; f == nil || f.GetType() != kind || f.GetHelp() == "" {
			t.Errorf("%s: %v", name, f)
		}
	}
	fashion := []string{"model", "fashion", "version", "2"}
	for name, want := range map[string]float64{
		"nv_inference_request_success": 7, "nv_inference_count": 12, "nv_inference_exec_count": 6, "nv_inference_pending_request_count": 1,
		"nv_inference_request_duration_us": 50 + 3000 + 100_000 + 700_000 + 9_000_000 + 60_000_000 + 1000, "nv_inference_queue_duration_us": 6 * 7000,
		"nv_inference_compute_input_duration_us": 6000, "nv_inference_compute_infer_duration_us": 12_000, "nv_inference_compute_output_duration_us": 24_000,
		"nv_cache_num_hits_per_model": 1, "nv_cache_num_misses_per_model": 6, "nv_cache_hit_duration_per_model": 3000, "nv_cache_miss_duration_per_model": 6000,
		"nv_inference_first_response_histogram_ms": 7, "dhow_request_duration_seconds": 7, "dhow_queue_duration_seconds": 12, "dhow_request_errors_total": 3,
		"dhow_model_memory_bytes": 1 << 20,
	} {
		if got := at(t, families, name, fashion...); got != want {
			t.Errorf("%s is %v, should be %v", name, got, want)
		}
	}
	for reason, want := range map[string]float64{"REJECTED": 2, "CANCELED": 1, "BACKEND": 1, "OTHER": 1} {
		if got := at(t, families, "nv_inference_request_failure", append(fashion, "reason", reason)...); got != want {
			t.Errorf("%s: %v, should be %v", reason, got, want)
		}
	}
	for name, want := range map[string]float64{
		"nv_cpu_utilization": 0.25, "nv_cpu_memory_used_bytes": 1 << 30, "process_cpu_seconds_total": 1.5, "process_resident_memory_bytes": 25 << 20,
		"process_start_time_seconds": 1_800_000_000, "dhow_uplink_connected": 0, "dhow_node_enrolled": 1, "dhow_outbox_pending": 3, "dhow_response_cache_bytes": 100,
	} {
		if got := at(t, families, name); got != want {
			t.Errorf("%s is %v, should be %v", name, got, want)
		}
	}
	at(t, families, "nv_gpu_power_usage", "gpu_uuid", "GPU-1")
	at(t, families, "dhow_warning", "code", "disk-full")
	at(t, families, "dhow_build_info", "version", "1.0", "goversion", "go1.26")
	at(t, families, "dhow_model_info", "model", "fashion", "version", "3", "state", "failed", "role", "")
	at(t, families, "nv_inference_count", "model", "a \"b\"\n\\c\uFFFD", "version", "1")
	if n := len(families["nv_gpu_power_usage"].GetMetric()); n != 1 {
		t.Errorf("%d devices tell their power, one does", n)
	}
	var bounds []float64
	for _, m := range families["nv_inference_first_response_histogram_ms"].GetMetric() {
		if m.GetHistogram().GetSampleCount() == 0 {
			continue
		}
		for _, b := range m.GetHistogram().GetBucket() {
			bounds = append(bounds, b.GetUpperBound(), float64(b.GetCumulativeCount()))
		}
		if sum := m.GetHistogram().GetSampleSum(); math.Abs(sum-69804.05) > 1e-6 {
			t.Errorf("the sum is %v ms", sum)
		}
	}
	if fmt.Sprint(bounds) != "[100 4 500 4 2000 5 5000 5 +Inf 7]" {
		t.Error(bounds)
	}
}

var (
	ourNames = regexp.MustCompile(`^(nv|dhow|process|go)_[a-z_]*[a-z]$`)
	units    = regexp.MustCompile(`_(ms|millis|us|micros|kb|mb|percent)(_|$)`)
)

// TestNamesFollowPrometheus: our own are in base units and say what they count.
func TestNamesFollowPrometheus(t *testing.T) {
	page := Append(nil, t.Context(), everything())
	families, err := parse(page)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, _, _ = strings.Cut(name, " ")
			if seen[name] {
				t.Errorf("%s is there twice", name)
			}
			seen[name] = true
		}
	}
	for name, f := range families {
		if !ourNames.MatchString(name) {
			t.Errorf("%s is no name of ours", name)
		}
		if !strings.HasPrefix(name, "dhow_") {
			if _, known := conventional[name]; !known && strings.HasPrefix(name, "nv_") {
				t.Errorf("%s is none of Triton's metrics", name)
			}
			continue
		}
		if units.MatchString(name) {
			t.Errorf("%s is not in base units", name)
		}
		if total := strings.HasSuffix(name, "_total"); total != (f.GetType() == dto.MetricType_COUNTER) {
			t.Errorf("%s is a %v", name, f.GetType())
		}
	}
	if len(families) < 45 {
		t.Errorf("only %d metrics", len(families))
	}
}

func TestWhatIsNotThereIsNotShown(t *testing.T) {
	if page := Append(nil, t.Context(), Options{}); len(page) != 0 {
		t.Errorf("%s", page)
	}
	page := string(Append(nil, t.Context(), Options{
		Models: func() []statistics.Snapshot { return nil }, GPUs: func(context.Context) []GPU { return nil },
		Agent: func(context.Context) Agent { return Agent{} }, Process: func() (Process, bool) { return Process{}, false },
	}))
	for _, absent := range []string{"nv_", "uplink", "outbox", "process_", "cache", "dhow_model"} {
		if strings.Contains(page, absent) {
			t.Errorf("%s is shown: %s", absent, page)
		}
	}
}

// TestAnyNameGivesAPage: models are called what their owners like.
func TestAnyNameGivesAPage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := statistics.New()
		text := rapid.OneOf(rapid.String(), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		name, version := text.Draw(t, "name"), text.Draw(t, "version")
		r.Model(name, version)
		page := Append(nil, context.Background(), Options{Models: r.Snapshot})
		if !utf8.Valid(page) {
			t.Fatal("the page is no UTF-8")
		}
		families, err := parse(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range families["nv_inference_count"].GetMetric()[0].GetLabel() {
			want := map[string]string{"model": name, "version": version}[l.GetName()]
			if l.GetValue() != strings.ToValidUTF8(want, "\uFFFD") {
				t.Fatalf("%q became %q", want, l.GetValue())
			}
		}
	})
}

func TestBoundsAreExact(t *testing.T) {
	for _, b := range slices.Concat(seconds, milliseconds) {
		for _, d := range []time.Duration{-1, 0, 1} {
			r := statistics.New()
			r.Model("m", "1").End(telemetry.OK, b.bound+d, nil)
			if got, want := r.Snapshot()[0].Latency.AtMost(b.bound), uint64(max(0, -int64(d)+1)); min(got, 1) != min(want, 1) {
				t.Errorf("%v counts %d at the bound %v", b.bound+d, got, b.bound)
			}
		}
	}
}

func TestTheHandler(t *testing.T) {
	s := httptest.NewServer(Handler(everything()))
	defer s.Close()
	get := func(method string) (*http.Response, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, body := get(http.MethodGet)
	if resp.StatusCode != http.StatusOK || expfmt.ResponseFormat(resp.Header).FormatType() != expfmt.TypeTextPlain {
		t.Errorf("%s, %v", resp.Status, resp.Header)
	}
	if _, err := parse([]byte(body)); err != nil || resp.Header.Get("Cache-Control") != "no-store" {
		t.Error(err)
	}
	if resp, body := get(http.MethodHead); resp.StatusCode != http.StatusOK || body != "" {
		t.Error(resp.Status)
	}
	if resp, _ := get(http.MethodPost); resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") == "" {
		t.Error(resp.Status)
	}
}

func BenchmarkPage(b *testing.B) {
	r := statistics.New()
	for i := range 10 {
		r.Model(fmt.Sprint("model ", i), "1").End(telemetry.OK, time.Millisecond, nil)
	}
	var page []byte
	b.ReportAllocs()
	for b.Loop() {
		page = Append(page[:0], context.Background(), Options{Models: r.Snapshot})
	}
	b.ReportMetric(float64(len(page)), "bytes")
}
