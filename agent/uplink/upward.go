package uplink

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/agent/store"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/syncclient"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// reportLoop reports when something changed, after a moment in which more may change, and at every interval.
func (u *Uplink) reportLoop(ctx context.Context) {
	backoff := u.backoff()
	for {
		var wait time.Duration
		err := u.reportOnce(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			backoff.Reset()
			wait = u.interval(u.ReportInterval, (*syncv1.DesiredState).GetReportIntervalSeconds)
		default:
			u.Logger.Debug("cannot report", "error", err)
			wait = backoff.Next(u.atLeast(err))
		}
		timer := time.NewTimer(wait)
		changed := false
		select {
		case <-timer.C:
		case <-u.Changed:
			changed = true
		case <-u.Health.Changed():
			changed = true
		case <-u.reportNow:
			changed = true
		case <-ctx.Done():
		}
		if changed && err == nil {
			timer.Reset(coalesce)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		} else if changed {
			// While the manager cannot be reached, changes do not make the node ask more often.
			select {
			case <-timer.C:
			case <-u.reportNow:
			case <-ctx.Done():
			}
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (u *Uplink) atLeast(err error) time.Duration {
	atLeast := syncclient.RetryAfter(err)
	if c := syncclient.ClassOf(err); c != syncclient.Retry && c != syncclient.None {
		atLeast = max(atLeast, u.slow())
	}
	return atLeast
}

func (u *Uplink) reportOnce(ctx context.Context) error {
	backlog, err := u.Store.Backlog(ctx)
	if err != nil {
		return err
	}
	return u.sync.Report(ctx, u.report(ctx, backlog))
}

// leave tells a manager that is there that the agent stops, so that operators need not wait to see it.
func (u *Uplink) leave() {
	if u.link.Transport() == "" || !u.Credentials.Enrolled() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveWait)
	defer cancel()
	backlog, err := u.Store.Backlog(ctx)
	if err == nil {
		report := u.report(ctx, backlog)
		report.Leaving = true
		err = u.sync.Report(ctx, report)
	}
	if err != nil {
		u.Logger.Debug("cannot say that the agent stops", "error", err)
	}
}

func (u *Uplink) report(ctx context.Context, backlog store.Backlog) *syncv1.ReportRequest {
	have := u.have()
	return &syncv1.ReportRequest{
		Generation: have.GetGeneration(), Digest: have.GetDigest(), BootEpoch: u.Store.BootEpoch(),
		Copies: u.Copies(), Warnings: u.Health.Warnings(), Hardware: u.facts(ctx), AgentVersion: u.Version,
		StartedAt: timestamppb.New(u.StartedAt), OutboxPending: backlog.Pending,
	}
}

// facts returns what the machine is, asked again now and then: disks fill up, and drivers are installed.
func (u *Uplink) facts(ctx context.Context) *syncv1.Hardware {
	now := u.Now()
	if h := u.hardware.Load(); h != nil && now.Sub(h.at).Abs() < hardwareEach {
		return h.facts
	}
	h := &hardware{at: now, facts: u.Hardware(ctx)}
	u.hardware.Store(h)
	return h.facts
}

// deliverLoop adds up telemetry at every interval and, when the node is enrolled, delivers the outbox. Adding up goes
// on while the line is down: the outbox is what waits.
func (u *Uplink) deliverLoop(ctx context.Context) {
	backoff := u.backoff()
	next := u.Now()
	for {
		interval := u.interval(u.DeliverInterval, (*syncv1.DesiredState).GetDeliverIntervalSeconds)
		if now := u.Now(); !now.Before(next) || next.Sub(now) > interval {
			next = now.Add(interval)
			if err := u.RollUp(ctx); err != nil && ctx.Err() == nil {
				u.Logger.Error("cannot add up telemetry", "error", err)
			}
		}
		wait := next.Sub(u.Now())
		if u.Credentials.Enrolled() {
			delivered, err := u.sync.Deliver(ctx, u.Store.BootEpoch(), u.Store)
			switch {
			case ctx.Err() != nil:
				return
			case err == nil:
				backoff.Reset()
			default:
				u.Logger.Debug("cannot deliver", "delivered", delivered, "error", err)
				wait = min(wait, interval)
				wait = max(wait, backoff.Next(u.atLeast(err)))
			}
		}
		if b, err := u.Store.Backlog(ctx); err == nil {
			u.Health.Set(health.OutboxDropped, b.Dropped > 0, "")
		}
		timer := time.NewTimer(max(wait, 0))
		select {
		case <-timer.C:
		case <-u.deliverNow:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// winners remembers in state.db which transport got through on which network. Forgetting does no harm, so that errors
// are only logged.
type winners struct {
	store *store.Store
	log   *slog.Logger
}

func (w winners) Get(network string) (transport.Winner, bool) {
	won, known, err := w.store.Winner(context.Background(), network)
	if err != nil {
		w.log.Warn("cannot read which transport won", "error", err)
	}
	return transport.Winner(won), known
}

func (w winners) Put(network string, won transport.Winner) {
	// That QUIC won again is not worth a disk flush; when TCP did, its time says when QUIC is to be tried again.
	if have, known := w.Get(network); known && have.Protocol == won.Protocol && have.Demotions == won.Demotions && won.Protocol == transport.HTTP3 {
		return
	}
	if err := w.store.PutWinner(context.Background(), network, store.Winner(won)); err != nil {
		w.log.Warn("cannot remember which transport won", "error", err)
	}
}
