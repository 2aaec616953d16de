package fleet

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/fleet/access"
	"github.com/dhowfleet/dhow/fleet/authority"
	"github.com/dhowfleet/dhow/fleet/config"
	"github.com/dhowfleet/dhow/fleet/store"
)

// BootstrapToken is the name of the operator token that Initialise makes.
const BootstrapToken = "bootstrap"

// Setup is what Initialise made.
type Setup struct {
	// Token is the operator's, with the role admin. It is kept nowhere else.
	Token string
	// CASHA256 is the SHA-256 of the authority's root certificate in hex, by which clients recognise the manager.
	CASHA256 string
}

// Initialise sets up a data folder: the authority, the database, config.yaml and one operator token. One that was set
// up before is refused; one whose setup was cut short is completed.
func Initialise(ctx context.Context, c config.Config) (_ Setup, err error) {
	if err := c.Validate(); err != nil {
		return Setup{}, fmt.Errorf("the configuration cannot be: %w", err)
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return Setup{}, fmt.Errorf("cannot make the data folder: %w", err)
	}
	held, err := lock(c.Data)
	if err != nil {
		return Setup{}, err
	}
	defer held.Close()
	// The configuration before the authority: it names the trust domain that the authority is made for.
	if err := writeConfig(c); err != nil {
		return Setup{}, err
	}
	a, err := authority.Open(filepath.Join(c.Data, authorityFolder), c.TrustDomain, time.Now)
	if err != nil {
		return Setup{}, err
	}
	s, err := store.Open(ctx, filepath.Join(c.Data, databaseFile))
	if err != nil {
		return Setup{}, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	// Any token will do, also one that was revoked since: a setup is complete when it made its token.
	have, err := s.Operators().List(ctx)
	if err != nil {
		return Setup{}, err
	}
	if len(have) > 0 {
		return Setup{}, fmt.Errorf("%s is set up already; if its token was lost, make another: dhow-fleet token --data %s --name NAME", c.Data, c.Data)
	}
	token, err := s.Operators().Create(ctx, BootstrapToken, string(access.Admin))
	if err != nil {
		return Setup{}, err
	}
	pin := a.RootPin()
	return Setup{Token: token, CASHA256: hex.EncodeToString(pin[:])}, nil
}

// writeConfig writes what differs from the defaults, unless there is a configuration already.
func writeConfig(c config.Config) error {
	if _, err := os.Stat(c.File()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	usual := config.Default()
	values := map[string]string{}
	defaults := usual.Settings()
	for i, s := range c.Settings() {
		if s.Get() != defaults[i].Get() {
			values[s.Key] = s.Get()
		}
	}
	data, err := yaml.Marshal(values)
	if err != nil {
		return fmt.Errorf("cannot write the configuration: %w", err)
	}
	if err := renameio.WriteFile(c.File(), data, 0o600); err != nil {
		return fmt.Errorf("cannot write the configuration: %w", err)
	}
	return nil
}

// lock takes the data folder for this process until the file is closed or the process ends.
func lock(data string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(data, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the data folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another dhow-fleet has %s open: stop it first", data)
		}
		return nil, fmt.Errorf("cannot lock the data folder: %w", err)
	}
	return f, nil
}
