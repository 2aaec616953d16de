package apply

import (
	"context"
	"slices"

	"github.com/dhowfleet/dhow/agent/deploy"
	"github.com/dhowfleet/dhow/agent/serving"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// perform does one action. It is called with mu held and does not block for more than a record.
func (r *Reconciler) perform(ctx context.Context, a deploy.Action) {
	if a.Kind == deploy.RouteModel {
		r.route(a.Key.Model, a.Routes)
		return
	}
	if a.Kind == deploy.Create {
		e := &entry{Copy: deploy.Copy{Record: deploy.Record{Key: a.Key, State: a.State, Since: r.Now(), Retry: a.Retry, Reason: a.Reason, Message: a.Text}}}
		r.copies[a.Key] = e
		r.put(ctx, e)
		r.log(e, "a model copy is wanted")
		return
	}
	e := r.copies[a.Key]
	if e == nil {
		return
	}
	switch a.Kind {
	case deploy.Adopt:
		e.Retry = a.Retry
		r.put(ctx, e)
	case deploy.Retry:
		e.Retry, e.Reason, e.Message, e.Crashes, e.Rounds, e.Attempts = a.Retry, "", "", 0, 0, 0
		r.enter(e, deploy.Pending)
		r.put(ctx, e)
		r.reloadFailures(ctx)
		r.log(e, "a model copy that failed is tried again")
	case deploy.Mark:
		r.enter(e, a.State)
		r.put(ctx, e)
		r.log(e, "a model copy moved on")
	case deploy.Fail:
		r.interrupt(e)
		r.enter(e, deploy.Failed)
		e.Reason, e.Message = a.Reason, a.Text
		r.put(ctx, e)
		r.reloadFailures(ctx)
		r.log(e, "a model copy failed")
	case deploy.Cancel:
		r.interrupt(e)
	case deploy.Download:
		if e.State != deploy.Downloading {
			r.enter(e, deploy.Downloading)
			r.put(ctx, e)
		}
		r.begin(ctx, e, a.Kind, r.download)
	case deploy.Verify:
		r.begin(ctx, e, a.Kind, r.verify)
	case deploy.Probe:
		r.begin(ctx, e, a.Kind, r.probe)
	case deploy.Load:
		// The mark is durable before the load begins: if the process dies of it, the next one knows.
		e.Crashes++
		r.put(ctx, e)
		failpoint.Here("apply/load")
		r.begin(ctx, e, a.Kind, r.load)
	case deploy.Remove:
		r.begin(ctx, e, a.Kind, r.remove)
	}
}

func (r *Reconciler) enter(e *entry, s deploy.State) {
	if e.State != s {
		e.State, e.Since = s, r.Now()
	}
}

func (r *Reconciler) reloadFailures(ctx context.Context) {
	failed, err := r.Records.Failures(context.WithoutCancel(ctx))
	if err != nil {
		r.Logger.Error("cannot read which digests failed", "error", err)
		return
	}
	r.failed = failed
}

func (r *Reconciler) log(e *entry, what string) {
	args := []any{"model", e.Model, "version", e.Version, "state", stateName(e.State)}
	if e.Reason != "" {
		args = append(args, "reason", e.Reason, "message", e.Message)
	}
	r.Logger.Info(what, args...)
}

// interrupt gives up the step under way. The copy stays busy until it has really ended.
func (r *Reconciler) interrupt(e *entry) {
	if e.Busy != deploy.None && e.Busy != deploy.Drain && e.cancel != nil {
		e.cancel()
		e.Busy = deploy.Cancel
	}
}

// begin runs a step in a goroutine and settles its outcome.
func (r *Reconciler) begin(ctx context.Context, e *entry, kind deploy.Kind, step func(context.Context, deploy.Key) deploy.Outcome) {
	ctx, cancel := context.WithCancel(ctx)
	run := new(int)
	e.Busy, e.BusySince, e.cancel, e.run = kind, r.Now(), cancel, run
	key := e.Key
	r.steps.Go(func() {
		defer cancel()
		o := step(ctx, key)
		if ctx.Err() != nil && o.Result != deploy.Done {
			o = deploy.Outcome{Result: deploy.Canceled}
		}
		r.end(ctx, key, run, kind, o)
		r.signal()
	})
}

// end records the outcome of a step.
func (r *Reconciler) end(ctx context.Context, k deploy.Key, run *int, kind deploy.Kind, o deploy.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.copies[k]
	if e == nil || e.run != run {
		return
	}
	e.cancel, e.run = nil, nil
	if e.deleted {
		delete(r.copies, k)
		r.notify()
		return
	}
	given := e.Busy == deploy.Cancel // up, meanwhile: only a load that ended has a result that stays
	before := e.Record
	if given {
		e.Busy = deploy.None
		if kind == deploy.Load {
			e.Crashes = 0
			e.Loaded = e.runner != nil
		}
	} else {
		e.Copy = deploy.Settle(e.Copy, kind, o, r.Now(), r.pause(e.Attempts))
	}
	if e.Record != before {
		r.put(ctx, e)
		if e.State == deploy.Failed {
			r.reloadFailures(ctx)
		}
		if e.State != before.State || e.Reason != before.Reason {
			r.log(e, "a step of a model copy ended")
		}
	}
	if kind == deploy.Load && !given && o.Result == deploy.Done {
		failpoint.Here("apply/loaded")
		if i := slices.IndexFunc(r.routes[k.Model], func(t deploy.Route) bool { return t.Key == k }); i >= 0 {
			r.route(k.Model, r.routes[k.Model]) // a session made from files that were fetched anew takes over
		}
	}
	r.notify()
}

// route makes routes what the table holds of a model, and lets what leaves it drain.
func (r *Reconciler) route(model string, routes []deploy.Route) {
	variants := make([]serving.Variant, 0, len(routes))
	for _, t := range routes {
		e := r.copies[t.Key]
		if e == nil || e.runner == nil {
			continue // the plan routes to loaded copies only
		}
		v := serving.Variant{Version: t.Version, Role: uint8(t.Role), ShareMillionths: t.Millionths, Runner: e.runner}
		if e.spec != nil {
			v.Timeout, v.Queue = e.spec.Budgets.Infer, e.spec.Queue
			if e.spec.Batching == nil {
				v.Concurrency = e.spec.Instances
			}
		}
		if l, ok := e.runner.(interface{ Labels() map[string][]string }); ok {
			v.Labels = l.Labels()
		}
		variants = append(variants, v)
	}
	drain := r.Table.Set(model, variants)
	var leaving []deploy.Key
	for _, t := range r.routes[model] {
		if slices.ContainsFunc(routes, func(o deploy.Route) bool { return o.Key == t.Key }) {
			continue
		}
		if e := r.copies[t.Key]; e != nil {
			e.runner, e.Loaded, e.Reload = nil, false, false
			if e.Busy == deploy.None {
				e.Busy, e.BusySince = deploy.Drain, r.Now()
			}
			leaving = append(leaving, t.Key)
		}
	}
	r.routes[model] = routes
	if len(routes) == 0 {
		delete(r.routes, model)
	}
	r.Logger.Info("requests are routed", "model", model, "to", routeText(routes))
	r.steps.Go(func() {
		// A request ends by its own deadline, so this ends too.
		if err := drain.Wait(context.Background()); err != nil {
			r.Logger.Warn("a model that served no longer did not close cleanly", "model", model, "error", err)
		}
		r.mu.Lock()
		for _, k := range leaving {
			if e := r.copies[k]; e != nil && e.Busy == deploy.Drain {
				e.Busy = deploy.None
			}
		}
		r.mu.Unlock()
		r.signal()
	})
}
