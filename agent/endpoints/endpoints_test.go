package endpoints

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var quiet = slog.New(slog.DiscardHandler)

func answering(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text+" over "+r.Proto) })
}

// serve binds and serves until the test ends.
func serve(t *testing.T, o Options, listeners ...Listener) *Endpoints {
	t.Helper()
	o.Logger = quiet
	e, err := Bind(listeners, o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- e.Serve() }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := e.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return e
}

func get(t *testing.T, transport *http.Transport, url string) string {
	t.Helper()
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 5 * time.Second}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func only(set func(*http.Protocols)) *http.Protocols {
	p := new(http.Protocols)
	set(p)
	return p
}

func TestEveryAddressAnswersInBothProtocols(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	e := serve(t, Options{}, Listener{Name: "http", Address: "127.0.0.1:0", Handler: answering("rest")}, Listener{Name: "socket", Address: "unix:" + socket, Handler: answering("all")})
	h2c := only(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) })
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }
	for want, transport := range map[string]*http.Transport{
		"rest over HTTP/1.1": {}, "rest over HTTP/2.0": {Protocols: h2c},
		"all over HTTP/1.1": {DialContext: dial}, "all over HTTP/2.0": {DialContext: dial, Protocols: h2c},
	} {
		if got := get(t, transport, "http://"+e.Addr("http")); got != want {
			t.Errorf("%q and not %q", got, want)
		}
	}
	if e.Addr("nothing") != "" {
		t.Error("a listener that does not exist has an address")
	}
}

func certificate(t *testing.T) (*tls.Config, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, NextProtos: []string{"h2", "http/1.1"}}, pool
}

func TestTLSIsForAddressesAndNotForSockets(t *testing.T) {
	config, roots := certificate(t)
	socket := filepath.Join(t.TempDir(), "s")
	e := serve(t, Options{TLS: config}, Listener{Name: "http", Address: "127.0.0.1:0", Handler: answering("rest")}, Listener{Name: "socket", Address: "unix:" + socket, Handler: answering("all")})
	trusting := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: true}
	if got := get(t, trusting, "https://"+e.Addr("http")); got != "rest over HTTP/2.0" {
		t.Error(got)
	}
	if got := get(t, &http.Transport{}, "http://"+e.Addr("http")); !strings.Contains(got, "HTTP request to an HTTPS server") {
		t.Error(got)
	}
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", socket) }
	if got := get(t, &http.Transport{DialContext: dial}, "http://agent"); got != "all over HTTP/1.1" {
		t.Error(got)
	}
}

func TestATakenAddressStopsOnlyWhoNeedsIt(t *testing.T) {
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken := other.Addr().String()
	if _, err := Bind([]Listener{{Name: "http", Address: "127.0.0.1:0", Handler: answering("x")}, {Name: "grpc", Address: taken, Handler: answering("y")}}, Options{Logger: quiet}); err == nil || !strings.Contains(err.Error(), "the grpc endpoint: ") || !strings.Contains(err.Error(), "in use; another program has "+taken) {
		t.Fatal(err)
	}
	said := make(chan error, 8)
	e := serve(t, Options{Retry: 10 * time.Millisecond, Taken: func(l Listener, err error) {
		if l.Name != "grpc" {
			t.Errorf("%s has no address", l.Name)
		}
		said <- err
	}}, Listener{Name: "http", Address: "127.0.0.1:0", Handler: answering("rest")}, Listener{Name: "grpc", Address: taken, Optional: true, Handler: answering("grpc")})
	if err := <-said; err == nil || e.Addr("grpc") != "" {
		t.Fatalf("%v, %q", err, e.Addr("grpc"))
	}
	if got := get(t, &http.Transport{}, "http://"+e.Addr("http")); got != "rest over HTTP/1.1" {
		t.Fatal(got)
	}
	_ = other.Close()
	if err := <-said; err != nil || e.Addr("grpc") != taken {
		t.Fatalf("%v, %q", err, e.Addr("grpc"))
	}
	if got := get(t, &http.Transport{}, "http://"+taken); got != "grpc over HTTP/1.1" {
		t.Fatal(got)
	}
}

func TestShutdownWaitsForRequestsInFlight(t *testing.T) {
	came, end := make(chan struct{}), make(chan struct{})
	e, err := Bind([]Listener{{Name: "http", Address: "127.0.0.1:0", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(came)
		<-end
		_, _ = io.WriteString(w, "whole")
	})}}, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	served, shut, answer := make(chan error, 1), make(chan error, 1), make(chan string, 1)
	address := e.Addr("http")
	go func() { served <- e.Serve() }()
	go func() { answer <- get(t, &http.Transport{}, "http://"+address) }()
	<-came
	go func() { shut <- e.Shutdown(context.Background()) }()
	for { // until the address is given back
		conn, err := net.Dial("tcp", address)
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	select {
	case err := <-shut:
		t.Fatalf("it did not wait: %v", err)
	default:
	}
	close(end)
	if got := <-answer; got != "whole" {
		t.Error(got)
	}
	if err := <-shut; err != nil {
		t.Error(err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestEndpointsThatNeverServedAreGivenBack(t *testing.T) {
	e, err := Bind([]Listener{{Name: "http", Address: "127.0.0.1:0", Handler: answering("x")}}, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	address := e.Addr("http")
	e.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
