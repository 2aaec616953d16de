package authority

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dhowfleet/dhow/test/failpoint"
)

const (
	temporaryPrefix = ".new-"
	maxFile         = 64 << 10
)

// removeLeftovers deletes what a write that was cut off left behind; it may hold a key.
func removeLeftovers(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), temporaryPrefix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// writePair puts certificate and key into one file of mode 0600, which appears complete or not at all.
func writePair(dir, name string, p *pair) (err error) {
	key, err := x509.MarshalPKCS8PrivateKey(p.key)
	if err != nil {
		return fmt.Errorf("cannot encode the key of %s: %w", name, err)
	}
	var b bytes.Buffer
	if err := errors.Join(
		pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: p.cert.Raw}),
		pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	); err != nil {
		return fmt.Errorf("cannot encode %s: %w", name, err)
	}

	f, err := os.CreateTemp(dir, temporaryPrefix+"*") // mode 0600
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(b.Bytes()); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	failpoint.Here("authority/written")
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	failpoint.Here("authority/synced")
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return fmt.Errorf("cannot put %s in place: %w", name, err)
	}
	failpoint.Here("authority/renamed")
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot make %s durable: %w", name, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot make %s durable: %w", name, err)
	}
	failpoint.Here("authority/durable")
	return nil
}

// readPair reads what writePair wrote. The error is fs.ErrNotExist when there is no file.
func readPair(path string) (*pair, error) {
	name := filepath.Base(path)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s holds a key and may be read by others (mode %04o); run: chmod 600 %s", name, info.Mode().Perm(), path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	p := &pair{}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "CERTIFICATE":
			p.cert, err = x509.ParseCertificate(block.Bytes)
		case "PRIVATE KEY":
			var key any
			if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				p.key, _ = key.(*ecdsa.PrivateKey)
			}
		}
		if err != nil {
			return nil, damaged(name)
		}
	}
	if p.cert == nil || p.key == nil || !p.cert.IsCA || !p.key.PublicKey.Equal(p.cert.PublicKey) {
		return nil, damaged(name)
	}
	return p, nil
}

// damaged leaves out the parser's own words, which could quote parts of a key.
func damaged(name string) error {
	return fmt.Errorf("%s is damaged; restore it from the backup", name)
}
