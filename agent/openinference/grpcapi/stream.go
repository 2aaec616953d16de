package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"connectrpc.com/connect"

	"github.com/dhowfleet/dhow/agent/accesslog"
	"github.com/dhowfleet/dhow/agent/openinference/grpcapi/wire"
)

// pending is a request of a stream: computed by a goroutine of its own, answered in its turn.
type pending struct {
	*exchange
	entry    accesslog.Entry
	err      error
	computed chan struct{} // closed when the exchange has the answer, or err is set
	done     func()        // of Authorize
}

// modelStreamInfer answers the requests of a stream in their order. This goroutine reads; one writes; each request has
// one while it is computed. When the client leaves or cannot be written to, the context ends the requests in flight.
func (h *handler) modelStreamInfer(ctx context.Context, s *connect.BidiStream[received, wire.Streamed]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := callOf(ctx)
	c.body.late.Stop()
	// A client that neither sends nor leaves would keep the reader for good.
	defer context.AfterFunc(ctx, c.interrupt)()

	queue := make(chan *pending, streamDepth-2) // beside it, one is being written and one waits to enter it
	written := make(chan struct{})
	go func() {
		defer close(written)
		failed := false
		for p := range queue {
			<-p.computed
			if !failed && h.send(c, s, p) != nil {
				failed = true
				cancel()
			}
			p.done()
			p.end(h)
		}
	}()
	err := h.receive(ctx, c, s, queue)
	close(queue)
	<-written
	if err == nil || ctx.Err() == nil {
		return err
	}
	return coded(ctx.Err())
}

// receive starts the requests of a stream until it ends.
func (h *handler) receive(ctx context.Context, c *call, s *connect.BidiStream[received, wire.Streamed], queue chan<- *pending) error {
	for {
		m, err := s.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		p := &pending{exchange: m.exchange, computed: make(chan struct{}), done: nothing}
		if h.options.AccessLog != nil {
			begin(&p.entry, c.r)
			p.entry.BytesIn = c.body.taken
		}
		if p.exchange == nil {
			p.exchange = exchanges.Get().(*exchange) // an empty message is a request without a model
		}
		// The message is counted in before what was read for it is counted out.
		err = p.reserve(h, int64(len(p.message)))
		c.body.settle()
		select {
		case queue <- p:
		case <-ctx.Done():
			p.end(h)
			return ctx.Err()
		}
		if err != nil {
			p.err = err
			close(p.computed)
			continue
		}
		go func() {
			defer close(p.computed)
			defer h.recovered(p)
			_, p.done, p.err = h.answer(ctx, c.r, p.exchange, &p.entry)
		}()
	}
}

// recovered makes a panic the answer to its request, as it would be where the server of HTTP sees it.
func (h *handler) recovered(p *pending) {
	cause := recover()
	if cause == nil {
		return
	}
	stack := make([]byte, 8<<10)
	stack = stack[:runtime.Stack(stack, false)]
	h.options.Logger.Error("answering a request panicked", "model", p.request.Model, "panic", fmt.Sprint(cause), "stack", string(stack))
	p.err = connect.NewError(connect.CodeInternal, errPanicked)
}

// send writes the answer to a request.
func (h *handler) send(c *call, s *connect.BidiStream[received, wire.Streamed], p *pending) error {
	p.response.Final = true
	answer := &wire.Streamed{Response: &p.response}
	if p.err != nil {
		err := coded(p.err)
		answer.Message, p.entry.Code = err.Message(), err.Code().String()
		p.response.Outputs = nil
	} else {
		p.entry.Code, p.entry.BytesOut = codeName(nil), int64(p.response.Size())
	}
	c.hurry(p.exchange, p.entry.BytesOut)
	err := s.Send(answer)
	c.relax()
	h.record(&p.entry)
	return err
}
