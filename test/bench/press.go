package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// press sends requests over n connections for a while, each the next one when it has the answer.
//
// The client shares the machine with the server that it presses, so it is as cheap as can be: one thread asks the kernel
// which connections have something to read, and does nothing else than read it and write the next request.
func press(ctx context.Context, address string, request []byte, n int, window time.Duration) (pressed, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p := &presser{request: request}
	defer p.close()
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return pressed{}, err
	}
	for range n {
		if err := p.connect(address); err != nil {
			return pressed{}, fmt.Errorf("cannot connect to %s: %w", address, err)
		}
	}
	begun := time.Now()
	for _, c := range p.conns {
		if err := p.send(c); err != nil {
			return pressed{}, err
		}
	}
	events := make([]unix.EpollEvent, n)
	for time.Since(begun) < window && ctx.Err() == nil {
		ready, err := unix.EpollWait(p.epoll, events, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return pressed{}, err
		}
		for _, e := range events[:max(ready, 0)] {
			if err := p.step(p.conns[e.Fd]); err != nil {
				return pressed{}, err
			}
		}
	}
	took := time.Since(begun)
	if len(p.times) == 0 {
		return pressed{}, errors.New("no request was answered")
	}
	slices.Sort(p.times)
	return pressed{
		connections: n, rate: float64(len(p.times)) / took.Seconds(),
		p50: p.times[len(p.times)/2], p99: p.times[len(p.times)*99/100],
	}, nil
}

// presser is a client of many connections and one thread.
type presser struct {
	epoll   int
	request []byte
	conns   map[int32]*pressedConn
	times   []time.Duration
	buffer  [64 << 10]byte
}

type pressedConn struct {
	fd     int
	begun  time.Time
	unsent []byte
	head   []byte // of the answer, as far as it has come
	left   int    // of the answer's body; -1 until its head is there
}

func (p *presser) close() {
	for _, c := range p.conns {
		_ = unix.Close(c.fd)
	}
	if p.epoll > 0 {
		_ = unix.Close(p.epoll)
	}
}

func (p *presser) connect(address string) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c := &pressedConn{fd: fd, left: -1}
	if p.conns == nil {
		p.conns = map[int32]*pressedConn{}
	}
	p.conns[int32(fd)] = c
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		return err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (p *presser) send(c *pressedConn) error {
	c.begun, c.unsent, c.head, c.left = time.Now(), p.request, c.head[:0], -1
	return p.write(c)
}

// write sends what the kernel takes, and asks to be told when it takes more.
func (p *presser) write(c *pressedConn) error {
	waited := len(c.unsent) < len(p.request)
	for len(c.unsent) > 0 {
		n, err := unix.Write(c.fd, c.unsent)
		if errors.Is(err, unix.EAGAIN) {
			return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT, Fd: int32(c.fd)})
		}
		if err != nil {
			return err
		}
		c.unsent = c.unsent[n:]
	}
	if waited {
		return unix.EpollCtl(p.epoll, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)})
	}
	return nil
}

// step goes on with a connection that has something to read, or room to write.
func (p *presser) step(c *pressedConn) error {
	if len(c.unsent) > 0 {
		if err := p.write(c); err != nil {
			return err
		}
	}
	n, err := unix.Read(c.fd, p.buffer[:])
	switch {
	case errors.Is(err, unix.EAGAIN):
		return nil
	case err != nil:
		return err
	case n == 0:
		return errors.New("the server closed a connection")
	}
	data := p.buffer[:n]
	if c.left < 0 {
		c.head = append(c.head, data...)
		end := bytes.Index(c.head, []byte("\r\n\r\n"))
		if end < 0 {
			return nil
		}
		length, err := lengthOf(c.head[:end])
		if err != nil {
			return err
		}
		c.left = length - (len(c.head) - end - 4)
	} else {
		c.left -= n
	}
	if c.left > 0 {
		return nil
	}
	if c.left < 0 {
		return errors.New("more came than the answer's length")
	}
	p.times = append(p.times, time.Since(c.begun))
	return p.send(c)
}

// lengthOf reads the head of an answer.
func lengthOf(head []byte) (int, error) {
	line, rest, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return 0, fmt.Errorf("the answer is an error: %s", line)
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, errors.New("the answer has no length")
}
