// Package e2e runs the built programs against each other: the demo as a user runs it, the same with UDP blocked, and
// kill -9 at every write point and at random moments.
//
// The binaries are built once per test run into a temporary folder. Tests need ONNX Runtime in the checkout's cache and
// the fashion bundle in build/fashion (`make test` makes both) and say so when they are missing. DHOW_FAULTS=long runs
// the full number of random kills; without it a short form runs.
package e2e
