package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// pageNames is how many names a list has unless n asks for fewer, and at most.
	pageNames = 1000
	// pageBytes is where a list of referrers is continued on another page: their annotations may be long.
	pageBytes = 3 << 20
)

// pageSize reads the parameter n.
func pageSize(query url.Values) (int, error) {
	value := query.Get("n")
	if value == "" {
		return pageNames, nil
	}
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0, refuse(http.StatusBadRequest, "PAGINATION_NUMBER_INVALID", "n=%q is not a number of names", value)
	}
	return int(min(n, pageNames)), nil
}

// next sets the header that leads to the page after the name last.
func next(w http.ResponseWriter, path string, query url.Values) {
	w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, path, query.Encode()))
}

// page cuts a list that was asked for with one name too many, and sets the header for the rest.
func page(w http.ResponseWriter, path string, names []string, n int) []string {
	if len(names) <= n {
		return names
	}
	names = names[:n]
	if n > 0 {
		next(w, path, url.Values{"n": {strconv.Itoa(n)}, "last": {names[n-1]}})
	}
	return names
}

func (r *Registry) listTags(w http.ResponseWriter, req *http.Request, t target) error {
	n, err := pageSize(req.URL.Query())
	if err != nil {
		return err
	}
	tags, err := r.Index.Tags(req.Context(), t.repository, req.URL.Query().Get("last"), n+1)
	if errors.Is(err, ErrUnknown) {
		return refuse(http.StatusNotFound, "NAME_UNKNOWN", "there is no repository %s", t.repository)
	}
	if err != nil {
		return err
	}
	tags = page(w, "/v2/"+t.repository+"/tags/list", tags, n)
	return writeJSON(w, req, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{t.repository, append([]string{}, tags...)})
}

func (r *Registry) listRepositories(w http.ResponseWriter, req *http.Request, _ target) error {
	n, err := pageSize(req.URL.Query())
	if err != nil {
		return err
	}
	names, err := r.Index.Repositories(req.Context(), req.URL.Query().Get("last"), n+1)
	if err != nil {
		return err
	}
	names = page(w, "/v2/_catalog", names, n)
	return writeJSON(w, req, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{append([]string{}, names...)})
}

func (r *Registry) listReferrers(w http.ResponseWriter, req *http.Request, t target) error {
	subject, err := parseDigest(t.reference)
	if err != nil {
		return err
	}
	query := req.URL.Query()
	artifactType := query.Get("artifactType")
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	size, more := 0, false
	err = r.Index.Referrers(req.Context(), t.repository, subject, artifactType, query.Get("last"), func(m Manifest) bool {
		d := v1.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size, ArtifactType: m.ArtifactType, Annotations: m.Annotations}
		text, _ := json.Marshal(d)
		if len(index.Manifests) > 0 && (size+len(text) > pageBytes || len(index.Manifests) == pageNames) {
			more = true
			return false
		}
		size += len(text)
		index.Manifests = append(index.Manifests, d)
		return true
	})
	if err != nil {
		return err
	}
	if more {
		rest := url.Values{"last": {index.Manifests[len(index.Manifests)-1].Digest.String()}}
		if artifactType != "" {
			rest.Set("artifactType", artifactType)
		}
		next(w, "/v2/"+t.repository+"/referrers/"+subject.String(), rest)
	}
	if artifactType != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	return writeJSON(w, req, v1.MediaTypeImageIndex, index)
}
