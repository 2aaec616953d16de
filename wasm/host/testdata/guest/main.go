// A guest that does what the name of its first tensor says, for the host's tests.
package main

import (
	"os"
	"time"

	"github.com/dhowfleet/dhow/models/tensor"
	"github.com/dhowfleet/dhow/wasm/guest"
)

func init() {
	guest.Handle(process)
	guest.OnConfigure(func(c []byte) error {
		if string(c) == "refuse me" {
			return os.ErrInvalid
		}
		return nil
	})
}

func main() {}

var (
	calls int64
	hoard [][]byte
	sum   int
)

func process(in []tensor.Tensor) ([]tensor.Tensor, error) {
	calls++
	switch in[0].Name {
	case "emit":
		guest.Count("known", 3)
		guest.Count("unknown", 1)
		guest.Feature("bright", 0.5)
		guest.Feature("known", 1)
	case "emit then fail":
		guest.Count("known", 1)
		return nil, guest.InputError("no\x00 \xffphoto\nhere")
	case "shout":
		for range 10_000 {
			guest.Log(1, "again")
		}
	case "panic":
		panic("so be it")
	case "exit":
		os.Exit(7)
	case "spin":
		for {
			calls++
		}
	case "recurse":
		return in, deep(1)
	case "hoard":
		for {
			hoard = append(hoard, make([]byte, 1<<20))
		}
	case "litter":
		hoard = [][]byte{make([]byte, 500_000), make([]byte, 500_000)}
	case "world":
		_, err := os.ReadFile("/etc/passwd")
		host, _ := os.Hostname()
		return []tensor.Tensor{
			tensor.FromStrings("world", err.Error(), time.Now().UTC().String(), host, os.Getenv("HOME")),
		}, nil
	case "calls":
		return []tensor.Tensor{{Name: "calls", Datatype: tensor.Uint8, Data: []byte{byte(calls)}}}, nil
	case "configuration":
		return []tensor.Tensor{tensor.FromStrings("configuration", string(guest.Configuration()))}, nil
	}
	return in, nil
}

func deep(n int) error {
	var room [512]byte
	room[n%512] = byte(n)
	err := deep(n + 1)
	sum += int(room[n%512])
	return err
}
