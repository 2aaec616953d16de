// Package localapi answers, on the agent's own loopback listener, how the agent is.
//
//	GET /dhow/status    a Document as JSON
//
// The document is made from a snapshot that the agent hands over at each request; nothing here blocks or keeps state.
// It names models, states and numbers, and nothing of a request. Fields are added over time and never change meaning.
package localapi

import (
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// Path is where the status is.
const Path = "/dhow/status"

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
}

// Uplink is the node's relation to its fleet manager.
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

// New returns the handler. The caller puts openinference.Protect before it.
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
