// Package health keeps the agent's warnings: conditions with a code, a sentence and a remedy, as the operator sees them
// on the local status page and at the fleet manager.
//
// A warning holds from Raise to Clear; raising it again replaces its sentence and keeps its time. The codes are listed
// here and nowhere else, each with its remedy, so that a code in a log or an alert can be looked up. A detail is made of
// names and numbers of the node, never of text of a request or of a guest. All methods may be called from any
// goroutine; none blocks.
package health

import (
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// Code names a warning.
type Code string

// The codes.
const (
	DiskFull            Code = "disk-full"
	MemoryShort         Code = "memory-short"
	BlobCorrupt         Code = "blob-corrupt"
	StateSetAside       Code = "state-set-aside"
	TelemetrySetAside   Code = "telemetry-set-aside"
	TelemetryDropped    Code = "telemetry-dropped"
	TelemetryFailed     Code = "telemetry-failed"
	OutboxDropped       Code = "outbox-dropped"
	ManagerUnreachable  Code = "manager-unreachable"
	ManagerRefuses      Code = "manager-refuses"
	EnrolmentPending    Code = "enrolment-pending"
	TokenRefused        Code = "token-refused"
	NodeRevoked         Code = "node-revoked"
	CertificateExpiring Code = "certificate-expiring"
	CertificateExpired  Code = "certificate-expired"
	ProtocolMismatch    Code = "protocol-mismatch"
	DesiredInvalid      Code = "desired-invalid"
	DesiredOlder        Code = "desired-older"
	OnnxRuntimeMissing  Code = "onnxruntime-missing"
	NodeFault           Code = "node-fault"
	StateFailed         Code = "state-failed"
	IdentityDamaged     Code = "identity-damaged"
	EndpointTaken       Code = "endpoint-taken"
	ServingKeysBroken   Code = "serving-keys-broken"
	TLSBroken           Code = "tls-broken"
)

type text struct{ sentence, remedy string }

var texts = map[Code]text{
	DiskFull:            {"the disk that holds the agent's state has no room for what is to be fetched", "free space on it or give the agent a larger one; the agent tries again by itself"},
	MemoryShort:         {"a model is to be served for which there is no memory now", "end other programs on the machine, take a model off it, give it more memory, or raise model-memory where that is set; the agent tries again by itself"},
	BlobCorrupt:         {"a file of a model changed on disk and is fetched again", "check the disk and its cables (smartctl, dmesg); replace it when this comes back"},
	StateSetAside:       {"the agent's state was damaged and was begun anew", "nothing, when it happened once; check the disk when it comes back. The damaged file was kept"},
	TelemetrySetAside:   {"the agent's telemetry was damaged and was begun anew", "nothing, when it happened once; check the disk when it comes back. The damaged file was kept"},
	TelemetryDropped:    {"requests came faster than they could be written down, and some were not counted", "use a faster disk for the agent's data, or send this machine fewer requests"},
	TelemetryFailed:     {"requests cannot be written down", "check that the agent's data folder is writable and its disk has room"},
	OutboxDropped:       {"the node was offline for so long that the oldest counts were dropped", "restore the line to the manager, or raise the outbox's size in the agent's configuration"},
	ManagerUnreachable:  {"the fleet manager cannot be reached; the node serves what it has", "check the line, the manager's address, and that UDP or TCP to it passes the firewall"},
	ManagerRefuses:      {"the fleet manager refuses this node's requests", "read the manager's log for this node; upgrade the older of the two"},
	EnrolmentPending:    {"the node waits for an operator's approval", "approve it with: dhow node approve NAME"},
	TokenRefused:        {"the fleet manager refuses the join token", "make a new one with: dhow node invite --region REGION --site SITE"},
	NodeRevoked:         {"this node was revoked by an operator; it serves what it has and is told nothing new", "if it should belong to the fleet, stop the agent, remove the identity folder in its data folder, and start it with a fresh join token"},
	CertificateExpiring: {"the node's certificate could not be renewed so far", "restore the line to the manager; the agent renews by itself"},
	CertificateExpired:  {"the node's certificate has expired", "restore the line to the manager within its grace period; after that enrol the node anew with a fresh token"},
	ProtocolMismatch:    {"the agent and the fleet manager are too many versions apart to talk", "upgrade the older of the two"},
	DesiredInvalid:      {"the fleet manager sent a desired state that does not hold, and the node keeps the one it has", "upgrade the manager, or report this with the manager's log"},
	DesiredOlder:        {"the fleet manager offers a desired state older than the node's", "was the manager restored from a backup? Its operator has to say which state is right"},
	OnnxRuntimeMissing:  {"the ONNX Runtime library cannot be used, so that no model can be loaded", "install it beside the agent, or set DHOW_ONNXRUNTIME to the path of libonnxruntime.so"},
	NodeFault:           {"the node could not do its part for a model copy and tries again", "read the agent's log"},
	IdentityDamaged:     {"the node's key or certificate cannot be read; it serves what it has and talks to nobody", "restore the identity folder, or empty it and enrol the node anew with a fresh token"},
	EndpointTaken:       {"another program has an address that the agent would answer on", "stop that program, or give the agent another address; the agent tries again by itself"},
	ServingKeysBroken:   {"the file of serving keys cannot be used, and the keys of before stay in force", "mend the file; the agent reads it again by itself"},
	TLSBroken:           {"the certificate or its key cannot be used, and the ones of before stay in use", "mend the files; the agent reads them again by itself"},
	StateFailed:         {"the agent's state cannot be written", "check that the agent's data folder is writable and its disk has room"},
}

// Registry holds the warnings of one agent. The zero value is not usable; New makes one.
type Registry struct {
	now     func() time.Time
	mu      sync.Mutex
	raised  map[Code]*syncv1.Warning
	changed chan struct{}
}

// New makes a registry without warnings.
func New(now func() time.Time) *Registry {
	return &Registry{now: now, raised: map[Code]*syncv1.Warning{}, changed: make(chan struct{}, 1)}
}

// Raise says that a condition holds. The detail, when there is one, follows the code's sentence.
func (r *Registry) Raise(code Code, detail string) {
	t := texts[code]
	message := t.sentence
	if detail != "" {
		message += ": " + detail
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.raised[code]
	if w != nil && w.GetMessage() == message {
		return
	}
	since := timestamppb.New(r.now())
	if w != nil {
		since = w.GetSince()
	}
	r.raised[code] = &syncv1.Warning{Code: string(code), Message: message, Remedy: t.remedy, Since: since}
	r.notify()
}

// Clear says that a condition holds no more.
func (r *Registry) Clear(code Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.raised[code]; !ok {
		return
	}
	delete(r.raised, code)
	r.notify()
}

// Set raises or clears a condition.
func (r *Registry) Set(code Code, holds bool, detail string) {
	if holds {
		r.Raise(code, detail)
	} else {
		r.Clear(code)
	}
}

func (r *Registry) notify() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// Changed receives after warnings changed; several changes may be one.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// Warnings returns what holds, ordered by code. The messages are not to be changed.
func (r *Registry) Warnings() []*syncv1.Warning {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*syncv1.Warning, 0, len(r.raised))
	for _, w := range r.raised {
		out = append(out, w)
	}
	slices.SortFunc(out, func(a, b *syncv1.Warning) int { return strings.Compare(a.GetCode(), b.GetCode()) })
	return out
}
