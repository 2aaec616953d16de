package uplink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dhowfleet/dhow/agent/health"
	"github.com/dhowfleet/dhow/protocol/backoff"
	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
	"github.com/dhowfleet/dhow/protocol/identity"
	"github.com/dhowfleet/dhow/protocol/syncclient"
	"github.com/dhowfleet/dhow/protocol/transport"
	"github.com/dhowfleet/dhow/protocol/version"
)

// enrolLoop returns nil when the node is enrolled. A node that never had a desired state has nothing to serve: it ends
// with ErrTokenRefused when its token is refused, so that whoever installs it sees why at once. One that has goes on
// serving, and asks again slowly.
func (u *Uplink) enrolLoop(ctx context.Context) error {
	if u.Credentials.Enrolled() {
		return nil
	}
	if !u.Credentials.Usable() { // said when it was found
		<-ctx.Done()
		return ctx.Err()
	}
	if u.Token == nil {
		if u.have() == nil {
			return fmt.Errorf("%w: there is none, and this node is not enrolled; make one with dhow node invite and give it by --token-file", ErrTokenRefused)
		}
		u.Health.Raise(health.TokenRefused, "there is none")
		<-ctx.Done()
		return ctx.Err()
	}
	if err := u.beginAnew(ctx); err != nil {
		return err
	}
	pin := u.Token.RootPin
	link := transport.NewClient(transport.ClientConfig{
		Address: u.Server, ServerName: identity.EnrolServerName, RootPin: &pin,
		Now: u.Now, Memory: winners{u.Store, u.Logger}, DisableQUIC: u.DisableQUIC, Logger: u.Logger,
	})
	defer link.Close()
	client := syncclient.New(link.HTTPClient(), "https://"+identity.EnrolServerName)
	backoff := u.backoff()
	for {
		wait, err := u.enrol(ctx, client)
		if err == nil && wait == 0 {
			u.Health.Clear(health.EnrolmentPending)
			u.Health.Clear(health.TokenRefused)
			u.Health.Clear(health.ManagerUnreachable)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		atLeast := wait
		switch syncclient.ClassOf(err) {
		case syncclient.None:
			backoff.Reset()
		case syncclient.Retry:
			if u.setConnected(false, syncclient.Sentence(err)) {
				u.Logger.Info("cannot enrol yet", "error", err)
			}
			u.Health.Raise(health.ManagerUnreachable, u.Server)
			atLeast = syncclient.RetryAfter(err)
		default:
			sentence := syncclient.Sentence(err)
			if u.have() == nil {
				return fmt.Errorf("%w: %s", ErrTokenRefused, sentence)
			}
			u.Logger.Error("the join token was refused; serving what there is", "error", err)
			u.Health.Raise(health.TokenRefused, sentence)
			atLeast = u.slow()
		}
		if err := backoff.Wait(ctx, atLeast); err != nil {
			return err
		}
	}
}

// beginAnew is for a node that has a desired state and no identity, because an operator removed it or it was lost: it
// goes on serving, and becomes a new node, whose generations begin anew.
func (u *Uplink) beginAnew(ctx context.Context) error {
	have := u.have()
	if have.GetGeneration() == 0 {
		return nil
	}
	if err := u.Store.ForgetGeneration(ctx); err != nil {
		return err
	}
	u.Logger.Info("this node had a desired state and has no identity any more; it enrols anew and goes on serving", "generation", have.GetGeneration())
	u.mu.Lock()
	defer u.mu.Unlock()
	u.current = &syncv1.DesiredEnvelope{State: have.GetState()}
	return nil
}

// enrol asks once. A wait without an error means that an operator has to approve first.
func (u *Uplink) enrol(ctx context.Context, client *syncclient.Client) (wait time.Duration, err error) {
	request, err := u.Credentials.Request()
	if err != nil {
		return 0, err
	}
	a, err := client.Enrol(ctx, &syncv1.EnrolRequest{
		JoinToken: u.Token.String(), CertificateRequest: request, NodeName: u.NodeName,
		Hardware: u.facts(ctx), AgentVersion: u.Version, Protocol: version.Current,
	})
	if err != nil {
		return 0, err
	}
	if a.GetPending() {
		u.Logger.Info("the node waits for an operator's approval")
		u.Health.Raise(health.EnrolmentPending, u.NodeName)
		const longest = 5 * time.Minute
		return max(time.Second, min(time.Duration(a.GetRetryAfterSeconds())*time.Second, longest)), nil
	}
	pin := u.Token.RootPin
	return 0, u.Credentials.Take(a.GetIdentity(), &pin)
}

// renewLoop renews the certificate from a third of its life on.
func (u *Uplink) renewLoop(ctx context.Context) {
	backoff := backoff.Backoff{Base: u.RetryMax, Cap: 10 * u.RetryMax}
	for {
		from, to := u.Credentials.Validity()
		now := u.Now()
		due := from.Add(to.Sub(from) / 3)
		u.Health.Set(health.CertificateExpired, now.After(to), "since "+to.UTC().Format(time.RFC3339))
		u.Health.Set(health.CertificateExpiring, !now.After(to) && now.After(to.Add(-to.Sub(from)/3)), "it ends "+to.UTC().Format(time.RFC3339))
		// Not longer than an hour at a time, since clocks jump.
		timer := time.NewTimer(max(0, min(due.Sub(now), time.Hour)))
		asked := false
		select {
		case <-timer.C:
		case <-u.renew:
			asked = true
		case <-ctx.Done():
			timer.Stop()
			return
		}
		timer.Stop()
		if !asked && u.Now().Before(due) {
			continue
		}
		err := u.renewOnce(ctx)
		if err == nil {
			backoff.Reset()
			u.Logger.Info("the certificate was renewed")
			u.link.Reconnect()
			// A manager that refuses the fresh one too would be asked again at once.
			if !asked {
				continue
			}
		} else if ctx.Err() == nil {
			u.Logger.Warn("cannot renew the certificate", "error", err)
		}
		atLeast := syncclient.RetryAfter(err)
		if c := syncclient.ClassOf(err); c != syncclient.Retry && c != syncclient.None {
			atLeast = max(atLeast, u.slow())
		}
		if backoff.Wait(ctx, atLeast) != nil {
			return
		}
	}
}

func (u *Uplink) renewOnce(ctx context.Context) error {
	request, err := u.Credentials.Request()
	if err != nil {
		return err
	}
	a, err := u.sync.Renew(ctx, &syncv1.RenewRequest{CertificateRequest: request})
	if err != nil {
		return err
	}
	if got, have := a.GetIdentity(), u.Credentials.Node(); got.GetNodeId() != have.ID {
		return errors.New("cannot renew the certificate: the manager answered with another node's")
	}
	return u.Credentials.Take(a.GetIdentity(), nil)
}
