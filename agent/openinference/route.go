package openinference

import (
	"net/url"
	"strings"
)

// target is what the path of a request names.
type target struct {
	what           resource
	model, version string
}

// resource is a thing that a path can name.
type resource uint8

const (
	pathNothing resource = iota
	pathServer
	pathLive
	pathReady
	pathStatistics
	pathModel
	pathModelReady
	pathModelConfig
	pathModelStatistics
	pathInfer
	pathIndex
	pathLoad
	pathUnload
	pathLogging
	pathTrace
	pathSharedMemory
	pathModelsV1
	pathModelV1
	pathPredictV1
)

// fixed are the paths without a name in them.
var fixed = map[string]resource{
	"/v2":                  pathServer,
	"/v2/":                 pathServer,
	"/v2/health/live":      pathLive,
	"/v2/health/ready":     pathReady,
	"/v2/models/stats":     pathStatistics,
	"/v2/repository/index": pathIndex,
	"/v2/logging":          pathLogging,
	"/v2/trace/setting":    pathTrace,
	"/v1/models":           pathModelsV1,
}

// resolve reads a path. Names are decoded, and may hold anything: what divides a path is a slash that is not encoded.
func resolve(u *url.URL) target {
	path, decode := u.Path, false
	if u.RawPath != "" {
		// Only then is the path as it was sent another one than what net/url would make of the decoded one.
		path, decode = u.RawPath, true
	}
	if rest, ok := strings.CutPrefix(path, "/v2/models/"); ok && path != "/v2/models/stats" {
		return ofModel(rest, decode)
	}
	if what, ok := fixed[path]; ok {
		return target{what: what}
	}
	if rest, ok := strings.CutPrefix(path, "/v1/models/"); ok {
		return ofModelV1(rest, decode)
	}
	if rest, ok := strings.CutPrefix(path, "/v2/repository/models/"); ok {
		name, verb, _ := strings.Cut(rest, "/")
		switch verb {
		case "load":
			return named(pathLoad, name, "", decode)
		case "unload":
			return named(pathUnload, name, "", decode)
		}
	}
	if strings.HasPrefix(path, "/v2/systemsharedmemory") || strings.HasPrefix(path, "/v2/cudasharedmemory") {
		return target{what: pathSharedMemory}
	}
	return target{}
}

// ofModel reads {model}[/versions/{version}][/{what}].
func ofModel(rest string, decode bool) target {
	name, rest, deeper := strings.Cut(rest, "/")
	version := ""
	if after, ok := strings.CutPrefix(rest, "versions/"); ok {
		if version, rest, deeper = strings.Cut(after, "/"); version == "" {
			return target{}
		}
	}
	if !deeper {
		return named(pathModel, name, version, decode)
	}
	switch rest {
	case "infer":
		return named(pathInfer, name, version, decode)
	case "ready":
		return named(pathModelReady, name, version, decode)
	case "config":
		return named(pathModelConfig, name, version, decode)
	case "stats":
		return named(pathModelStatistics, name, version, decode)
	case "trace/setting":
		return target{what: pathTrace}
	}
	return target{}
}

// ofModelV1 reads {model}[/versions/{version}][:predict]. A model's name may hold a colon, so the last one counts; a GET
// of a name that ends like a call is made a name again by whoever answers it.
func ofModelV1(rest string, decode bool) target {
	what := pathModelV1
	if name, ok := strings.CutSuffix(rest, ":predict"); ok {
		rest, what = name, pathPredictV1
	}
	name, rest, deeper := strings.Cut(rest, "/")
	version := ""
	if deeper {
		var ok bool
		if version, ok = strings.CutPrefix(rest, "versions/"); !ok || version == "" || strings.Contains(version, "/") {
			return target{}
		}
	}
	return named(what, name, version, decode)
}

// named makes a target of names as they stand in a path.
func named(what resource, model, version string, decode bool) target {
	if model == "" {
		return target{}
	}
	if decode {
		var err error
		if model, err = url.PathUnescape(model); err != nil {
			return target{}
		}
		if version, err = url.PathUnescape(version); err != nil {
			return target{}
		}
	}
	return target{what, model, version}
}
