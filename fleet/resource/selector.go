package resource

import (
	"fmt"
	"strings"
)

// ParseSelector reads "key=value,key=value". An empty text selects everything.
func ParseSelector(s string) (map[string]string, error) {
	if s == "" {
		return nil, nil
	}
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(pair, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(strings.TrimPrefix(value, "="))
		if !ok || key == "" || strings.HasSuffix(key, "!") {
			return nil, fmt.Errorf("%q is no selector: write key=value, several separated by commas", clip(pair))
		}
		if have, twice := out[key]; twice && have != value {
			return nil, fmt.Errorf("the selector wants %s to be both %q and %q, which nothing is", clip(key), clip(have), clip(value))
		}
		out[key] = value
	}
	return out, nil
}
