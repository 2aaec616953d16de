package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dhowfleet/dhow/models/blob"
	"github.com/dhowfleet/dhow/test/failpoint"
)

const (
	bufferSize = 64 << 10
	// progressEvery is how many bytes pass between two calls of a progress function.
	progressEvery = 256 << 10
	// maxBreaks is how many connections one call may lose after progress before the caller is asked.
	maxBreaks = 100
	// Before the n-th lost connection is replaced, up to firstWait·2ⁿ pass, at most longestWait, at random.
	firstWait   = 20 * time.Millisecond
	longestWait = 2 * time.Second
)

// repositoryName is the grammar of the OCI distribution specification. It keeps a name from being more than a path.
var repositoryName = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

func (s *settings) resource(repository, kind string, d digest.Digest) (string, error) {
	if err := blob.Check(d); err != nil {
		return "", err
	}
	if len(repository) > 255 || !repositoryName.MatchString(repository) {
		return "", fmt.Errorf("cannot pull: %q is not a repository's name", repository)
	}
	return s.base + "/v2/" + repository + "/" + kind + "/" + d.String(), nil
}

// Manifest returns the manifest d of a repository, from the store if it is there. What was fetched is kept in the store,
// so that a node that starts without a network still knows what its copies consist of.
func (p *Puller) Manifest(ctx context.Context, repository string, d digest.Digest) ([]byte, error) {
	s, err := p.settings()
	if err != nil {
		return nil, err
	}
	url, err := s.resource(repository, "manifests", d)
	if err != nil {
		return nil, err
	}
	data, err := p.Store.Read(d, MaxManifest)
	if err == nil {
		return data, nil
	}
	if !errors.Is(err, blob.ErrNotFound) && !errors.Is(err, blob.ErrCorrupt) {
		return nil, err
	}
	data, err = s.manifest(ctx, url, d, false)
	if errors.Is(err, ErrDigestMismatch) {
		data, err = s.manifest(ctx, url, d, true)
	}
	if err != nil {
		return nil, err
	}
	return data, p.Store.Put(ctx, bytes.NewReader(data), d, int64(len(data)))
}

func (s *settings) manifest(ctx context.Context, url string, d digest.Digest, again bool) ([]byte, error) {
	header := http.Header{"Accept": {v1.MediaTypeImageManifest + ", " + v1.MediaTypeImageIndex}}
	if again {
		header.Set("Cache-Control", "no-cache")
	}
	a, err := s.get(ctx, url, header)
	if err != nil {
		return nil, err
	}
	defer a.close()
	if a.StatusCode != http.StatusOK {
		return nil, s.refusal(a)
	}
	data, err := io.ReadAll(io.LimitReader(a, MaxManifest+1))
	if err != nil {
		return nil, failedRequest(ctx, err)
	}
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("%w: the manifest has more than %d bytes", ErrDigestMismatch, MaxManifest)
	}
	if got := d.Algorithm().FromBytes(data); got != d {
		if contentType := a.Header.Get("Content-Type"); strings.HasPrefix(contentType, "text/") {
			return nil, &unavailable{reason: "something answers with a page of " + contentType + " in the registry's place"}
		}
		return nil, fmt.Errorf("%w: manifest %s came as %s", ErrDigestMismatch, d, got)
	}
	return data, nil
}

// Blob brings blob d of a repository, size bytes long, into the store; one that is there costs nothing. progress, if not
// nil, is called with the bytes that are there, at the start, about every 256 KiB and at the end, from this goroutine;
// it falls back to zero when content proved wrong and is pulled again.
func (p *Puller) Blob(ctx context.Context, repository string, d digest.Digest, size int64, progress func(done int64)) error {
	s, err := p.settings()
	if err != nil {
		return err
	}
	url, err := s.resource(repository, "blobs", d)
	if err != nil {
		return err
	}
	if progress == nil {
		progress = func(int64) {}
	}
	pull := &blobPull{settings: s, url: url, size: size, progress: progress}
	if pull.w, err = p.Store.Resume(d, size); err != nil {
		return err
	}
	defer func() { _ = pull.w.Close() }() // What could not be recorded is pulled again.
	for {
		err := pull.all(ctx, d)
		if !errors.Is(err, ErrDigestMismatch) || pull.again {
			return err
		}
		// Pieces of several answers may not fit together, and an intermediary may have spoilt one: only content that is
		// wrong twice is held against the artifact.
		s.logger.LogAttrs(ctx, slog.LevelWarn, "pulled content does not match its digest, pulling again", slog.String("digest", d.String()))
		pull.again = true
		w, err := p.Store.Resume(d, size)
		if err != nil {
			return err
		}
		pull.w = w
	}
}

// blobPull is one call of Blob.
type blobPull struct {
	settings
	url      string
	w        *blob.Writer
	size     int64
	progress func(int64)
	// again: the content was wrong once.
	again bool
}

// all brings what is missing over as many connections as it takes, as long as each brings something, and commits it.
func (b *blobPull) all(ctx context.Context, d digest.Digest) error {
	b.progress(b.w.Offset())
	for breaks := 1; ; breaks++ {
		before := b.w.Offset()
		err := b.attempt(ctx)
		if err == nil {
			break
		}
		gained := b.w.Offset() - before
		if !errors.Is(err, ErrUnavailable) || gained <= 0 || tooSlow(err) && gained < b.leastBytes || breaks == maxBreaks {
			return err
		}
		b.logger.LogAttrs(ctx, slog.LevelInfo, "pull goes on over a new connection", slog.String("digest", d.String()),
			slog.Int64("offset", b.w.Offset()), slog.Int64("size", b.size), slog.String("error", err.Error()))
		if err := sleep(ctx, rand.N(min(firstWait<<min(breaks, 16), longestWait))); err != nil {
			return err
		}
	}
	if err := b.w.Commit(); err != nil {
		return err
	}
	b.progress(b.size)
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot pull: %w", context.Cause(ctx))
	}
}

// attempt makes one request for what is missing and writes what comes. nil: all bytes are there.
func (b *blobPull) attempt(ctx context.Context) error {
	if b.w.Offset() == b.size {
		return nil
	}
	header := http.Header{}
	if b.again {
		header.Set("Cache-Control", "no-cache")
	}
	if offset := b.w.Offset(); offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	a, err := b.get(ctx, b.url, header)
	if err != nil {
		return err
	}
	defer a.close()
	if encoding := a.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return &unavailable{reason: "the answer is encoded as " + encoding}
	}
	skip := int64(0)
	switch a.StatusCode {
	case http.StatusOK:
		// Range was ignored: what we have is read again and thrown away.
		skip = b.w.Offset()
		if a.ContentLength >= 0 && a.ContentLength != b.size {
			return &unavailable{reason: fmt.Sprintf("the answer has %d bytes, the blob %d", a.ContentLength, b.size)}
		}
	case http.StatusPartialContent:
		first, total, ok := contentRange(a.Header.Get("Content-Range"))
		if !ok || first != b.w.Offset() || total >= 0 && total != b.size {
			return &unavailable{reason: fmt.Sprintf("asked for bytes from %d of %d, the answer is %q", b.w.Offset(), b.size, a.Header.Get("Content-Range"))}
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return &unavailable{reason: fmt.Sprintf("the registry's blob ends before byte %d of %d (%s)", b.w.Offset(), b.size, a.Header.Get("Content-Range"))}
	default:
		return b.refusal(a)
	}
	if skip > 0 {
		if _, err := io.CopyN(io.Discard, a, skip); err != nil {
			return cutOff(ctx, err, skip, b.size)
		}
	}
	return b.copy(ctx, a)
}

// copy writes the body until all bytes are there.
func (b *blobPull) copy(ctx context.Context, a *answer) error {
	buffer := make([]byte, bufferSize)
	told := b.w.Offset()
	for b.w.Offset() < b.size {
		n, err := a.Read(buffer[:min(int64(len(buffer)), b.size-b.w.Offset())])
		if n > 0 {
			if _, err := b.w.Write(buffer[:n]); err != nil {
				return err
			}
			failpoint.Here("artifact/bytes-written")
			if b.w.Offset()-told >= progressEvery {
				told = b.w.Offset()
				b.progress(told)
			}
		}
		if err != nil && b.w.Offset() < b.size {
			return cutOff(ctx, err, b.w.Offset(), b.size)
		}
	}
	return nil
}

// cutOff classes the end of a body that came too early.
func cutOff(ctx context.Context, err error, offset, size int64) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot pull: %w", context.Cause(ctx))
	}
	return &unavailable{reason: fmt.Sprintf("the connection ended at byte %d of %d", offset, size), cause: err}
}

// contentRange reads "bytes first-last/total"; total is -1 for "*".
func contentRange(value string) (first, total int64, ok bool) {
	value, ok = strings.CutPrefix(value, "bytes ")
	span, all, cut := strings.Cut(value, "/")
	from, _, dash := strings.Cut(span, "-")
	if !ok || !cut || !dash {
		return 0, 0, false
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil || first < 0 {
		return 0, 0, false
	}
	if all == "*" {
		return first, -1, true
	}
	total, err = strconv.ParseInt(all, 10, 64)
	return first, total, err == nil && total >= 0
}
