package access

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

// unixPrefix marks the address of a Unix socket.
const unixPrefix = "unix:"

// CheckListen says whether to listen on addr, which is HOST:PORT or unix:/PATH. An address that other machines reach
// needs TLS, lest keys and data are read on the way, and keys, lest anyone asks; loopback and Unix sockets need neither.
func CheckListen(addr string, tls, keys bool) error {
	if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
		if path == "" || path[0] != '/' {
			return fmt.Errorf("cannot listen on %q: write unix: and the socket's whole path, such as unix:/run/dhow/agent.sock", addr)
		}
		return nil
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return fmt.Errorf("cannot listen on %q: it is neither HOST:PORT nor unix:/PATH", addr)
	}
	if Local(addr) || tls && keys {
		return nil
	}
	const needTLS, needKeys = "TLS (tls-certificate and tls-key)", "serving keys (serving-keys; make one with dhow-agent key create)"
	missing := needTLS + " and " + needKeys
	switch {
	case tls:
		missing = needKeys
	case keys:
		missing = needTLS
	}
	return fmt.Errorf("cannot listen on %q: other machines reach it, which needs %s; or listen on 127.0.0.1:%s", addr, missing, port)
}

// Local reports whether only this machine reaches a listener on addr.
func Local(addr string) bool {
	if strings.HasPrefix(addr, unixPrefix) {
		return true
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Listen listens on an address that CheckListen allows. A Unix socket is for its owner and group (mode 0660); one that a
// program left behind when it died is replaced, one that something answers on is an error.
func Listen(addr string) (net.Listener, error) {
	path, ok := strings.CutPrefix(addr, unixPrefix)
	if !ok {
		return net.Listen("tcp", addr)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("cannot listen on %s: there is something else than a socket; remove it or take another path", addr)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("cannot listen on %s: another program does", addr)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Between the two lines the process's umask rules, which takes the others' rights away wherever it is the usual one.
	if err := os.Chmod(path, 0o660); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("cannot listen on %s: %w", addr, err)
	}
	return l, nil
}
