package agent

import (
	"context"
	"strings"

	"github.com/dhowfleet/dhow/agent/localapi"
	"github.com/dhowfleet/dhow/protocol/version"
)

// status is what the local status page shows.
func (a *Agent) status(ctx context.Context) (localapi.Document, error) {
	backlog, err := a.store.Backlog(ctx)
	if err != nil {
		return localapi.Document{}, err
	}
	u, t := a.uplink.Status(), a.telemetry.Stats()
	d := localapi.Document{
		Version: version.Build, Protocol: version.Current, StartedAt: a.startedAt,
		Uplink: localapi.Uplink{
			Server: u.Server, Enrolled: u.Enrolled, Node: u.Node.ID, Name: a.uplink.Credentials.Name(), Region: u.Node.Region, Site: u.Node.Site,
			Connected: u.Connected, Since: u.Since, Transport: u.Transport, LastError: u.LastError,
			Generation: u.Generation, CertificateExpires: u.Expires,
		},
		Models: []localapi.Model{}, Warnings: []localapi.Warning{},
		Outbox:    localapi.Outbox{Pending: backlog.Pending, Bytes: backlog.Bytes, Dropped: backlog.Dropped},
		Telemetry: localapi.Telemetry{Written: t.Written, Dropped: t.Dropped, Lost: t.Lost},
	}
	for _, c := range a.copies.Status() {
		d.Models = append(d.Models, localapi.Model{
			Model: c.GetModel(), Version: c.GetVersion(), Digest: c.GetManifestDigest(),
			State: strings.ToLower(strings.TrimPrefix(c.GetState().String(), "COPY_STATE_")), Since: c.GetSince().AsTime(),
			Reason: c.GetReason(), Message: c.GetMessage(), Provider: c.GetExecutionProvider(),
			BytesDone: c.GetBytesDone(), Bytes: c.GetBytesTotal(),
		})
	}
	for _, w := range a.health.Warnings() {
		d.Warnings = append(d.Warnings, localapi.Warning{Code: w.GetCode(), Message: w.GetMessage(), Remedy: w.GetRemedy(), Since: w.GetSince().AsTime()})
	}
	a.server.Describe(ctx, &d)
	return d, nil
}
