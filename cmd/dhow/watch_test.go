package main

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines collects output and lets a test wait for a text in it.
type lines struct {
	mu   sync.Mutex
	text string
	news chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text += string(p)
	select {
	case l.news <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (l *lines) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		l.mu.Lock()
		have := strings.Contains(l.text, want)
		text := l.text
		l.mu.Unlock()
		if have {
			return
		}
		select {
		case <-l.news:
		case <-deadline:
			t.Fatalf("%q does not come in\n%s", want, text)
		}
	}
}

func TestWatchPrintsChangesUntilInterrupted(t *testing.T) {
	c := start(t)
	c.ok("apply", "-f", c.file("f.yaml", fleetYAML))
	for name, w := range map[string]struct {
		args  []string
		wants [3]string
	}{
		"watch":     {[]string{"watch", "sites"}, [3]string{"EVENT     NAME     REGION     NODES   AGE\ncurrent   deira ", "changed   palm ", "deleted   palm     -"}},
		"get":       {[]string{"get", "sites", "--watch"}, [3]string{"NAME     REGION     NODES   AGE\ndeira ", "\npalm ", "palm     -          -       deleted"}},
		"json":      {[]string{"watch", "site", "palm", "-o", "json"}, [3]string{`{"type":"synced"}`, `{"type":"changed","resource":{"kind":"Site",`, `{"type":"deleted",`}},
		"yaml":      {[]string{"watch", "sites", "-o", "yaml"}, [3]string{"--- # current\nkind: Site\n", "--- # changed\n", "--- # deleted\n"}},
		"name":      {[]string{"watch", "sites", "-o", "name"}, [3]string{"current site/deira\n", "changed site/palm\n", "deleted site/palm\n"}},
		"one place": {[]string{"watch", "sites", "-l", "region=ae-dubai"}, [3]string{"deira", "palm", "deleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			out := &lines{news: make(chan struct{}, 1)}
			var errs bytes.Buffer
			code := make(chan int, 1)
			go func() {
				code <- run(ctx, w.args, streams{in: strings.NewReader(""), out: out, err: &errs}, func(k string) string { return c.env[k] })
			}()
			out.await(t, w.wants[0])
			c.ok("apply", "-f", c.file("palm.yaml", "kind: Site\nmetadata: {name: palm}\nspec: {region: ae-dubai}\n"))
			out.await(t, w.wants[1])
			c.ok("delete", "site", "palm")
			out.await(t, w.wants[2])
			cancel()
			if got := <-code; got != exitOK {
				t.Errorf("interrupted: exit %d, %s", got, &errs)
			}
		})
	}
	c.fails(exitUsage, "one name at most", "watch", "sites", "a", "b")
	c.fails(exitUsage, "one name at most", "get", "sites", "a", "b", "-w")
	c.env["DHOW_TOKEN"] = "wrong"
	c.fails(exitFailed, "the token is not known", "watch", "sites")
}
