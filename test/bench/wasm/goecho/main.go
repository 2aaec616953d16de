// Command goecho is a step in Go that hands back what it is handed: what its language's run time costs shows best where
// nothing else is done. It is built as a WASM module, and for this machine.
package main

import (
	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/guest"
)

func init() {
	guest.Handle(func(in []tensor.Tensor) ([]tensor.Tensor, error) { return in, nil })
}

func main() { guest.Serve() }
