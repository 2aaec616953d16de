package localapi

import (
	"time"

	"github.com/dhowfleet/dhow/agent/statistics"
)

// Statistics is what a model copy did. Times are seconds; counts are since it was loaded.
type Statistics struct {
	Requests uint64            `json:"requests"`
	Errors   uint64            `json:"errors"`             // failures that are not the sender's doing
	Failures map[string]uint64 `json:"failures,omitempty"` // all, by reason
	Pending  int64             `json:"pending"`            // came and are not answered yet

	Recent  Recent   `json:"recent"`
	Minutes []Minute `json:"minutes,omitempty"` // the last hour, oldest first; the last is under way

	QueueSeconds  float64   `json:"queueSeconds"` // average wait of answered requests
	Inferences    uint64    `json:"inferences"`
	Executions    uint64    `json:"executions"`
	Batches       []Batch   `json:"batches,omitempty"`
	CacheHits     uint64    `json:"cacheHits"`
	CacheMisses   uint64    `json:"cacheMisses"`
	LastInference time.Time `json:"lastInference,omitzero"`
}

// Recent is about the last one or two minutes. Quantiles are of answered requests, and 0 when there was none.
type Recent struct {
	WindowSeconds     float64 `json:"windowSeconds"`
	Requests          uint64  `json:"requests"`
	Errors            uint64  `json:"errors"`
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	P50Seconds        float64 `json:"p50Seconds"`
	P95Seconds        float64 `json:"p95Seconds"`
	P99Seconds        float64 `json:"p99Seconds"`
}

// Minute is one minute.
type Minute struct {
	Start      time.Time `json:"start"`
	Requests   uint64    `json:"requests"`
	Errors     uint64    `json:"errors"`
	P50Seconds float64   `json:"p50Seconds"`
	P95Seconds float64   `json:"p95Seconds"`
}

// Batch is what executions of one size took on average; size 0 stands for all sizes that are not listed.
type Batch struct {
	Size         int     `json:"size"`
	Executions   uint64  `json:"executions"`
	InferSeconds float64 `json:"inferSeconds"`
}

// Attach gives each of the models its counters.
func Attach(models []Model, counted []statistics.Snapshot) {
	for i := range models {
		for j := range counted {
			if counted[j].Name == models[i].Model && counted[j].Version == models[i].Version {
				models[i].Statistics = describe(&counted[j])
			}
		}
	}
}

func describe(s *statistics.Snapshot) *Statistics {
	out := &Statistics{
		Requests: s.Success.Count + s.Fail.Count, Errors: s.Errors, Pending: s.Pending,
		Recent: Recent{
			WindowSeconds: s.Recent.Window.Seconds(), Requests: s.Recent.Requests, Errors: s.Recent.Errors, RequestsPerSecond: s.Recent.PerSecond(),
			P50Seconds: s.Recent.P50.Seconds(), P95Seconds: s.Recent.P95.Seconds(), P99Seconds: s.Recent.P99.Seconds(),
		},
		QueueSeconds: s.Queue.Mean().Seconds(), Inferences: s.InferenceCount, Executions: s.ExecutionCount,
		CacheHits: s.CacheHit.Count, CacheMisses: s.CacheMiss.Count, LastInference: s.LastInference,
	}
	for _, f := range s.Failures {
		if f.Count > 0 {
			if out.Failures == nil {
				out.Failures = map[string]uint64{}
			}
			out.Failures[f.Reason] = f.Count
		}
	}
	for _, m := range s.Minutes {
		out.Minutes = append(out.Minutes, Minute{m.Start, m.Requests, m.Errors, m.P50.Seconds(), m.P95.Seconds()})
	}
	for _, b := range s.Batches {
		out.Batches = append(out.Batches, Batch{b.Size, b.ComputeInfer.Count, b.ComputeInfer.Mean().Seconds()})
	}
	return out
}

// averageBatch is how many rows an execution has, 0 when there was none.
func (s *Statistics) averageBatch() float64 {
	if s.Executions == 0 {
		return 0
	}
	return float64(s.Inferences) / float64(s.Executions)
}
