//go:build wasip1

package main

import "github.com/dhowfleet/dhow/wasm/examples/kernels"

//go:wasmexport normalise
func exportNormalise(n int32) int64 { return kernels.Normalise(n) }

//go:wasmexport sha256
func exportSHA256(n int32) int64 { return kernels.SHA256(n) }

//go:wasmexport json_sort
func exportJSONSort(n int32) int64 { return kernels.JSONSort(n) }
