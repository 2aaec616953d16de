package localapi

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dhowfleet/dhow/agent/statistics"
	"github.com/dhowfleet/dhow/agent/telemetry"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

func TestNumbersAreWrittenForPeople(t *testing.T) {
	for want, got := range map[string]string{
		"–": formatSeconds(0), "850 µs": formatSeconds(850e-6), "1.0 µs": formatSeconds(1e-6), "999 µs": formatSeconds(0.000999), "1.0 ms": formatSeconds(0.0009996),
		"9.9 ms": formatSeconds(0.00994), "10 ms": formatSeconds(0.00996), "1.0 s": formatSeconds(0.9996), "1.4 s": formatSeconds(1.44), "1,000 s": formatSeconds(1000),
		"0": formatRate(0), "0.02": formatRate(1.0 / 60), "0.5": formatRate(0.5), "1,240": formatRate(1240.3),
		"12": formatCount(12), "1,234": formatCount(1234), "1,234,567": formatCount(1234567), "18,446,744,073,709,551,615": formatCount(math.MaxUint64),
		"99,999": formatShort(99_999), "100 k": formatShort(100_000), "999 k": formatShort(999_499), "1.0 M": formatShort(999_500), "1.2 M": formatShort(1_203_441), "120 M": formatShort(120_000_000), "1.0 G": formatShort(999_500_000),
		"0 bytes": formatBytes(0), "1,023 bytes": formatBytes(1023), "1.0 KiB": formatBytes(1024), "31 MiB": formatBytes(31 << 20), "4.5 GiB": formatBytes(9 << 29),
		"0 s": formatAge(-time.Second), "59 s": formatAge(59 * time.Second), "1 min": formatAge(time.Minute), "5 min 7 s": formatAge(307 * time.Second), "3 h 2 min": formatAge(3*time.Hour + 2*time.Minute + 9*time.Second), "3 d 4 h": formatAge(76*time.Hour + time.Minute), "2 d": formatAge(48*time.Hour + time.Minute),
		"0 %": formatPercent(0, 10), "< 0.1 %": formatPercent(1, 100_000), "0.5 %": formatPercent(1, 200), "25 %": formatPercent(1, 4), "99.9 %": formatPercent(99_999, 100_000), "100 %": formatPercent(7, 7),
	} {
		if got != want {
			t.Errorf("%q, should be %q", got, want)
		}
	}
	if formatPercent(1, 0) != "0 %" || formatSeconds(math.NaN()) != none || formatRate(math.NaN()) != "0" {
		t.Error("nothing is something")
	}
}

func TestTheTextSaysWhatTheDocumentSays(t *testing.T) {
	var out bytes.Buffer
	if err := WriteText(&out, full(), now); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"1.0, protocol 1, up 75h0m0s", "till-3 (n-1), region ae-dubai, site deira", "connected over HTTP/3 for 1m0s", "3 aggregates wait, 1 were dropped",
		"2 of at most 128 wait for 2 places", "4 answers, 3.0 MiB of 64 MiB", "9 lines, 2 dropped", "/srv/models", "127.0.0.1:8000", "31 MiB", "downloading 25%",
		"1.2 ms", "3.4 ms", "200 µs", "25 %", "×", "█", "disk-full for 1s: no room", "make some",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the status does not say %q:\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := WriteText(&out, Document{Repository: "/srv/models", StartedAt: now}, now); err != nil || strings.Contains(out.String(), "Manager") || strings.Contains(out.String(), "written down") || !strings.Contains(out.String(), "none") {
		t.Errorf("without a fleet: %v\n%s", err, out.String())
	}
}

func TestNamesDoNotRuleATerminal(t *testing.T) {
	hostile := "a\x1b[2J\nb\t\u202ec\u0085\u2028"
	d := Document{
		Version: hostile, Repository: hostile, Models: []Model{{Model: hostile, Version: hostile, State: hostile, Role: hostile, Provider: hostile, Reason: hostile, Message: hostile, Statistics: &Statistics{}}},
		Warnings: []Warning{{Code: hostile, Message: hostile, Remedy: hostile}}, Addresses: []Address{{hostile, hostile}},
		Uplink: Uplink{Server: hostile, Enrolled: true, Name: hostile, Node: hostile, Region: hostile, Site: hostile, LastError: hostile},
	}
	var plainOut, out bytes.Buffer
	if err := WriteText(&out, d, now); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(out.String(), "\x1b\t\u202e\u0085\u2028") {
		t.Errorf("%q", out.String())
	}
	d.Models[0].Model = "m"
	if err := WriteText(&plainOut, d, now); err != nil || strings.Count(plainOut.String(), "\n") != strings.Count(out.String(), "\n") {
		t.Error("a name made a line of its own")
	}
}

func TestModelsGetTheirCounters(t *testing.T) {
	r := statistics.New()
	m := r.Model("m", "2")
	for range 3 {
		m.Begin()
		m.End(telemetry.OK, 4*time.Millisecond, &statistics.Timing{Queue: time.Millisecond, Infer: 2 * time.Millisecond, Rows: 2, Executed: 2, Missed: true})
	}
	m.Begin()
	m.End(telemetry.ModelError, time.Second, nil)
	m.Begin()
	models := []Model{{Model: "m", Version: "1"}, {Model: "m", Version: "2"}, {Model: "n", Version: "2"}}
	Attach(models, r.Snapshot())
	if models[0].Statistics != nil || models[2].Statistics != nil {
		t.Error("the wrong model has counters")
	}
	s := models[1].Statistics
	if s.Recent.P95Seconds < 0.0035 || s.Recent.P95Seconds > 0.0045 || s.Recent.RequestsPerSecond != 4 || len(s.Minutes) != 1 || s.Minutes[0].Requests != 4 || s.LastInference.IsZero() {
		t.Errorf("%+v", s)
	}
	s.Recent, s.Minutes, s.LastInference = Recent{}, nil, time.Time{}
	want := &Statistics{
		Requests: 4, Errors: 1, Failures: map[string]uint64{"BACKEND": 1}, Pending: 1, QueueSeconds: 0.001, Inferences: 6, Executions: 3, CacheMisses: 3,
		Batches: []Batch{{2, 3, 0.002}},
	}
	if !reflect.DeepEqual(s, want) {
		t.Errorf("%+v, should be %+v", s, want)
	}
}

func TestMachinesAreDescribed(t *testing.T) {
	if Describe(nil) != nil {
		t.Error("no machine is one")
	}
	hw := &syncv1.Hardware{
		Os: "linux", Arch: "amd64", Kernel: "6.1", Cpu: &syncv1.Cpu{Model: "EPYC", LogicalCores: 4, PhysicalCores: 2, LimitCores: 1.5},
		MemoryBytes: 16 << 30, MemoryLimitBytes: 4 << 30, DiskBytes: 100 << 30, DiskFreeBytes: 9 << 29,
		Gpus: []*syncv1.Gpu{{Name: "H100", MemoryBytes: 80 << 30, DriverVersion: "570.1"}}, GpuNote: "GPU 1: lost",
	}
	want := "EPYC, 2 cores, 4 threads, of which the agent may use 1.5|16 GiB of memory, of which the agent may use 4.0 GiB|4.5 GiB free of 100 GiB on the disk of its data|H100, 80 GiB, driver 570.1|GPU 1: lost|linux/amd64, kernel 6.1"
	if got := strings.Join(Describe(hw), "|"); got != want {
		t.Errorf("%s", got)
	}
	if got := strings.Join(Describe(&syncv1.Hardware{Os: "linux", Arch: "arm64", Cpu: &syncv1.Cpu{LogicalCores: 4, PhysicalCores: 4}}), "|"); got != "4 cores|linux/arm64" {
		t.Errorf("%s", got)
	}
}
