package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/dhowfleet/dhow/fleet/client"
	fleetv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/fleet/v1"
	"github.com/dhowfleet/dhow/test/failpoint"
)

// login is which manager to speak to, and as whom. It is what dhow login stores.
type login struct {
	Server     string `yaml:"server"`
	ServerName string `yaml:"serverName,omitempty"`
	CASHA256   string `yaml:"caSha256"`
	Token      string `yaml:"token"`
}

const (
	maxToken  = 4 << 10
	maxConfig = 64 << 10
)

func (a *app) newLogin() *cobra.Command {
	var l login
	var tokenFile string
	var tokenStdin bool
	cmd := &cobra.Command{
		Use:   "login --server HOST:PORT --ca-sha256 HEX (--token-file FILE | --token-stdin)",
		Short: "Log in to a fleet manager",
		Long: `Log in to a fleet manager and remember it for the other commands.

The address of the manager, its bootstrap token and the SHA-256 of its certificate authority come from dhow-fleet init.
They are kept, readable by you alone, in $XDG_CONFIG_HOME/dhow/config.yaml (~/.config/dhow/config.yaml).
In scripts, DHOW_SERVER, DHOW_TOKEN and DHOW_CA_SHA256 stand in for it.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if l.Server == "" || l.CASHA256 == "" {
				return usagef("dhow login needs --server and --ca-sha256; dhow-fleet init prints both")
			}
			if (tokenFile == "") == !tokenStdin {
				return usagef("dhow login needs either --token-file or --token-stdin")
			}
			var err error
			if l.Token, err = a.readToken(tokenFile); err != nil {
				return err
			}
			return a.runLogin(cmd, l)
		},
	}
	cmd.Flags().StringVar(&l.Server, "server", "", "the manager's HOST:PORT")
	cmd.Flags().StringVar(&l.ServerName, "server-name", "", "the name in the manager's certificate (default: the host of --server)")
	cmd.Flags().StringVar(&l.CASHA256, "ca-sha256", "", "the SHA-256 of the manager's certificate authority, in hex")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "a file that holds the operator token")
	cmd.Flags().BoolVar(&tokenStdin, "token-stdin", false, "read the operator token from standard input")
	return cmd
}

// readToken reads the token of a file, or of standard input without one.
func (a *app) readToken(file string) (string, error) {
	in := a.in
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("cannot read the token: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("cannot read the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", errors.New("cannot read the token: it is empty")
	case len(data) > maxToken || strings.ContainsAny(token, " \t\r\n"):
		return "", errors.New("cannot read the token: what was read is no token (one word on one line)")
	}
	return token, nil
}

func (a *app) runLogin(cmd *cobra.Command, l login) error {
	pin, err := client.ParseCASHA256(l.CASHA256)
	if err != nil {
		return usagef("--ca-sha256: %v", err)
	}
	l.CASHA256 = hex.EncodeToString(pin[:])
	c, err := l.connect()
	if err != nil {
		return usagef("%v", err)
	}
	defer c.Close()
	// Only a login that works is remembered.
	ctx, cancel := a.call(cmd.Context())
	defer cancel()
	info, err := c.GetServerInfo(ctx, connect.NewRequest(&fleetv1.GetServerInfoRequest{}))
	if err != nil {
		return c.Explain(err)
	}
	path, err := a.configPath()
	if err != nil {
		return err
	}
	if err := l.save(path); err != nil {
		return err
	}
	fmt.Fprintf(a.out, "Logged in to %s (fleet %s, version %s, over %s).\n", l.Server, info.Msg.GetTrustDomain(), info.Msg.GetVersion(), c.Transport())
	return nil
}

func (l *login) save(path string) error {
	data, err := yaml.Marshal(l)
	if err != nil {
		return fmt.Errorf("cannot write the login: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot write the login: %w", err)
	}
	failpoint.Here("login/save")
	if err := renameio.WriteFile(path, data, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("cannot write the login: %w", err)
	}
	return nil
}

func (l *login) connect() (*client.Client, error) {
	pin, err := client.ParseCASHA256(l.CASHA256)
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{Server: l.Server, ServerName: l.ServerName, Token: l.Token, CASHA256: pin})
}

func (a *app) configPath() (string, error) {
	dir := a.getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home := a.getenv("HOME")
		if home == "" {
			return "", errors.New("cannot find where the login is kept: neither XDG_CONFIG_HOME nor HOME is set")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "dhow", "config.yaml"), nil
}

var errNotLoggedIn = errors.New(`not logged in: run
  dhow login --server HOST:PORT --ca-sha256 HEX --token-file FILE
with what dhow-fleet init printed, or set DHOW_SERVER, DHOW_CA_SHA256 and DHOW_TOKEN`)

// login returns the stored login, each part overridden by the environment.
func (a *app) login() (*login, error) {
	var l login
	path, err := a.configPath()
	if err == nil {
		err = l.load(path, a.err)
	}
	for name, field := range map[string]*string{"DHOW_SERVER": &l.Server, "DHOW_TOKEN": &l.Token, "DHOW_CA_SHA256": &l.CASHA256, "DHOW_SERVER_NAME": &l.ServerName} {
		if v := a.getenv(name); v != "" {
			*field = v
		}
	}
	if l.Server != "" && l.Token != "" && l.CASHA256 != "" {
		return &l, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return nil, errNotLoggedIn
}

func (l *login) load(path string, warnings io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot read the login: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
		fmt.Fprintf(warnings, "dhow: warning: %s holds your token and others can read it: chmod 600 it\n", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return fmt.Errorf("cannot read the login: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(l); err != nil && !errors.Is(err, io.EOF) {
		// What the decoder says may quote the token.
		return fmt.Errorf("cannot read the login in %s: it is damaged; log in again", path)
	}
	return nil
}
