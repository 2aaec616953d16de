package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/dhowfleet/dhow/fleet/client"
	"github.com/dhowfleet/dhow/models/bundle"
	"github.com/dhowfleet/dhow/protocol/backoff"
	"github.com/dhowfleet/dhow/protocol/transport"
)

// pushAttempts is how often one file is tried before a push gives up; what arrived before stays at the manager.
const pushAttempts = 4

// pushStall is how long nothing may move before an attempt is given up.
const pushStall = time.Minute

func (a *app) newModel() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "model",
		Short: "Publish models",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.newModelPush())
	return cmd
}

func (a *app) newModelPush() *cobra.Command {
	var version, output string
	cmd := &cobra.Command{
		Use:   "push DIR",
		Short: "Check a bundle and publish it as a version of its model",
		Long: `Check a bundle (a folder with a bundle.yaml) and publish it at the manager as a version of its model. Name and version
are those of bundle.yaml; --version publishes it under another version. A version never changes: pushing the same
files again does nothing, pushing others under the same version is refused.
An interrupted push is simply repeated: what arrived is not sent again.`,
		Args: wantArgs(false, "DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := oneOf("output", output, "text", "json"); err != nil {
				return err
			}
			p, err := a.prepare(args[0], version)
			if err != nil {
				return err
			}
			return a.withClient(func(c *client.Client) error { return a.push(cmd.Context(), c, p, output) })
		},
	}
	cmd.Flags().StringVar(&version, "version", "", "publish under this version (default: that of bundle.yaml)")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "one of text, json")
	return cmd
}

// prepared is a checked bundle with all that is pushed of it.
type prepared struct {
	files            fs.FS
	bundle           *bundle.Bundle
	manifest, config []byte
}

func (p *prepared) repository() string { return "models/" + p.bundle.Spec.Name }
func (p *prepared) digest() digest.Digest {
	return digest.FromBytes(p.manifest)
}

// prepare loads a bundle's folder, checks it and hashes its files, without speaking to anybody.
func (a *app) prepare(dir, version string) (*prepared, error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is no folder: a bundle is the folder that bundle.yaml lies in", dir)
	}
	p := &prepared{files: os.DirFS(dir)}
	var err error
	if version != "" {
		if p.files, err = withVersion(p.files, version); err != nil {
			return nil, err
		}
	}
	if p.bundle, err = bundle.Load(p.files); err != nil {
		return nil, fmt.Errorf("the bundle %s is not fit to be published: %w", dir, err)
	}
	if err := p.bundle.Hash(p.files); err != nil {
		return nil, fmt.Errorf("cannot read the bundle: %w", err)
	}
	if p.manifest, p.config, err = p.bundle.Manifest(); err != nil {
		return nil, fmt.Errorf("cannot describe the bundle: %w", err)
	}
	return p, nil
}

func (a *app) push(ctx context.Context, c *client.Client, p *prepared, output string) error {
	spec := p.bundle.Spec
	repository, err := remote.NewRepository(c.Server() + "/" + p.repository())
	if err != nil {
		return fmt.Errorf("cannot address the registry: %w", err)
	}
	repository.Client = c.HTTP()
	repository.SkipReferrersGC = true

	there, err := a.resolve(ctx, repository, spec.Version)
	if err != nil {
		return explainPush(c, err)
	}
	manifest := ocispec.Descriptor{MediaType: bundle.MediaTypeManifest, ArtifactType: bundle.ArtifactType, Digest: p.digest(), Size: int64(len(p.manifest))}
	switch there {
	case p.digest():
		// The registry has it all. Its tag is set once more, which records the version again where its Model was deleted
		// or the manager died between the two.
		if err := repository.PushReference(ctx, manifest, bytes.NewReader(p.manifest), spec.Version); err != nil {
			return explainPush(c, err)
		}
		return a.pushed(p, "was already published", output)
	case "":
	default:
		return fmt.Errorf("version %q of model %s is published already with other content (%s, this is %s): publish this under a new version", spec.Version, spec.Name, there, p.digest())
	}
	progress := newProgress(a.err, p.bundle.Files)
	for _, f := range p.bundle.Files {
		open := func() (io.ReadCloser, error) { return p.files.Open(f.Path) }
		if err := pushBlob(ctx, repository, f.Path, f.Digest, f.Size, open, progress); err != nil {
			return explainPush(c, err)
		}
	}
	config := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.config)), nil }
	if err := pushBlob(ctx, repository, "", digest.FromBytes(p.config), int64(len(p.config)), config, progress); err != nil {
		return explainPush(c, err)
	}
	if err := repository.PushReference(ctx, manifest, bytes.NewReader(p.manifest), spec.Version); err != nil {
		return explainPush(c, err)
	}
	return a.pushed(p, "published", output)
}

// resolve returns the digest that a version has at the manager, "" when it is not there.
func (a *app) resolve(ctx context.Context, repository registry.Repository, version string) (digest.Digest, error) {
	ctx, cancel := a.call(ctx)
	defer cancel()
	d, err := repository.Resolve(ctx, version)
	if errors.Is(err, errdef.ErrNotFound) {
		return "", nil
	}
	return d.Digest, err
}

func (a *app) pushed(p *prepared, how, output string) error {
	spec := p.bundle.Spec
	if output == "json" {
		return a.write(fmt.Appendf(nil, "{\n  \"model\": %q,\n  \"version\": %q,\n  \"digest\": %q\n}\n", spec.Name, spec.Version, p.digest()))
	}
	fmt.Fprintf(a.out, "model/%s version %s %s\n%s\n", spec.Name, spec.Version, how, p.digest())
	return nil
}

// pushBlob sends one file unless the manager has it, and tries again when the line breaks.
func pushBlob(ctx context.Context, repository registry.Repository, name string, d digest.Digest, n int64, open func() (io.ReadCloser, error), progress *progress) error {
	descriptor := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: n}
	var pause backoff.Backoff
	for attempt := 1; ; attempt++ {
		err := tryBlob(ctx, repository, descriptor, name, open, progress)
		if err == nil || ctx.Err() != nil || attempt == pushAttempts || !worthAnotherTry(err) {
			return err
		}
		progress.say("%s: %v; trying again", name, err)
		if err := pause.Wait(ctx, 0); err != nil {
			return err
		}
	}
}

func tryBlob(ctx context.Context, repository registry.Repository, d ocispec.Descriptor, name string, open func() (io.ReadCloser, error), progress *progress) error {
	there, err := repository.Blobs().Exists(ctx, d)
	if err != nil {
		return err
	}
	if there {
		progress.done(name, d.Size, "was there")
		return nil
	}
	content, err := open()
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", name, err)
	}
	defer content.Close()
	// A large file may take as long as it moves.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := time.AfterFunc(pushStall, func() { cancel(errStalled{}) })
	defer stalled.Stop()
	moving := &movingReader{next: progress.reader(name, d.Size, content), moved: func() { stalled.Reset(pushStall) }}
	err = repository.Blobs().Push(ctx, d, moving)
	if err != nil && !errors.Is(err, errdef.ErrAlreadyExists) {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	progress.done(name, d.Size, "sent")
	return nil
}

// errStalled ends a transfer in which nothing moves; Timeout tells the transport that the network is to blame.
type errStalled struct{}

func (errStalled) Error() string { return fmt.Sprintf("nothing moved for %s", pushStall) }
func (errStalled) Timeout() bool { return true }

type movingReader struct {
	next  io.Reader
	moved func()
}

func (r *movingReader) Read(b []byte) (int, error) {
	n, err := r.next.Read(b)
	r.moved()
	return n, err
}

// worthAnotherTry: the way broke, or the manager was busy; not: it refused.
func worthAnotherTry(err error) bool {
	var refusal *errcode.ErrorResponse
	if errors.As(err, &refusal) {
		return refusal.StatusCode >= http.StatusInternalServerError || refusal.StatusCode == http.StatusTooManyRequests
	}
	return !errors.Is(err, transport.ErrUntrusted) && !errors.Is(err, fs.ErrNotExist)
}

// explainPush says what the registry's refusal means.
func explainPush(c *client.Client, err error) error {
	var refusal *errcode.ErrorResponse
	if !errors.As(err, &refusal) {
		return c.Explain(err)
	}
	text := ""
	for _, e := range refusal.Errors {
		if text != "" {
			text += "; "
		}
		text += e.Message
	}
	switch {
	case text != "":
	case refusal.StatusCode == http.StatusUnauthorized: // the answer to a HEAD has no text
		text = "the token is not known to this manager: log in again with dhow login"
	default:
		text = strings.ToLower(http.StatusText(refusal.StatusCode))
	}
	return fmt.Errorf("the manager refused the push: %s", text)
}

// progress tells how far a push is: a line for each file, and on a terminal a line that moves.
type progress struct {
	out      io.Writer
	terminal bool
	width    int
	last     time.Time
}

func newProgress(out io.Writer, files []bundle.File) *progress {
	p := &progress{out: out}
	for _, f := range files {
		p.width = max(p.width, len(f.Path))
	}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *progress) say(format string, args ...any) {
	clear := ""
	if p.terminal {
		clear = "\r\x1b[K"
	}
	fmt.Fprintf(p.out, clear+format+"\n", args...)
}

func (p *progress) done(name string, n int64, how string) {
	if name != "" {
		p.say("  %-*s  %9s  %s", p.width, name, size(uint64(n)), how)
	}
}

func (p *progress) reader(name string, n int64, r io.Reader) io.Reader {
	if !p.terminal || name == "" {
		return r
	}
	return &progressReader{progress: p, name: name, size: n, next: r}
}

type progressReader struct {
	progress   *progress
	name       string
	size, read int64
	next       io.Reader
}

func (r *progressReader) Read(b []byte) (int, error) {
	n, err := r.next.Read(b)
	r.read += int64(n)
	if now := time.Now(); now.Sub(r.progress.last) > 200*time.Millisecond {
		r.progress.last = now
		fmt.Fprintf(r.progress.out, "\r\x1b[K  %-*s  %9s  %.0f%%", r.progress.width, r.name, size(uint64(r.size)), 100*float64(r.read)/float64(max(r.size, 1)))
	}
	return n, err
}
