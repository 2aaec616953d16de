package guest

// Serve is what main calls. In a WASM module it does nothing, since the host calls the step by its exports. Built for
// this machine instead, with a plain go build, it answers requests from standard input on standard output, so that the
// same work can be timed without WASM (dhow wasm bench --native) and tried under a debugger or profiler.
//
// What goes in is a sequence of frames, each a little-endian u32 length and as many bytes, at most abi.MaxList: first the
// configuration, which may be empty, then a tensor list for each request. Each frame is answered by a header of 16 bytes
//
//	offset 0   u64  nanoseconds that reading the list, the handler and writing the result took together
//	offset 8   u32  status, as in a return area of package abi; 2 refuses a configuration
//	offset 12  u32  length of what follows
//
// and a tensor list or a sentence. It returns at the end of standard input. A frame that is cut off or too long ends the
// program with code 1 and a reason on standard error.
func Serve() { serveNative() }
