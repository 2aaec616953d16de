// Package rust holds the guest kit for Rust, the crate dhow-guest, and its tests: the guest in echo passes the tests of
// every kit (wasm/guest/kittest), and the crate its own. The package has tests only, which are skipped where the tool
// chain is missing; README.md says how steps are written and built.
package rust
