package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWhereToListen(t *testing.T) {
	for _, c := range []struct {
		addr      string
		tls, keys bool
		want      string
	}{
		{"127.0.0.1:8000", false, false, ""},
		{"127.9.9.9:0", false, false, ""},
		{"[::1]:8000", false, false, ""},
		{"localhost:8000", false, false, ""},
		{"unix:/run/dhow/agent.sock", false, false, ""},
		{"unix:agent.sock", false, false, "whole path"},
		{"unix:", true, true, "whole path"},
		{"0.0.0.0:8000", true, true, ""},
		{":8000", true, true, ""},
		{"shop.example:443", true, true, ""},
		{"0.0.0.0:8000", false, false, "needs TLS (tls-certificate and tls-key) and serving keys (serving-keys; make one with dhow-agent key create); or listen on 127.0.0.1:8000"},
		{":8000", true, false, "needs serving keys"},
		{"[::]:8000", false, true, "needs TLS"},
		{"10.0.0.1:8000", false, false, "other machines reach it"},
		{"localhost.evil.example:8000", false, false, "other machines reach it"},
		{"127.0.0.1", false, false, "neither HOST:PORT"},
		{"127.0.0.1:", false, false, "neither HOST:PORT"},
		{"", false, false, "neither HOST:PORT"},
	} {
		err := CheckListen(c.addr, c.tls, c.keys)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q: %v, want %q", c.addr, err, c.want)
		}
	}
	for addr, want := range map[string]bool{"unix:/x": true, "localhost:1": true, "127.0.0.1:1": true, "0.0.0.0:1": false, "garbage": false} {
		if Local(addr) != want {
			t.Errorf("%s", addr)
		}
	}
}

func TestSocketsAreTakenOverFromTheDeadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	addr := "unix:" + path
	l, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Listen(addr); err == nil || !strings.Contains(err.Error(), "another program does") {
		t.Error(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // as one that dies leaves it
	l.Close()
	if l, err = Listen(addr); err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(addr); err == nil || !strings.Contains(err.Error(), "something else than a socket") {
		t.Error(err)
	}
	if l, err = Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l.Close()
}

// certify writes a certificate for names and its key.
func certify(t *testing.T, certFile, keyFile string, names ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path, kind string, b []byte) {
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(certFile, "CERTIFICATE", der)
	write(keyFile, "PRIVATE KEY", private)
}

func TestCertificatesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if _, err := OpenCertificate(certFile, keyFile, CertificateOptions{}); err == nil {
		t.Error("there is no certificate")
	}
	certify(t, certFile, keyFile, "*.shop.example", "10.0.0.1")
	at := time.Now()
	var warnings []error
	c, err := OpenCertificate(certFile, keyFile, CertificateOptions{Now: func() time.Time { return at }, Warn: func(err error) { warnings = append(warnings, err) }})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]bool{"till.shop.example": true, "10.0.0.1": true, "shop.example": false, "10.0.0.2": false, "a.b.shop.example": false} {
		if c.Serves(host) != want {
			t.Errorf("%s: %v", host, !want)
		}
	}
	if names := c.Names(); !slices.Equal(names, []string{"*.shop.example", "10.0.0.1"}) || time.Until(c.Expires()) > time.Hour {
		t.Errorf("%v, %v", names, c.Expires())
	}
	first, err := c.Config().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	handshake := func() *tls.Certificate {
		t.Helper()
		at = at.Add(time.Second)
		got, err := c.Config().GetCertificate(nil)
		if err != nil || got == nil {
			t.Fatal(err)
		}
		return got
	}
	// One of the two files is new, which fits only when the other is.
	other := filepath.Join(dir, "other.pem")
	certify(t, certFile, other, "new.example")
	for range 3 {
		if handshake() != first {
			t.Error("half a certificate was taken")
		}
	}
	if len(warnings) != 1 || warnings[0] == nil || strings.Contains(warnings[0].Error(), "PRIVATE") {
		t.Errorf("%v", warnings)
	}
	if err := os.Rename(other, keyFile); err != nil {
		t.Fatal(err)
	}
	second := handshake()
	if second == first || !c.Serves("new.example") || c.Serves("10.0.0.1") || len(warnings) != 2 || warnings[1] != nil {
		t.Errorf("the new certificate was not taken: %v", warnings)
	}
	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	if handshake() != second || len(warnings) != 3 {
		t.Errorf("the certificate went with its file: %v", warnings)
	}
}

// TestTLSServesBothVersionsOfHTTP and refuses what is older than TLS 1.2.
func TestTLSServesBothVersionsOfHTTP(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certify(t, certFile, keyFile, "127.0.0.1")
	c, err := OpenCertificate(certFile, keyFile, CertificateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: c.Config(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(r.Proto)) }), ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = srv.Close() })
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(certFile)
	if err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	for _, two := range []bool{false, true} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: two}
		resp, err := (&http.Client{Transport: transport}).Get("https://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if (resp.ProtoMajor == 2) != two {
			t.Errorf("%s", resp.Proto)
		}
		transport.CloseIdleConnections()
	}
	if _, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}
