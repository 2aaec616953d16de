package access

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"
)

// refuse answers a request that no rule let in, in the form that its client understands: an error of its RPC protocol,
// one of the OCI registry, or JSON.
func (g *Gate) refuse(w http.ResponseWriter, r *http.Request, route Route, err error) {
	status, code, level := http.StatusForbidden, connect.CodePermissionDenied, slog.LevelWarn
	var slow tooMany
	var broken unavailable
	var f *forbidden
	switch {
	case errors.As(err, &slow):
		// The guesses before it were logged; the flood after them is not.
		status, code, level = http.StatusTooManyRequests, connect.CodeResourceExhausted, slog.LevelDebug
		w.Header().Set("Retry-After", strconv.Itoa(int(slow.wait.Seconds())))
	case errors.As(err, &broken):
		status, code = http.StatusServiceUnavailable, connect.CodeUnavailable
		w.Header().Set("Retry-After", "1")
		g.config.Logger.Error("cannot check an operator's token", "error", broken.cause)
	case !errors.As(err, &f):
		status, code = http.StatusUnauthorized, connect.CodeUnauthenticated
		w.Header().Set("WWW-Authenticate", challenge(r))
	}
	if errors.Is(err, errCredentials) {
		level = slog.LevelDebug // this is how OCI clients begin
	}
	g.config.Logger.Log(r.Context(), level, "request refused", "route", route.Pattern, "method", r.Method, "remote", remote(r), "status", status, "reason", err.Error())
	if writer := connect.NewErrorWriter(); writer.IsSupported(r) && !isRegistry(r) {
		// What fails here is a connection that is gone.
		_ = writer.Write(w, r, connect.NewError(code, errors.New(err.Error())))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(body(r, status, err))
	}
}

func isRegistry(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v2/") }

// challenge says how to authenticate. OCI clients understand Basic without a token service; for all others Bearer is
// named, which makes no browser ask for a password.
func challenge(r *http.Request) string {
	if isRegistry(r) {
		return `Basic realm="dhow"`
	}
	return `Bearer realm="dhow"`
}

func body(r *http.Request, status int, err error) any {
	if !isRegistry(r) {
		return map[string]string{"error": err.Error()}
	}
	code := map[int]string{http.StatusUnauthorized: "UNAUTHORIZED", http.StatusForbidden: "DENIED", http.StatusTooManyRequests: "TOOMANYREQUESTS"}[status]
	if code == "" {
		code = "UNAVAILABLE"
	}
	return map[string]any{"errors": []map[string]string{{"code": code, "message": err.Error()}}}
}
