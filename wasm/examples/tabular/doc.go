// Package tabular holds a pre-processing step in Rust (src), which turns rows of a table into the matrix of numbers that a
// model was trained on, and its tests: they hold it bit by bit against the same written in Go, on rows of real tables and
// on drawn ones. The package has tests only, which are skipped where the tool chain is missing. It is built with
//
//	wasm/guest/rust/build wasm/examples/tabular tabular.wasm
package tabular
