// Package metering rewrites a WebAssembly module so that whoever runs it can bound it: by fuel, by native stack, by
// memory and by tables. It also refuses, by a named reason, what would be expensive to compile out of proportion.
//
// Data flows once through: bytes of a module in; parse; check every index against the module's own index spaces;
// estimate what compiling costs; insert charges; bytes of a module out, and a description of the original. The package
// is a function of its arguments: it does no I/O, keeps no state, starts nothing and may be called from any goroutine.
// It takes time linear in the module's length.
//
// # What a metered module does
//
// It counts fuel down in a mutable global (ExportFuel). Straight-line code is paid for at its beginning, at a static
// cost that is about one unit a simple instruction: at a function's entry, at each loop's header, and again within a
// block when one payment would cover more than 4,096 units. Both arms of an if are paid for, so that the fuel used is an
// upper bound, and the same on every run. When fuel falls below zero, refill is called (Yield), which sees to deadlines
// and budgets and returns the new fuel, or unreachable is executed (Trap).
//
// A function that calls others takes an estimate of its native frame from a second global (ExportStack) and gives it back
// when it returns; below zero the same happens. A call that ends by a trap gives nothing back: the host sets both globals
// before every call.
//
// Operations on many bytes run in chunks of 64 KiB that are paid for one by one, after the whole operation's bounds have
// been checked, so that no single instruction runs for long. Overlapping copies go in the direction that keeps them
// right. No memory grows beyond Options.MemoryPages, no table grows at all.
//
// # What is refused and why
//
// The metered module has more globals, types and functions than the original, so an index that was invalid could become
// valid, and a guest could set its own fuel: every index is checked against the original's spaces. Types are left to the
// compiler, since what is inserted leaves the operand stack as it was: an invalid module stays invalid. Numbers must be
// encoded as WebAssembly demands, because what two readers take differently is how checks are evaded. Only WebAssembly
// 2.0 core is let through.
//
// What compiling takes is estimated function by function; docs/wasm-limits.md has the limits, what real guests have, and
// what the dearest modules that are accepted take.
package metering
