package registry

import (
	"context"
	"net/http"
	"sync"
)

// ledger counts the bytes of unfinished uploads, which the index learns of only afterwards.
type ledger struct {
	mu   sync.Mutex
	open map[string]charge // by session
}

type charge struct {
	repository string
	bytes      int64
}

// begin books a new session unless there are too many.
func (l *ledger) begin(id, repository string, most int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) >= most {
		return false
	}
	l.open[id] = charge{repository, 0}
	return true
}

// set books how much a session holds.
func (l *ledger) set(id, repository string, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[id] = charge{repository, bytes}
}

func (l *ledger) end(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, id)
}

// sums returns the bytes held by the sessions of one repository and by all.
func (l *ledger) sums(repository string) (ofRepository, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		total += c.bytes
		if c.repository == repository {
			ofRepository += c.bytes
		}
	}
	return ofRepository, total
}

// allowance is what the index said of a repository when a request began; what moves since is in the ledger.
type allowance struct {
	r                *Registry
	repository       string
	committed, total int64
}

func (r *Registry) allowance(ctx context.Context, repository string) (*allowance, error) {
	a := &allowance{r: r, repository: repository}
	if r.Quota == (Quota{}) {
		return a, nil
	}
	var err error
	a.committed, a.total, err = r.Index.Usage(ctx, repository)
	return a, err
}

// fits refuses when so many bytes more than are committed or being uploaded would exceed a quota: of the repository, and
// of the registry, for which content that another repository has is nothing new.
func (a *allowance) fits(n, fresh int64) error {
	quota := a.r.Quota
	if quota == (Quota{}) {
		return nil
	}
	inRepository, inAll := a.r.ledger.sums(a.repository)
	if most := quota.RepositoryBytes; most > 0 && n > most-a.committed-inRepository {
		return &fault{
			status: http.StatusRequestEntityTooLarge, code: "QUOTA_EXCEEDED",
			message: "the repository's quota is used up; delete versions that are no longer used (their space is free after the next collections), or ask for a larger quota",
			detail:  map[string]any{"repository": a.repository, "used": a.committed + inRepository, "quota": most},
		}
	}
	if most := quota.TotalBytes; most > 0 && fresh > most-a.total-inAll {
		return &fault{
			status: http.StatusRequestEntityTooLarge, code: "QUOTA_EXCEEDED",
			message: "the registry's quota is used up; delete models that are no longer used (their space is free after the next collections), or raise the quota",
			detail:  map[string]any{"used": a.total + inAll, "quota": most},
		}
	}
	return nil
}
