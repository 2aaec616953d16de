package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/dhowfleet/dhow/agent/config"
	"github.com/dhowfleet/dhow/agent/localapi"
)

// statusSource is where the status is read, and as whom.
type statusSource struct {
	listen  string // host:port, unix:/path, or https://host:port
	keyFile string
	caFile  string
}

func newStatusCommand() *cobra.Command {
	var from statusSource
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the agent on this machine is",
		Long: `Show how the agent on this machine is: what it serves, how fast it answers, and what is wrong with the
remedy for it. The same is on the page at http://` + config.Default().Listen + `/dhow/ in a browser.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "json" && output != "text" {
				return usageError{fmt.Errorf("--output %q is not text or json", output)}
			}
			d, err := from.fetch(cmd.Context())
			if err != nil {
				return err
			}
			if output == "text" {
				return printStatus(cmd.OutOrStdout(), d, time.Now())
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(d)
		},
	}
	cmd.Flags().StringVar(&from.listen, "listen", config.Default().Listen, "where the agent listens: host:port, unix:/path, or https://host:port")
	cmd.Flags().StringVar(&from.keyFile, "key-file", "", "file with a key, where the agent wants one for its status")
	cmd.Flags().StringVar(&from.caFile, "ca-file", "", "file with the certificates to trust for https (default: the system's)")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// maxSecret bounds what is read of a file with a key or certificates.
const maxSecret = 1 << 20

// fetch asks the agent.
func (s statusSource) fetch(ctx context.Context) (localapi.Document, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	transport, base, err := s.transport()
	if err != nil {
		return localapi.Document{}, err
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+localapi.Path, nil)
	if err != nil {
		return localapi.Document{}, usageError{fmt.Errorf("--listen: %w", err)}
	}
	if s.keyFile != "" {
		key, err := readBounded(s.keyFile)
		if err != nil {
			return localapi.Document{}, fmt.Errorf("cannot read the key: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(key)))
	}
	// A key goes to the agent that was named and to no other.
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		return localapi.Document{}, fmt.Errorf("no agent answers on %s; is it running, and does it listen there? %w", s.listen, err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusUnauthorized, http.StatusForbidden:
		return localapi.Document{}, fmt.Errorf("the agent on %s does not show its status to this caller (%s); give a key whose groups have status with --key-file, or start the agent with --anonymous, which lets callers on this machine in without one", s.listen, resp.Status)
	case http.StatusBadRequest:
		if resp.Request.URL.Scheme == "http" && wantsTLS(resp.Body) {
			return localapi.Document{}, fmt.Errorf("the agent on %s wants TLS; ask it with --listen https://%s, by a name that its certificate has, and --ca-file when this machine does not trust who issued it", s.listen, strings.TrimPrefix(s.listen, "http://"))
		}
		fallthrough
	default:
		return localapi.Document{}, fmt.Errorf("what listens on %s is no agent that is well: it answers %s", s.listen, resp.Status)
	}
	d, err := localapi.Read(resp.Body)
	if err != nil {
		return localapi.Document{}, fmt.Errorf("cannot read the status: %w", err)
	}
	return d, nil
}

// wantsTLS reports whether a body is what Go's servers answer to plain HTTP where they expect TLS.
func wantsTLS(body io.Reader) bool {
	text, _ := io.ReadAll(io.LimitReader(body, 256)) // what came of it is enough
	return strings.Contains(string(text), "HTTP request to an HTTPS server")
}

// transport returns the way to the agent, and the beginning of its addresses.
func (s statusSource) transport() (*http.Transport, string, error) {
	t := &http.Transport{}
	if path, ok := strings.CutPrefix(s.listen, "unix:"); ok {
		if path == "" {
			return nil, "", usageError{errors.New("--listen unix: needs the path of a socket, such as unix:/run/dhow/agent.sock")}
		}
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		return t, "http://localhost", nil
	}
	if !strings.HasPrefix(s.listen, "https://") {
		return t, "http://" + strings.TrimPrefix(s.listen, "http://"), nil
	}
	if s.caFile != "" {
		pem, err := readBounded(s.caFile)
		if err != nil {
			return nil, "", fmt.Errorf("cannot read the certificates: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("cannot read the certificates: %s has none in PEM form", s.caFile)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return t, strings.TrimSuffix(s.listen, "/"), nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(data) > maxSecret {
		err = fmt.Errorf("%s has more than %d bytes", path, maxSecret)
	}
	return data, err
}

func printStatus(out io.Writer, d localapi.Document, now time.Time) error {
	return localapi.WriteText(out, d, now)
}
