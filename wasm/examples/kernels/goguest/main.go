// Command goguest is the Go form of the bench kernels, built for WASM as a reactor by ../build. Built for another
// machine it runs one of them: goguest NAME N prints the checksum.
package main

import (
	"fmt"
	"os"
	"strconv"

	"github.com/dhowfleet/dhow/wasm/examples/kernels"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: goguest normalise|sha256|json_sort N")
		os.Exit(2)
	}
	n, err := strconv.ParseInt(os.Args[2], 10, 32)
	if err != nil {
		fmt.Fprintln(os.Stderr, "goguest: N is no 32-bit number")
		os.Exit(2)
	}
	for _, k := range kernels.All {
		if k.File == "go.wasm" && k.Export == os.Args[1] {
			fmt.Println(k.Native(int32(n)))
			return
		}
	}
	fmt.Fprintf(os.Stderr, "goguest: there is no kernel %s\n", os.Args[1])
	os.Exit(2)
}
