package transporttest

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const maxDatagram = 64 << 10

// flow is one UDP client: its packets reach the server from a socket of their own.
type flow struct {
	client   netip.AddrPort
	upstream *net.UDPConn
	up, down *queue
	once     sync.Once
}

func (f *flow) close() {
	f.once.Do(func() {
		_ = f.upstream.Close()
		f.up.close()
		f.down.close()
	})
}

func (p *Proxy) readUDP() {
	buf := make([]byte, maxDatagram)
	for {
		n, from, err := p.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			select {
			case <-p.done:
				return
			default:
				continue // an ICMP error of some client
			}
		}
		if f := p.flow(from); f != nil {
			p.pass(f.up, buf[:n], true)
		}
	}
}

// flow returns the flow of a client, opening it at its first packet.
func (p *Proxy) flow(client netip.AddrPort) *flow {
	key := client.String()
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[key]; f != nil {
		return f
	}
	if p.closed || len(p.flows) >= maxFlows {
		return nil
	}
	conn, err := net.Dial("udp", p.target)
	if err != nil {
		return nil
	}
	upstream := conn.(*net.UDPConn)
	f := &flow{client: client, upstream: upstream}
	f.up = newQueue(func(b []byte) { _, _ = upstream.Write(b) })
	f.down = newQueue(func(b []byte) { _, _ = p.udp.WriteToUDPAddrPort(b, client) })
	p.flows[key] = f
	p.wg.Go(f.up.run)
	p.wg.Go(f.down.run)
	p.wg.Go(func() {
		buf := make([]byte, maxDatagram)
		for {
			n, err := upstream.Read(buf)
			if err != nil {
				select {
				case <-f.down.done:
					return
				default:
					continue // the server's port is closed just now
				}
			}
			p.pass(f.down, buf[:n], false)
		}
	})
	return f
}

// pass puts a packet into a queue, as the weather wants.
func (p *Proxy) pass(q *queue, b []byte, up bool) {
	p.mu.Lock()
	if p.next != "" {
		if p.passing == 0 {
			p.target, p.next = p.next, ""
			p.mu.Unlock()
			p.Rebind()
			return
		}
		p.passing--
	}
	path := p.weather.UDP.Down
	if up {
		path = p.weather.UDP.Up
	}
	f := p.decide(path, len(b), false)
	p.stats.UDPPackets++
	if f.drop {
		p.stats.UDPDropped++
	}
	p.mu.Unlock()
	if f.drop {
		return
	}
	packet := append([]byte(nil), b...)
	ok := q.put(packet, f, path.BytesPerSecond)
	if f.duplicate {
		q.put(packet, f, path.BytesPerSecond)
	}
	if !ok {
		p.mu.Lock()
		p.stats.UDPDropped++
		p.mu.Unlock()
	}
}

// queue delivers packets when they are due. Those that are not reordered keep their order whatever their jitter.
type queue struct {
	deliver func([]byte)
	done    chan struct{}
	wake    chan struct{}
	once    sync.Once

	mu      sync.Mutex
	packets []packet // by due time
	last    time.Time
	busy    time.Time // until when the line is taken by what was sent
}

type packet struct {
	due  time.Time
	data []byte
}

func newQueue(deliver func([]byte)) *queue {
	return &queue{deliver: deliver, done: make(chan struct{}), wake: make(chan struct{}, 1)}
}

func (q *queue) close() { q.once.Do(func() { close(q.done) }) }

// put says false when the queue is full.
func (q *queue) put(data []byte, f fate, bytesPerSecond int) bool {
	now := time.Now()
	q.mu.Lock()
	if len(q.packets) >= maxQueue {
		q.mu.Unlock()
		return false
	}
	due := now.Add(f.delay)
	if bytesPerSecond > 0 {
		if q.busy.Before(now) {
			q.busy = now
		}
		q.busy = q.busy.Add(time.Duration(len(data)) * time.Second / time.Duration(bytesPerSecond))
		due = q.busy.Add(f.delay)
	}
	if !f.reordered {
		if due.Before(q.last) {
			due = q.last
		}
		q.last = due
	}
	at := len(q.packets)
	for at > 0 && q.packets[at-1].due.After(due) {
		at--
	}
	q.packets = append(q.packets, packet{})
	copy(q.packets[at+1:], q.packets[at:])
	q.packets[at] = packet{due: due, data: data}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

func (q *queue) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		q.mu.Lock()
		now := time.Now()
		n := 0
		for n < len(q.packets) && !q.packets[n].due.After(now) {
			n++
		}
		ready := append([]packet(nil), q.packets[:n]...)
		q.packets = append(q.packets[:0], q.packets[n:]...)
		wait := time.Hour
		if len(q.packets) > 0 {
			wait = q.packets[0].due.Sub(now)
		}
		q.mu.Unlock()
		for _, p := range ready {
			q.deliver(p.data)
		}
		if n > 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-q.wake:
		case <-q.done:
			return
		}
	}
}
