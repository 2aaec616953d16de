package transport

import (
	"sync"
	"time"
)

// Winner is which protocol won on a network, and when.
type Winner struct {
	Protocol string // HTTP3 or HTTP2
	At       time.Time
	// Demotions counts how often QUIC was given up on this network after it had connected, without having been of use
	// since. Each doubles the time until it is tried again.
	Demotions int
}

// WinnerMemory remembers winners by network. A network is an opaque string of less than 400 bytes. Both methods are
// called from several goroutines and must not block for long; forgetting does no harm.
type WinnerMemory interface {
	Get(network string) (Winner, bool)
	Put(network string, w Winner)
}

const maxNetworks = 64

// NewMemory returns a WinnerMemory that lasts as long as the process.
func NewMemory() WinnerMemory { return &memory{winners: map[string]Winner{}} }

type memory struct {
	mu      sync.Mutex
	winners map[string]Winner
}

func (m *memory) Get(network string) (Winner, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w, ok := m.winners[network]
	return w, ok
}

func (m *memory) Put(network string, w Winner) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.winners[network]; !known && len(m.winners) >= maxNetworks {
		oldest := ""
		for n, w := range m.winners {
			if oldest == "" || w.At.Before(m.winners[oldest].At) {
				oldest = n
			}
		}
		delete(m.winners, oldest)
	}
	m.winners[network] = w
}

const maxDemotions = 7 // 10 minutes doubled so often are close to a day

// retryQUIC says whether QUIC should be tried on a network that w was remembered of. A time in the future is of a
// clock that has been set since.
func retryQUIC(w Winner, known bool, now time.Time, every time.Duration) bool {
	if !known || w.Protocol != HTTP2 {
		return true
	}
	age := now.Sub(w.At)
	return age < 0 || age >= every<<min(max(w.Demotions, 0), maxDemotions)
}
