// Package kernels names the programs with which the cost of metering is measured, and has each of them once more in Go.
//
// The WASM forms are built by the script build beside this file: from C (folder c) and from this package (folder
// goguest). Each exports run(n: i32) -> i64, the Go ones under their own names: n scales the work, the result is a
// checksum of it, which says that a kernel that was rewritten, compiled or interpreted in another way still does the same.
// They know nothing of Dhow's contract with guests and import nothing but what Go's run time needs.
//
// The functions are deterministic, keep their working memory in variables of the package, and are not safe for
// concurrent use. They block only for the time that their work takes.
package kernels

// Kernel is one program in one form.
type Kernel struct {
	Name   string
	File   string // of the folder that build fills
	Export string
	N      int32 // takes 5 to 50 ms on a core of 2020
	Check  int32 // takes little time: enough to compare checksums
	Native func(n int32) int64
}

// All kernels, C first.
var All = []Kernel{
	{"C normalise", "c-normalise.wasm", "run", 50, 1, Normalise},
	{"C normalise, SIMD", "c-normalise-simd.wasm", "run", 200, 1, Normalise},
	{"C xorshift loop", "c-xorshift.wasm", "run", 10_000_000, 1000, Xorshift},
	{"C bare add loop", "c-addloop.wasm", "run", 30_000_000, 1000, Add},
	{"C heapsort", "c-heapsort.wasm", "run", 1 << 16, 1000, Heapsort},
	{"C matmul", "c-matmul.wasm", "run", 5, 1, Matmul},
	{"C fib", "c-fib.wasm", "run", 27, 15, Fib},
	{"C sha256", "c-sha256.wasm", "run", 2048, 3, SHA256},
	{"C pointer chase", "c-chase.wasm", "run", 50_000, 1000, Chase},
	{"Go normalise", "go.wasm", "normalise", 10, 1, Normalise},
	{"Go sha256", "go.wasm", "sha256", 1024, 3, SHA256},
	{"Go json and sort", "go.wasm", "json_sort", 1000, 50, JSONSort},
}
