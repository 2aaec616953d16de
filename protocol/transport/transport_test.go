package transport

import (
	"strings"
	"testing"
)

func TestNodeIsKnownOverBothProtocols(t *testing.T) {
	f := serve(t, hello, nil)
	for _, want := range []string{HTTP3, HTTP2} {
		c := f.node(t, func(cfg *ClientConfig) { cfg.DisableQUIC = want == HTTP2 })
		status, body, err := get(t, c, "/")
		if err != nil {
			t.Fatalf("%s: %v", want, err)
		}
		if status != 200 || !strings.HasPrefix(body, want+" node "+berlin.URI()+" 127.0.0.1:") {
			t.Errorf("%s: %d %q", want, status, body)
		}
		if got := c.Transport(); got != want {
			t.Errorf("Transport() = %q, want %q", got, want)
		}
	}
}
