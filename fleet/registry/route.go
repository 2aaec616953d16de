package registry

import (
	"net/http"
	"regexp"
	"strings"
)

type kind int

const (
	kindPing kind = iota
	kindCatalog
	kindBlob
	kindUploads // where sessions begin
	kindUpload  // one session
	kindManifest
	kindTags
	kindReferrers
)

// target is what a path names.
type target struct {
	kind       kind
	repository string
	reference  string // digest, tag or session
}

var (
	repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagName        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
)

const maxName = 255

// parse reads a path of the distribution API. It reads from the end, since a repository may have parts called "blobs".
func parse(path string) (target, bool) {
	rest, ok := strings.CutPrefix(path, "/v2")
	if !ok || rest != "" && rest[0] != '/' {
		return target{}, false
	}
	rest = strings.TrimPrefix(rest, "/")
	switch rest {
	case "":
		return target{kind: kindPing}, true
	case "_catalog":
		return target{kind: kindCatalog}, true
	}
	parts := strings.Split(rest, "/")
	n := len(parts)
	t := target{reference: parts[n-1]}
	var name []string
	switch {
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads" && t.reference == "",
		n >= 3 && parts[n-2] == "blobs" && t.reference == "uploads":
		t.kind, t.reference = kindUploads, ""
		name = parts[:n-2]
		if parts[n-1] == "" {
			name = parts[:n-3]
		}
	case n >= 4 && parts[n-3] == "blobs" && parts[n-2] == "uploads":
		t.kind, name = kindUpload, parts[:n-3]
	case n >= 3 && parts[n-2] == "blobs":
		t.kind, name = kindBlob, parts[:n-2]
	case n >= 3 && parts[n-2] == "manifests":
		t.kind, name = kindManifest, parts[:n-2]
	case n >= 3 && parts[n-2] == "referrers":
		t.kind, name = kindReferrers, parts[:n-2]
	case n >= 3 && parts[n-2] == "tags" && t.reference == "list":
		t.kind, t.reference, name = kindTags, "", parts[:n-2]
	default:
		return target{}, false
	}
	t.repository = strings.Join(name, "/")
	if len(t.repository) > maxName || !repositoryName.MatchString(t.repository) {
		return target{}, false
	}
	return t, true
}

// Action says what a request wants, for whoever decides whether it may: the repository and "pull", "push" or "delete".
// Asking which API this is, is a pull of no repository; listing repositories is "catalog" of none. A request that is
// none of the API's has the verb "". A push may also read another repository: see MountSource.
func Action(r *http.Request) (repository, verb string) {
	t, ok := parse(r.URL.Path)
	if !ok {
		return "", ""
	}
	switch {
	case t.kind == kindCatalog:
		return "", "catalog"
	case t.kind == kindUpload || t.kind == kindUploads:
		return t.repository, "push"
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return t.repository, "pull"
	case r.Method == http.MethodDelete:
		return t.repository, "delete"
	}
	return t.repository, "push"
}

// MountSource returns the repository from which a push wants to mount a blob, or "". Whoever decides must also allow a
// pull from it.
func MountSource(r *http.Request) string {
	if t, ok := parse(r.URL.Path); ok && t.kind == kindUploads && r.Method == http.MethodPost {
		if query := r.URL.Query(); query.Get("mount") != "" {
			return query.Get("from")
		}
	}
	return ""
}
