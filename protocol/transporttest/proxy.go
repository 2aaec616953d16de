// Package transporttest puts weather between a client and a server: a proxy on loopback that carries TCP and UDP on one
// port number and delays, loses, reorders, duplicates, throttles or swallows what passes, each way by itself.
//
//	p, err := transporttest.NewProxy(server.Addr())
//	p.Set(transporttest.Weather{UDP: transporttest.Both(transporttest.Path{Blackhole: true})})
//	client.Address = p.Address()
//
// Chance comes from a generator that is seeded by Weather.Seed, so that a run can be repeated as far as the order of
// packets allows. What is under way keeps the delay it was given; what arrives after Set gets the new weather. TCP is a
// stream, so a path that loses packets delays it instead, and what a black hole swallowed arrives when it ends, as TCP
// would send it again.
//
// A Proxy may be used from any goroutine. Set does not block. Close ends all that runs.
package transporttest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Path is the weather of one direction. The zero value lets everything through at once.
type Path struct {
	Delay  time.Duration
	Jitter time.Duration // up to so much more, uniformly; UDP packets overtake each other only by Reorder
	// Loss, Duplicate and Reorder are probabilities from 0 to 1 for each UDP packet. A reordered packet is held back for
	// ReorderBy (10 ms when zero), so that those behind it overtake it. TCP is held for TCPPenalty per lost chunk.
	Loss      float64
	Duplicate float64
	Reorder   float64
	ReorderBy time.Duration
	// MaxPacket drops UDP packets with more bytes of payload, as a tunnel does that swallows what does not fit; 0: none.
	MaxPacket int
	// BytesPerSecond is the capacity; 0: no limit.
	BytesPerSecond int
	// Blackhole swallows everything.
	Blackhole bool
}

// Link is the weather of one protocol.
type Link struct {
	Up, Down Path // from client to server, and back
	// Refuse, for TCP, closes new connections at once, as a firewall does that answers.
	Refuse bool
}

// Both returns a link with the same weather each way.
func Both(p Path) Link { return Link{Up: p, Down: p} }

// Weather is what Set sets.
type Weather struct {
	UDP, TCP Link
	Seed     uint64
}

// All returns weather that is the same for both protocols and both directions.
func All(p Path) Weather { return Weather{UDP: Both(p), TCP: Both(p)} }

// BlockUDP returns fair weather but for UDP, which is swallowed.
func BlockUDP() Weather { return Weather{UDP: Both(Path{Blackhole: true})} }

// TCPPenalty is how long a chunk of TCP that "was lost" is late: the least time after which TCP sends again.
const TCPPenalty = 200 * time.Millisecond

const (
	// maxQueue bounds the packets under way in one direction of a flow; a full queue drops, like a router's.
	maxQueue = 8192
	// maxFlows bounds the clients of a proxy.
	maxFlows = 4096
)

// Proxy carries one port of both protocols.
type Proxy struct {
	tcp  net.Listener
	udp  *net.UDPConn
	done chan struct{}
	wg   sync.WaitGroup

	mu      sync.Mutex
	target  string
	weather Weather
	changed chan struct{} // closed when weather changes
	random  *rand.Rand
	flows   map[string]*flow
	streams map[*stream]struct{}
	stats   Stats
	passing int // until next takes the place of target
	next    string
	closed  bool
}

// Stats counts what a proxy has seen.
type Stats struct {
	UDPPackets, UDPDropped int // either way
	TCPConnections         int
}

// NewProxy listens on a free port of 127.0.0.1 and carries what comes to target, "host:port".
func NewProxy(target string) (*Proxy, error) {
	for range 16 {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("cannot listen: %w", err)
		}
		addr, ok := tcp.Addr().(*net.TCPAddr)
		if !ok {
			_ = tcp.Close()
			return nil, fmt.Errorf("unexpected address %v", tcp.Addr())
		}
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: addr.IP, Port: addr.Port})
		if err != nil {
			_ = tcp.Close()
			continue // the port is taken on this side; the next one will be free
		}
		p := &Proxy{
			tcp: tcp, udp: udp, done: make(chan struct{}), target: target, changed: make(chan struct{}),
			random: rand.New(rand.NewPCG(0, 0)), flows: map[string]*flow{}, streams: map[*stream]struct{}{},
		}
		p.wg.Go(p.acceptTCP)
		p.wg.Go(p.readUDP)
		return p, nil
	}
	return nil, fmt.Errorf("cannot listen: found no port that is free for both protocols")
}

// Address is where clients connect to.
func (p *Proxy) Address() string { return p.tcp.Addr().String() }

// Set changes the weather and seeds chance anew.
func (p *Proxy) Set(w Weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weather = w
	p.random = rand.New(rand.NewPCG(w.Seed, 0))
	close(p.changed)
	p.changed = make(chan struct{})
}

// SetTarget sends new connections and flows to another server; those that are open stay.
func (p *Proxy) SetTarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// SetTargetAfter lets n more UDP packets pass, in either direction, and then does as SetTarget and Rebind do at once: to
// the client it is as if the server had been killed between two packets and had come back.
func (p *Proxy) SetTargetAfter(n int, target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.passing, p.next = n, target
}

// Rebind makes the server see every UDP client at a new port, as a router does that forgot its flows.
func (p *Proxy) Rebind() {
	p.mu.Lock()
	flows := p.flows
	p.flows = map[string]*flow{}
	p.mu.Unlock()
	for _, f := range flows {
		f.close()
	}
}

// Cut breaks all TCP connections and forgets all UDP flows.
func (p *Proxy) Cut() {
	p.Rebind()
	p.mu.Lock()
	streams := p.streams
	p.streams = map[*stream]struct{}{}
	p.mu.Unlock()
	for s := range streams {
		s.close()
	}
}

// Stats returns what has been counted so far.
func (p *Proxy) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Close ends the proxy and everything that runs through it.
func (p *Proxy) Close() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.mu.Unlock()
	close(p.done)
	_ = p.tcp.Close()
	_ = p.udp.Close()
	p.Cut()
	p.wg.Wait()
}

// fate is what happens to one packet or chunk.
type fate struct {
	delay     time.Duration
	drop      bool
	duplicate bool
	reordered bool
}

// decide draws the fate of n bytes on a path. p.mu is held.
func (p *Proxy) decide(path Path, n int, stream bool) fate {
	f := fate{delay: path.Delay}
	if path.Jitter > 0 {
		f.delay += time.Duration(p.random.Int64N(int64(path.Jitter)))
	}
	lost := path.Loss > 0 && p.random.Float64() < path.Loss
	if stream {
		if lost {
			f.delay += TCPPenalty
		}
		return f
	}
	f.drop = lost || path.Blackhole || path.MaxPacket > 0 && n > path.MaxPacket
	f.duplicate = path.Duplicate > 0 && p.random.Float64() < path.Duplicate
	if path.Reorder > 0 && p.random.Float64() < path.Reorder {
		by := path.ReorderBy
		if by <= 0 {
			by = 10 * time.Millisecond
		}
		f.delay += by
		f.reordered = true
	}
	return f
}
