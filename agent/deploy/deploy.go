// Package deploy decides what the node does next about its model copies.
//
// Plan takes what the manager wants, what the node has and the time, and returns actions; a loop in agent/apply
// performs them, records the outcome and asks again. Nothing here does I/O, so that the rules are tested by
// properties: a model that has a good copy is never without one that serves, the same snapshot gives the same
// actions, and what fails comes to rest.
//
// A copy goes through
//
//	pending -> downloading -> verifying -> probing -> ready -> serving -> draining -> gone
//
// or to failed, with a reason. A copy keeps serving until its successor is loaded, and stays on disk until the
// successor has served for Soak. Being offline, a manager that sheds load and a full disk are not failures: the copy
// waits in the state it is in, with a reason, and the node tries again. So is memory that others take; what would not fit
// even by itself fails. A failed digest is not tried again before the
// retry counter in the desired state rises.
package deploy

import (
	"fmt"
	"time"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// State is where a copy is on its way; the numbers are the protocol's and are stored in state.db.
type State = syncv1.CopyState

// The states.
const (
	Pending     = syncv1.CopyState_COPY_STATE_PENDING
	Downloading = syncv1.CopyState_COPY_STATE_DOWNLOADING
	Verifying   = syncv1.CopyState_COPY_STATE_VERIFYING
	Probing     = syncv1.CopyState_COPY_STATE_PROBING
	Ready       = syncv1.CopyState_COPY_STATE_READY
	Serving     = syncv1.CopyState_COPY_STATE_SERVING
	Draining    = syncv1.CopyState_COPY_STATE_DRAINING
	Failed      = syncv1.CopyState_COPY_STATE_FAILED
)

// Reasons of a failed copy. Those of the probe ("load-failed", "golden-mismatch", "wasm-failed", "memory-limit",
// "time-limit", "crashed", "bundle-invalid") are agent/probe's and are passed on as they are.
const (
	ReasonBundleInvalid   = "bundle-invalid"   // the artifact is not a bundle that this agent can run
	ReasonDigestMismatch  = "digest-mismatch"  // what the registry sends is not what the digest names, several times
	ReasonArtifactMissing = "artifact-missing" // the registry does not have it, several times
	ReasonLoadFailed      = "load-failed"      // it was probed, but the serving process cannot load it
	ReasonTimeLimit       = "time-limit"       // a step that the node had begun did not end
	ReasonMemoryLimit     = "memory-limit"     // it needs more memory than the node has, or may give to models
	ReasonCrashedProcess  = "crashed-process"  // the agent died while it loaded the copy, MaxCrashes times in a row
)

// Reasons of a copy that waits: the step is tried again by itself.
const (
	WaitOffline   = "waiting-network" // the manager cannot be reached, or asks to come later
	WaitSpace     = "no-space"        // the disk is full
	WaitMemory    = "no-memory"       // others take the memory that it needs
	WaitCorrupt   = "blob-corrupt"    // a file changed on disk and is fetched again
	WaitMissing   = "waiting-artifact"
	WaitMismatch  = "refetching"
	WaitNodeFault = "node-fault" // the node could not do its part: cannot start a process, cannot write
)

// Limits of the decisions.
const (
	// MaxCrashes is how often in a row the process may die while it loads a copy before the copy is failed. After the
	// first time the copy already steps aside: it is loaded again only when everything else is. It takes three, so that
	// power cuts and kills that happen to hit a load do not condemn a bundle.
	MaxCrashes = 3
	// Soak is how long a successor serves before its predecessor leaves the disk.
	Soak = time.Minute
	// MaxCopies bounds a desired state.
	MaxCopies = 64
	// Whole is all of a model's requests.
	Whole = 1_000_000
)

// Key names a copy: one version of a model, by digest.
type Key struct {
	Model, Version string
	Digest         string // of the bundle's OCI manifest
}

func (k Key) String() string { return k.Model + ":" + k.Version }

// Record is what is durable about a copy.
type Record struct {
	Key
	State   State
	Since   time.Time // when the state began, by the node's clock
	Retry   uint32    // the desired state's counter for which this attempt is
	Reason  string    // why it failed or waits; empty when neither
	Message string    // the reason in a sentence
	Crashes uint32    // loads in the serving process that were begun and did not end
}

// Copy is a record with what is known of it in this process only.
type Copy struct {
	Record
	Busy      Kind // the action under way on it; None when idle
	BusySince time.Time
	Loaded    bool      // a session of it is in memory, whether requests are routed to it or not
	Reload    bool      // that session was made from files that have been fetched anew since
	Attempts  int       // tries of the present step that did not succeed
	Rounds    int       // times that files were found changed on disk since the last load
	NotBefore time.Time // when the present step may be tried again
}

// Failure remembers a digest that failed, also after its copy is gone.
type Failure struct {
	Model, Digest   string
	Retry           uint32
	Reason, Message string
}

// Route is one entry of a model's routing.
type Route struct {
	Key
	Role       syncv1.Role
	Millionths uint32
}

// Snapshot is what Plan decides from.
type Snapshot struct {
	// Desired is nil while the node has not been told anything: then nothing is removed.
	Desired  *Desired
	Copies   []Copy
	Failures []Failure
	// Routes is what the serving table holds, by model.
	Routes map[string][]Route
}

// Kind is a kind of action.
type Kind uint8

// The kinds. Create, Retry, Adopt, Mark and Fail change a record; Route changes the serving table; Download, Verify,
// Probe, Load and Remove take time, and the copy is busy meanwhile; Cancel ends what a copy is busy with. Drain is no
// action: a copy that was routed and no longer is stays busy with it until its last request is answered.
const (
	None Kind = iota
	Create
	Adopt
	Retry
	Mark
	Fail
	Cancel
	Download
	Verify
	Probe
	Load
	Remove
	Drain
	RouteModel
)

var kindNames = [...]string{"none", "create", "adopt", "retry", "mark", "fail", "cancel", "download", "verify", "probe", "load", "remove", "drain", "route"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Action is one thing to do.
type Action struct {
	Kind   Kind
	Key    Key     // of the copy; only Model is set in a RouteModel
	State  State   // Create, Mark: the state to record
	Retry  uint32  // Create, Adopt, Retry: the counter to record
	Reason string  // Create, Fail
	Text   string  // Create, Fail: the sentence
	Routes []Route // RouteModel: all of the model's routes; empty: the model is served no more
}

// limits are how long a step may take from the moment the node began it. A download has none of its own: it moves or
// it ends, by the downloader's minimum rate.
var limits = map[Kind]time.Duration{Verify: 15 * time.Minute, Probe: 20 * time.Minute, Load: 10 * time.Minute}
