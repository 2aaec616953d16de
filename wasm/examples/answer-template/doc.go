// Package template holds a post-processing step in AssemblyScript (index.ts), which turns a classifier's scores into JSON by
// a template, in the language that is asked for, and its tests: they hold it byte by byte against the same written in Go,
// and against encoding/json. The package has tests only, which are skipped where the tool chain is missing. It is built with
//
//	wasm/guest/assemblyscript/build wasm/examples/answer-template/index.ts answer.wasm
package template
