package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/nodes"
	"github.com/dhowfleet/dhow/fleet/registry"
	"github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1/syncv1connect"
)

// routes is all that the port answers, each with who may call it.
func (m *Manager) routes() []access.Route {
	_, sync := m.sync.SyncHandler()
	_, enrolment := m.sync.EnrolmentHandler()
	own := []access.Route{
		{Pattern: "GET /healthz", Rule: access.Public("says only that the process runs"), Handler: http.HandlerFunc(m.healthz)},
		{Pattern: "GET /readyz", Rule: access.Public("says only whether the manager can answer"), Handler: http.HandlerFunc(m.readyz)},

		{Pattern: "POST " + syncv1connect.EnrolmentServiceEnrolProcedure, Rule: access.Enrolment(), Handler: enrolment},
		// An expired certificate passes the gate to be told by the service that it is to be renewed, which is another
		// answer than that the node does not belong here; Renew is all that the service does for it.
		{Pattern: "POST " + syncv1connect.SyncServiceRenewProcedure, Rule: access.NodesToRenew(), Handler: sync},
		{Pattern: "POST " + syncv1connect.SyncServiceWatchProcedure, Rule: access.NodesToRenew(), Handler: sync},
		{Pattern: "POST " + syncv1connect.SyncServiceReportProcedure, Rule: access.NodesToRenew(), Handler: sync},
		{Pattern: "POST " + syncv1connect.SyncServiceDeliverProcedure, Rule: access.NodesToRenew(), Handler: sync},

		{Pattern: "/v2/", Rule: access.AnyOf(access.Nodes().When("pulls of models", pullsModel), access.Operators(access.Admin)), Handler: m.admitted(m.registry)},
	}
	return append(own, m.api.Routes()...)
}

func pullsModel(r *http.Request) bool {
	repository, verb := registry.Action(r)
	return verb == "pull" && strings.HasPrefix(repository, modelsPrefix)
}

// admitted lets nodes through only while they belong to the fleet: the gate has looked at the certificate alone.
// Operators pass.
func (m *Manager) admitted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p, ok := access.PrincipalFrom(r.Context()); ok && p.Node != nil {
			_, err := m.nodes.Admit(r.Context(), *p.Node)
			var refusal *nodes.Refusal
			switch {
			case errors.As(err, &refusal):
				answerOCI(w, http.StatusForbidden, "DENIED", refusal.Error())
				return
			case err != nil:
				m.deps.Logger.Error("a node could not be looked up", "node", p.Name, "error", err)
				answerOCI(w, http.StatusServiceUnavailable, "UNAVAILABLE", "the manager cannot answer at this moment: try again")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

func answerOCI(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the other side is gone, or it is not
}

func (m *Manager) healthz(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]bool{"healthy": true})
}

func (m *Manager) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if err := m.store.Ping(ctx); err != nil {
		m.deps.Logger.Error("not ready", "error", err)
		answer(w, http.StatusServiceUnavailable, map[string]any{"ready": false, "reason": "the database does not answer"})
		return
	}
	answer(w, http.StatusOK, map[string]bool{"ready": true})
}
