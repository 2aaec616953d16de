package openinference

import (
	"net/http"
	"sync/atomic"
)

// Budget bounds the memory of all requests in flight, over all forms in which they come. It is safe for concurrent use.
type Budget struct {
	limit int64
	used  atomic.Int64
}

// NewBudget returns a budget of so many bytes.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit} }

// Reserve takes n bytes, or none and returns an error that says to try again later.
func (b *Budget) Reserve(n int64) error {
	if b.used.Add(n) > b.limit {
		b.used.Add(-n)
		return &apiError{
			status:  http.StatusServiceUnavailable,
			message: "too much memory is in use by other requests; try again later", retry: true,
		}
	}
	return nil
}

// Release gives back what Reserve took.
func (b *Budget) Release(n int64) { b.used.Add(-n) }
