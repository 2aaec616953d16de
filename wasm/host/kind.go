package host

import (
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"

	"github.com/dhowfleet/dhow/models/tensor"
)

// Kind is how a module takes requests and gives answers.
type Kind uint8

// The kinds. The first is the contract of wasm/abi. The others are for programs that know nothing of it; they are slower,
// because every request and answer is copied and written in a form of its own, and a command starts anew for each.
const (
	Reactor Kind = iota
	Extism       // a plug-in made with one of Extism's kits
	Command      // a WASI program that reads standard input and writes standard output
)

var kinds = [...]string{Reactor: "dhow", Extism: "extism", Command: "command"}

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return "unknown"
}

// dataError is the number with which a program says that the request is at fault and not the program: EX_DATAERR of
// sysexits.h.
const dataError = 65

// protocol returns what the module's kind decides.
func (o *Options) protocol() (protocolOf, error) {
	switch {
	case o.Kind == Reactor:
		return reactor{}, nil
	case o.State == Keep:
		return nil, fmt.Errorf("a module of the kind %s cannot keep its state; leave state out of bundle.yaml", o.Kind)
	case o.Kind == Command:
		return command{o.Format}, nil
	case o.Kind == Extism && o.Function == "":
		return nil, errors.New("an Extism plug-in needs function in bundle.yaml, the name of what it exports")
	case o.Kind == Extism:
		return plugin{o.Format, o.Function}, nil
	}
	return nil, fmt.Errorf("there is no module kind %d", o.Kind)
}

// protocolOf is what a module's kind decides: how its instances start, and how they are spoken with. There is one for
// each module, used by many goroutines.
type protocolOf interface {
	// imports says whether the kind offers the function to a guest.
	imports(module, name string) bool
	// check holds the module's exports against what the kind asks for.
	check(compiled wazero.CompiledModule) error
	// starts are the exports that run when an instance is made, where there are such.
	starts() []string
	// size returns the bytes that a request takes in the guest's memory; an error says why it is no request.
	size(request []tensor.Tensor) (int, error)
	// bind prepares a new instance for requests, up to the moment that every request starts from. It runs metered.
	bind(in *instance) (speaker, error)
}

// speaker asks one instance. Its errors are a *GuestError, errNoRoom where the guest has no room for a request of this
// size, one that wraps ErrTrap, or wazero's own.
type speaker interface {
	// ask hands in a request of the size that the kind said and returns the answer, which may lie in the guest's memory
	// and in room of the speaker: it is valid until done.
	ask(request []tensor.Tensor, size int) ([]tensor.Tensor, error)
	// done frees what ask took. It is called after every ask that ended with an answer or a *GuestError.
	done() error
}

// batcher is a speaker whose guest takes several requests in one call.
type batcher interface {
	// batches says whether this guest does.
	batches() bool
	// askAll is ask for requests that take size bytes together. answers has an element for each, to be filled.
	askAll(requests [][]tensor.Tensor, size int, answers []Answer) error
}

var _ batcher = (*reactorGuest)(nil)
