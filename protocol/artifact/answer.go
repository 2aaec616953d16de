package artifact

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

var (
	errSlowHeader = errors.New("no answer within the deadline")
	errSlowBody   = errors.New("bytes came slower than the least rate")
)

// answer is a response whose body is watched: it must deliver at least so many bytes in each window.
type answer struct {
	*http.Response
	ctx    context.Context
	cancel context.CancelCauseFunc
	bytes  atomic.Int64
}

// get sends a GET. The answer must be closed.
func (s *settings) get(ctx context.Context, url string, header http.Header) (*answer, error) {
	watched, cancel := context.WithCancelCause(ctx)
	a := &answer{ctx: watched, cancel: cancel}
	request, err := http.NewRequestWithContext(watched, http.MethodGet, url, nil)
	if err != nil {
		cancel(nil)
		return nil, fmt.Errorf("cannot pull: %w", err)
	}
	for name, values := range header {
		request.Header[name] = values
	}
	// Bytes are counted and compared with sizes in the manifest; nothing may be compressed on the way.
	request.Header.Set("Accept-Encoding", "identity")
	timer := time.AfterFunc(s.headerTimeout, func() { cancel(errSlowHeader) })
	a.Response, err = s.client.Do(request) //nolint:bodyclose // answer.close closes it.
	timer.Stop()
	if err != nil {
		err = failedRequest(ctx, a.cause(err))
		cancel(nil)
		return nil, err
	}
	go a.watch(s.rateWindow, s.leastBytes)
	return a, nil
}

// watch cancels the answer when a window passes with too few bytes. It ends with the answer.
func (a *answer) watch(window time.Duration, least int64) {
	ticker := time.NewTicker(window)
	defer ticker.Stop()
	for seen := int64(0); ; {
		select {
		case <-a.ctx.Done():
			return
		case <-ticker.C:
			now := a.bytes.Load()
			if now-seen < least {
				a.cancel(errSlowBody)
				return
			}
			seen = now
		}
	}
}

// Read reads the body and says why it was cut off, if it was by us.
func (a *answer) Read(p []byte) (int, error) {
	n, err := a.Body.Read(p)
	a.bytes.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = a.cause(err)
	}
	return n, err
}

// cause prefers the reason for which we gave up over the error that giving up produced.
func (a *answer) cause(err error) error {
	if cause := context.Cause(a.ctx); cause != nil {
		return cause
	}
	return err
}

func (a *answer) close() {
	a.cancel(context.Canceled)
	a.Body.Close()
}

// failedRequest classes the error of a request that got no answer. ctx is the caller's.
func failedRequest(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot pull: %w", context.Cause(ctx))
	}
	if errors.Is(err, errRedirect) {
		return &unavailable{reason: "the registry sends us elsewhere, which is not followed", cause: err}
	}
	return &unavailable{reason: "cannot reach the registry", cause: err}
}

// tooSlow reports whether we gave up on an answer because it came too slowly.
func tooSlow(err error) bool {
	var u *unavailable
	return errors.As(err, &u) && errors.Is(u.cause, errSlowBody)
}

// refusal turns an answer that is no success into an error.
func (s *settings) refusal(a *answer) error {
	reason := fmt.Sprintf("the registry answers %d%s", a.StatusCode, firstError(a))
	switch a.StatusCode {
	case http.StatusNotFound, http.StatusGone:
		return fmt.Errorf("%w: %s", ErrNotFound, reason)
	case http.StatusUnauthorized, http.StatusForbidden:
		return &unavailable{reason: reason + "; this node may not pull it"}
	}
	return &unavailable{reason: reason, retryAfter: s.retryAfter(a.Header.Get("Retry-After"))}
}

// retryAfter reads seconds or a date.
func (s *settings) retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, s.maxRetryAfter)
	}
	if at, err := http.ParseTime(value); err == nil {
		return min(max(time.Until(at), 0), s.maxRetryAfter)
	}
	return 0
}

// firstError returns the code and message of an OCI error body, shortened and made printable, or nothing.
func firstError(a *answer) string {
	data, _ := io.ReadAll(io.LimitReader(a, 16<<10))
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(data, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	text := []rune(body.Errors[0].Code + ": " + body.Errors[0].Message)
	if len(text) > 200 {
		text = append(text[:200], '…')
	}
	return " (" + strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return ' '
	}, string(text)) + ")"
}
