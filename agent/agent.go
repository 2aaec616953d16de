// Package agent puts the parts of a node's agent together: it serves models on loopback, remembers what it answered,
// and obeys its fleet manager when it can be reached.
//
// New opens everything that is on disk and binds the port; Run serves until its context ends. What needs a network is
// in one part, uplink, and nothing else waits for it. ONNX Runtime and the WASM runtime are opened when the first model
// comes, so that an agent without models stays small. One agent uses a data folder at a time; a second one is refused.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dhowfleet/dhow/agent/apply"
	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/hardware"
	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/inference"
	"github.com/dhowfleet/dhow/agent/inference/onnxruntime"
	"github.com/dhowfleet/dhow/agent/server"
	"github.com/dhowfleet/dhow/agent/store"
	"github.com/dhowfleet/dhow/agent/telemetry"
	"github.com/dhowfleet/dhow/agent/uplink"
	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/protocol/artifact"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/version"
	"github.com/dhowfleet/dhow/wasm/host"
)

// The limits and times of the whole.
const (
	restoreWait = time.Minute      // for models that served before, until requests are accepted anyway
	drainWait   = 10 * time.Second // for requests in flight when the agent stops
	closeWait   = 5 * time.Second  // for models to close then
	trimAfter   = 15 * time.Second // after the start, what it took is given back
)

// identityFolder is the part of the data folder that holds the node's key and certificate.
const identityFolder = "identity"

// ErrTokenRefused is wrapped by Run's error when the node cannot enrol and has nothing to serve: starting it again
// changes nothing before it is given another token.
var ErrTokenRefused = uplink.ErrTokenRefused

// Deps are what the agent gets from outside; only Logger is required.
type Deps struct {
	Logger *slog.Logger
	Now    func() time.Time // nil: time.Now
	// Engine runs models; nil: ONNX Runtime.
	Engine inference.Engine
	// ProbeCommand starts the child that probes bundles; empty: this program with the argument "probe".
	ProbeCommand []string
	// Compiler compiles WASM modules that are not in the cache; nil: this process does, which cannot be interrupted.
	Compiler host.Compiler
}

// Agent is a node's agent.
type Agent struct {
	config    config.Config
	log       *slog.Logger
	now       func() time.Time
	startedAt time.Time

	lock      *os.File
	health    *health.Registry
	store     *store.Store
	telemetry *telemetry.Recorder
	blobs     *blob.Store
	server    *server.Server
	copies    *apply.Reconciler
	uplink    *uplink.Uplink
	restored  chan struct{} // closed when what served before was loaded
}

// New opens the agent's state and binds its port. What it opened is closed by Run, or by New when it fails.
func New(ctx context.Context, c config.Config, d Deps) (_ *Agent, err error) {
	a := &Agent{config: c, log: d.Logger, now: d.Now, restored: make(chan struct{})}
	if a.now == nil {
		a.now = time.Now
	}
	a.startedAt = a.now()
	defer func() {
		if err != nil {
			a.close()
		}
	}()

	// Child processes have another working folder.
	if c.Data, err = filepath.Abs(c.Data); err != nil {
		return nil, fmt.Errorf("cannot find the data folder: %w", err)
	}
	a.config.Data = c.Data

	// The folder is locked before anything in it is touched.
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the data folder: %w", err)
	}
	if a.lock, err = lock(filepath.Join(c.Data, "agent.lock")); err != nil {
		return nil, err
	}
	a.health = health.New(a.now)

	// state.db comes before telemetry.db: row ids go on above the checkpoint that it holds.
	if a.store, err = store.Open(ctx, c.Data, store.Options{Now: a.now, OutboxBytes: c.OutboxBytes}); err != nil {
		return nil, err
	}
	if aside := a.store.SetAside(); aside != "" {
		a.log.Warn("the agent's state was damaged; it was set aside and begun anew", "file", aside)
		a.health.Raise(health.StateSetAside, aside)
	}
	if a.telemetry, err = telemetry.Open(ctx, c.Data, a.store, telemetry.Options{
		Logger: a.log, Health: a.health, Now: a.now, MaxBytes: c.TelemetryBytes, MaxAge: c.TelemetryAge,
	}); err != nil {
		return nil, err
	}

	// The addresses are bound early, so that a mistake shows at once, and served late: connections wait in the kernel's queue
	// until the models that served before are loaded, instead of being told that there are none.
	if a.server, err = server.New(c.Serving, server.Deps{Logger: a.log, Health: a.health, Recorder: a.telemetry, Now: a.now}); err != nil {
		return nil, err
	}

	// A full disk must leave room for the databases beside the blobs.
	if a.blobs, err = blob.Open(filepath.Join(c.Data, "blobs"), blob.WithReserve(reserve(c.Data))); err != nil {
		return nil, err
	}
	credentials, err := a.credentials(ctx)
	if err != nil {
		return nil, err
	}

	// The reconciler is there before the uplink, which hands it the stored desired state; it fetches through the uplink,
	// which is there before it runs.
	fetch := &artifact.Puller{BaseURL: uplink.BaseURL, Store: a.blobs, Logger: a.log}
	if a.copies, err = a.reconciler(ctx, d, fetch); err != nil {
		return nil, err
	}
	if a.uplink, err = a.newUplink(ctx, credentials); err != nil {
		return nil, err
	}
	fetch.Client = a.uplink.HTTPClient()
	return a, nil
}

// credentials opens the node's identity. A damaged one must not keep a node from serving that has something to serve.
func (a *Agent) credentials(ctx context.Context) (*uplink.Credentials, error) {
	c, err := uplink.OpenCredentials(filepath.Join(a.config.Data, identityFolder))
	if err == nil {
		return c, nil
	}
	if have, storeErr := a.store.Desired(ctx); storeErr != nil || have == nil {
		return nil, err
	}
	a.log.Error("the node's identity cannot be used; serving what there is", "error", err)
	a.health.Raise(health.IdentityDamaged, "")
	return uplink.NoCredentials(), nil
}

func (a *Agent) reconciler(ctx context.Context, d Deps, fetch apply.Fetcher) (*apply.Reconciler, error) {
	engine := d.Engine
	if engine == nil {
		engine = onnxruntime.New(a.config.OnnxRuntime)
	}
	cache := filepath.Join(a.config.Data, "wasm-cache")
	wasm, err := host.NewRuntime(ctx, host.Config{CacheDir: cache, Logger: a.log, Compiler: d.Compiler, Policy: a.config.WasmPolicy()})
	if err != nil {
		return nil, err
	}
	m := &models{
		engine: engine, wasm: wasm, places: a.server.Places, responses: a.server.Responses, threads: a.config.Threads, concurrency: a.config.Concurrency,
		library: a.config.OnnxRuntime, cache: cache, policy: a.config.WasmPolicy(), probe: d.ProbeCommand, memory: a.server.Memory, log: a.log,
		tried: map[string]int64{},
	}
	return apply.New(ctx, apply.Deps{
		Dir: a.config.Data, Records: a.store, Blobs: a.blobs, Fetch: fetch, Table: a.server.Table,
		Probe: m.try, Open: m.open, Declare: a.telemetry.Declare,
		Health: a.health, Logger: a.log, Now: a.now, RetryMax: a.config.RetryMax,
	})
}

func (a *Agent) newUplink(ctx context.Context, credentials *uplink.Credentials) (*uplink.Uplink, error) {
	c := uplink.Config{
		Server: a.config.Server, NodeName: a.config.Name, Version: version.Build, Credentials: credentials, Store: a.store,
		Health: a.health, Logger: a.log, Now: a.now, StartedAt: a.startedAt,
		Hardware: func(ctx context.Context) *syncv1.Hardware {
			return hardware.Probe(ctx, hardware.Options{StateDir: a.config.Data})
		},
		Copies: a.copies.Status, Changed: a.copies.Changed(), OnDesired: a.copies.SetDesired, OnConnected: a.copies.Nudge,
		RollUp:         a.telemetry.RollUp,
		ReportInterval: a.config.ReportInterval, DeliverInterval: a.config.DeliverInterval, RetryMax: a.config.RetryMax,
		DisableQUIC: a.config.DisableQUIC,
	}
	if c.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("cannot learn this machine's name; give one with --name: %w", err)
		}
		c.NodeName = name
	}
	// Once the node is enrolled its token is used up, and its file may be gone.
	if credentials.Usable() && !credentials.Enrolled() {
		token, err := a.config.JoinToken()
		if err != nil {
			return nil, err
		}
		c.Token = token
	} else if credentials.Enrolled() && a.config.HasToken() {
		a.log.Info("this node is enrolled already, and the join token is not used; to enrol it anew, stop the agent and remove the folder of its identity",
			"node", credentials.Node().ID, "name", credentials.Name(), "folder", filepath.Join(a.config.Data, identityFolder))
	}
	return uplink.New(ctx, c)
}

// Addr is the address of the Open Inference endpoint.
func (a *Agent) Addr() string { return a.server.Addr() }

// Run serves until the context ends, then lets requests in flight end, writes down what was counted, and closes
// everything. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	// Work goes on while requests drain, and stops after.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()

	// What served before comes first, whatever the network does.
	restore, giveUp := context.WithCancel(work)
	defer giveUp()
	unhook := context.AfterFunc(ctx, giveUp)
	a.copies.Restore(restore, restoreWait)
	unhook()
	close(a.restored)

	failed := make(chan error, 4)
	var parts sync.WaitGroup
	part := func(f func() error) {
		parts.Go(func() {
			if err := f(); err != nil {
				failed <- err
			}
		})
	}
	part(func() error { return a.copies.Run(restore) })
	part(func() error { return a.uplink.Run(work) })
	part(func() error { return a.server.Run(work) })
	part(func() error {
		return a.server.Serve(server.Fronts{Ready: a.ready, Repository: a.repository(), Status: a.status})
	})
	trim := time.AfterFunc(trimAfter, debug.FreeOSMemory)
	defer trim.Stop()

	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	a.log.Info("stopping")
	drain, cancel := context.WithTimeout(context.Background(), drainWait)
	defer cancel()
	if shutErr := a.server.Shutdown(drain); shutErr != nil {
		a.log.Warn("requests were cut off", "error", shutErr)
	}
	// No request comes any more: what was counted is added up, to be delivered now or after the next start.
	if flushErr := a.flush(); flushErr != nil {
		a.log.Error("cannot add up what was counted", "error", flushErr)
	}
	stop()
	parts.Wait()
	return err
}

// flush writes down and adds up what was recorded.
func (a *Agent) flush() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	if err := a.telemetry.Flush(ctx); err != nil {
		return err
	}
	return a.telemetry.RollUp(ctx)
}

// close closes what New opened, the users before what they use.
func (a *Agent) close() {
	if a.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeWait)
		defer cancel()
		a.server.Close(ctx)
	}
	if a.telemetry != nil {
		if err := a.telemetry.Close(); err != nil {
			a.log.Error("cannot close telemetry.db", "error", err)
		}
	}
	if a.store != nil {
		if err := a.store.Close(); err != nil {
			a.log.Error("cannot close state.db", "error", err)
		}
	}
	if a.lock != nil {
		_ = a.lock.Close() // which unlocks it
	}
}

// ready reports whether requests are wanted: not before what served before was tried.
func (a *Agent) ready() bool {
	select {
	case <-a.restored:
		return true
	default:
		return false
	}
}

// lock keeps a second agent out of the folder. The lock goes with the process, however it ends.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close() // the first error says what is wrong
		return nil, fmt.Errorf("cannot lock the data folder %s: another agent is using it", filepath.Dir(path))
	}
	return f, nil
}

// reserve is what blobs leave of the disk to the databases: a sixteenth, at most 64 MiB.
func reserve(dir string) int64 {
	const most = 64 << 20
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return most
	}
	return min(most, int64(fs.Blocks)*fs.Bsize/16)
}
