package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/fleet/client/clienttest"
	"github.com/dhowfleet/dhow/fleet/resource"
	"github.com/dhowfleet/dhow/fleet/store"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
)

func connectTo(t *testing.T, m *clienttest.Manager, change func(*client.Config)) *client.Client {
	t.Helper()
	config := client.Config{Server: m.Address, Token: m.Token, CASHA256: m.RootPin}
	if change != nil {
		change(&config)
	}
	c, err := client.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func info(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := c.GetServerInfo(ctx, connect.NewRequest(&fleetv1.GetServerInfoRequest{}))
	return err
}

func TestSpeaksOverBothProtocols(t *testing.T) {
	m := clienttest.Start(t)
	for want, tcp := range map[string]bool{"HTTP/3": false, "HTTP/2": true} {
		c := connectTo(t, m, func(c *client.Config) { c.DisableQUIC = tcp })
		if err := info(t.Context(), c); err != nil {
			t.Fatalf("%s: %v", want, c.Explain(err))
		}
		if got := c.Transport(); got != want {
			t.Errorf("spoken over %s, want %s", got, want)
		}
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	m := clienttest.Start(t)
	for name, c := range map[string]struct {
		change func(*client.Config)
		want   string
	}{
		"wrong token":  {func(c *client.Config) { c.Token = "wrong" }, "log in again with dhow login"},
		"wrong pin":    {func(c *client.Config) { c.CASHA256 = [32]byte{1} }, "is not the manager that you logged in to"},
		"wrong name":   {func(c *client.Config) { c.ServerName = "fleet.example.com" }, "--server-name"},
		"nobody there": {func(c *client.Config) { c.Server = closedPort(t) }, "cannot reach the manager at 127.0.0.1:"},
	} {
		c2 := connectTo(t, m, c.change)
		err := c2.Explain(info(t.Context(), c2))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v\ndoes not say %q", name, err, c.want)
		}
	}
	c := connectTo(t, m, nil)
	_, err := c.Get(t.Context(), connect.NewRequest(&fleetv1.GetRequest{Kind: "Region", Name: "x"}))
	if err := c.Explain(err); err == nil || err.Error() != `there is no Region "x"` {
		t.Errorf("an answer of the manager is changed: %v", err)
	}
}

func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestConfigIsChecked(t *testing.T) {
	good := client.Config{Server: "fleet.example.com:8443", Token: "t", CASHA256: [32]byte{1}}
	if c, err := client.New(good); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	for name, change := range map[string]func(*client.Config){
		"no port": func(c *client.Config) { c.Server = "fleet.example.com" }, "scheme": func(c *client.Config) { c.Server = "https://fleet:8443" },
		"port 0": func(c *client.Config) { c.Server = "a:0" }, "no host": func(c *client.Config) { c.Server = ":1" },
		"no token": func(c *client.Config) { c.Token = "" }, "no pin": func(c *client.Config) { c.CASHA256 = [32]byte{} },
	} {
		config := good
		change(&config)
		if _, err := client.New(config); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for s, ok := range map[string]bool{
		strings.Repeat("ab", 32): true, "sha256:" + strings.Repeat("AB", 32) + "\n": true, strings.Repeat("ab:", 31) + "ab": true,
		"": false, strings.Repeat("ab", 31): false, strings.Repeat("xy", 32): false,
	} {
		if _, err := client.ParseCASHA256(s); (err == nil) != ok {
			t.Errorf("ParseCASHA256(%q): %v", s, err)
		}
	}
}

func TestTokenGoesToTheManagerOnly(t *testing.T) {
	c := connectTo(t, clienttest.Start(t), nil)
	for _, url := range []string{"https://elsewhere:443/", "http://" + c.Server() + "/"} {
		resp, err := c.HTTP().Get(url)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s was requested with the manager's token", url)
		}
	}
	resp, err := c.HTTP().Get(c.BaseURL() + "/nothing")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s", resp.Status)
	}
}

func region(name, jurisdiction string) *fleetv1.Resource {
	r := resource.New("Region", name)
	r.GetRegion().Spec.Jurisdiction = jurisdiction
	return r
}

var errEnough = errors.New("enough")

func TestWatchGoesOnOverARestartAndTellsWhatItMissed(t *testing.T) {
	m := clienttest.Start(t)
	m.Apply(region("stays", "eu"), region("changes", "eu"), region("goes", "eu"))
	c := connectTo(t, m, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var told []string
	err := c.Watch(ctx, &fleetv1.WatchRequest{Kind: "Region"}, func(e *fleetv1.WatchResponse) error {
		told = append(told, strings.TrimSpace(fmt.Sprintf("%s %s", e.GetType(), e.GetResource().GetMetadata().GetName())))
		switch told[len(told)-1] {
		case "synced":
			m.Stop()
			m.Apply(region("changes", "us"), region("new", "eu"))
			deleteRegion(t, m, "goes")
			m.Restart()
		case "deleted goes":
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		t.Fatalf("the watch ended with %v after %v", err, told)
	}
	want := "current changes,current goes,current stays,synced,current changes,current new,deleted goes"
	if got := strings.Join(told, ","); got != want {
		t.Errorf("told %s\nwant %s", got, want)
	}
}

func TestWatchEndsWhenRefused(t *testing.T) {
	m := clienttest.Start(t)
	c := connectTo(t, m, func(c *client.Config) { c.Token = "wrong" })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := c.Watch(ctx, &fleetv1.WatchRequest{}, func(*fleetv1.WatchResponse) error { return nil })
	if err == nil || ctx.Err() != nil {
		t.Errorf("the watch goes on: %v", err)
	}
}

func deleteRegion(t *testing.T, m *clienttest.Manager, name string) {
	t.Helper()
	if _, err := m.Store.Apply(t.Context(), []store.Change{{Delete: &store.Key{Kind: "Region", Name: name}}}); err != nil {
		t.Fatal(err)
	}
}
