// Package assemblyscript holds the guest kit for AssemblyScript and its tests: the guest in echo passes the tests of every
// kit (wasm/guest/kittest). The package has tests only, which are skipped where the tool chain is missing; README.md says
// how steps are written and built.
package assemblyscript
