package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/abi"
)

// nativeGuest is a step built for this machine, which answers on its standard streams (guest.Serve).
type nativeGuest struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	errs said
	list []byte
}

// said keeps the first bytes of a program's standard error.
type said struct{ bytes.Buffer }

func (s *said) Write(p []byte) (int, error) {
	if room := abi.MaxMessage - s.Len(); room > 0 {
		s.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func startNative(ctx context.Context, program string, m *wasmModule) (*nativeGuest, error) {
	n := &nativeGuest{cmd: exec.CommandContext(ctx, program)}
	n.cmd.Stderr = &n.errs
	n.cmd.WaitDelay = time.Second
	var err error
	if n.in, err = n.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	out, err := n.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	n.out = bufio.NewReaderSize(out, 1<<16)
	if err := n.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	if _, _, err := n.ask(m.options.Configuration); err != nil {
		n.close()
		return nil, fmt.Errorf("%s does not answer as a step does whose main calls guest.Serve: %w", program, err)
	}
	return n, nil
}

// call answers one request and returns the time that the program itself took for it.
func (n *nativeGuest) call(in []tensor.Tensor, size int) (time.Duration, []byte, error) {
	if len(n.list) != size {
		n.list = make([]byte, size)
	}
	if err := abi.Put(n.list, in); err != nil {
		return 0, nil, err
	}
	return n.ask(n.list)
}

// ask sends a frame and reads its reply.
func (n *nativeGuest) ask(frame []byte) (time.Duration, []byte, error) {
	message := append(binary.LittleEndian.AppendUint32(nil, uint32(len(frame))), frame...)
	if _, err := n.in.Write(message); err != nil {
		return 0, nil, n.broken(err)
	}
	var head [16]byte
	if _, err := io.ReadFull(n.out, head[:]); err != nil {
		return 0, nil, n.broken(err)
	}
	length := binary.LittleEndian.Uint32(head[12:])
	if length > abi.MaxList {
		return 0, nil, fmt.Errorf("it answers with %d bytes, at most %d are allowed", length, abi.MaxList)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(n.out, payload); err != nil {
		return 0, nil, n.broken(err)
	}
	if abi.Status(binary.LittleEndian.Uint32(head[8:])) != abi.StatusTensors {
		return 0, nil, fmt.Errorf("it answers: %s", payload[:min(len(payload), abi.MaxMessage)])
	}
	return time.Duration(binary.LittleEndian.Uint64(head[:])), payload, nil
}

func (n *nativeGuest) broken(err error) error {
	if text := bytes.TrimSpace(n.errs.Bytes()); n.cmd.ProcessState != nil && len(text) > 0 {
		return errors.New(string(text))
	}
	return fmt.Errorf("its streams are closed: %w", err)
}

func (n *nativeGuest) close() {
	_ = n.in.Close()
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}
