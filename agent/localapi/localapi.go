// Package localapi says, on the agent's own listener, how the agent is.
//
//	GET /dhow/status    a Document as JSON
//	GET / and /dhow/    the same as a page for people
//
// The document is made from a snapshot that the agent hands over at each request; nothing here blocks or keeps state.
// It names models, states and numbers, and nothing of a request. Fields are added over time and never change meaning.
// The page is one file without a script, and needs nothing from elsewhere: it works on a machine that is offline, and
// what is called strangely cannot do anything in it.
package localapi

import (
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Path is where the status is; PagePath is where the page is, besides the root.
const (
	Path     = "/dhow/status"
	PagePath = "/dhow/"
)

// Document is the status of an agent.
type Document struct {
	Version   string    `json:"version"`
	Protocol  int       `json:"protocol"`
	StartedAt time.Time `json:"startedAt"`
	Uplink    Uplink    `json:"uplink"`
	Models    []Model   `json:"models"`
	Warnings  []Warning `json:"warnings"`
	Outbox    Outbox    `json:"outbox"`
	Telemetry Telemetry `json:"telemetry"`

	Addresses  []Address  `json:"addresses,omitempty"`  // where the agent listens
	Repository string     `json:"repository,omitempty"` // folder whose models are served, where there is one
	Queue      *Queue     `json:"queue,omitempty"`
	Cache      *Cache     `json:"cache,omitempty"` // the response cache, where there is one
	AccessLog  *AccessLog `json:"accessLog,omitempty"`
	Hardware   []string   `json:"hardware,omitempty"` // sentences about the machine
}

// Address is where the agent listens.
type Address struct {
	Protocol string `json:"protocol"` // such as HTTP, gRPC and metrics
	Address  string `json:"address"`
}

// Queue is what waits for one of the places that compute.
type Queue struct {
	Waiting int `json:"waiting"`
	Limit   int `json:"limit"`
	Places  int `json:"places"`
}

// Cache is the response cache.
type Cache struct {
	Entries    uint64 `json:"entries"`
	Bytes      uint64 `json:"bytes"`
	LimitBytes uint64 `json:"limitBytes"`
}

// AccessLog is what became of its lines.
type AccessLog struct {
	Written uint64 `json:"written"`
	Dropped uint64 `json:"dropped"`
}

// Uplink is the node's relation to its fleet manager; one without a Server has none.
type Uplink struct {
	Server             string    `json:"server"`
	Enrolled           bool      `json:"enrolled"`
	Node               string    `json:"node,omitempty"`
	Name               string    `json:"name,omitempty"`
	Region             string    `json:"region,omitempty"`
	Site               string    `json:"site,omitempty"`
	Connected          bool      `json:"connected"`
	Since              time.Time `json:"since"`
	Transport          string    `json:"transport,omitempty"`
	LastError          string    `json:"lastError,omitempty"`
	Generation         uint64    `json:"generation"`
	CertificateExpires time.Time `json:"certificateExpires,omitzero"`
}

// Model is one model copy.
type Model struct {
	Model     string    `json:"model"`
	Version   string    `json:"version"`
	Digest    string    `json:"digest"`
	State     string    `json:"state"`
	Since     time.Time `json:"since"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message,omitempty"`
	Provider  string    `json:"provider,omitempty"`
	BytesDone uint64    `json:"bytesDone"`
	Bytes     uint64    `json:"bytes"`

	Role        string      `json:"role,omitempty"`        // baseline, candidate or shadow
	Share       float64     `json:"share,omitempty"`       // of the requests that name no version, 0 to 1
	MemoryBytes uint64      `json:"memoryBytes,omitempty"` // where it is known
	Statistics  *Statistics `json:"statistics,omitempty"`  // where it serves
}

// Warning is a condition with its remedy.
type Warning struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	Remedy  string    `json:"remedy"`
	Since   time.Time `json:"since"`
}

// Outbox is what waits for delivery.
type Outbox struct {
	Pending uint64 `json:"pending"`
	Bytes   uint64 `json:"bytes"`
	Dropped uint64 `json:"dropped"`
}

// Telemetry is what became of requests in this process.
type Telemetry struct {
	Written uint64 `json:"written"`
	Dropped uint64 `json:"dropped"`
	Lost    uint64 `json:"lost"`
}

// New returns the handler of the paths above. The caller puts openinference.Protect before it, and says with its own
// routes which of the paths reach it.
func New(snapshot func(*http.Request) (Document, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, func(w http.ResponseWriter, r *http.Request) {
		d, err := snapshot(r)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()}) // the client has gone
			return
		}
		_ = json.NewEncoder(w).Encode(d) // the client has gone
	})
	page := func(w http.ResponseWriter, r *http.Request) {
		d, err := snapshot(r)
		if err != nil {
			http.Error(w, "The status cannot be read: "+err.Error(), http.StatusInternalServerError)
			return
		}
		servePage(w, d, time.Now())
	}
	mux.HandleFunc("GET /{$}", page)
	mux.HandleFunc("GET "+PagePath+"{$}", page)
	return mux
}

// maxDocument bounds what Read takes.
const maxDocument = 4 << 20

// Read reads a Document.
func Read(r io.Reader) (Document, error) {
	var d Document
	err := json.NewDecoder(io.LimitReader(r, maxDocument)).Decode(&d)
	return d, err
}
