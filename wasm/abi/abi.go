// Package abi is the contract between Dhow and a WASM guest, version 1: names, numbers and the flat form in which
// tensors cross the border. Host and guests share this code; a guest in another language needs only this text.
//
// # What a guest exports
//
//	memory                                      its only linear memory
//	dhow_abi_version() -> i32                   1
//	cabi_realloc(old, oldSize, align, size: i32) -> i32
//	                                            room for the host to write into; the host calls it with old = 0 and
//	                                            oldSize = 0, align = 8; 0 means that there is no room
//	configure(ptr, len: i32) -> i32             optional; called once for each instance, before the first process, with
//	                                            the bundle's configuration (the labels file, as it is; it may be
//	                                            empty); 0 accepts it, anything else refuses it
//	process(ptr, len: i32) -> i32               handles one request: a tensor list in, the address of a return area out
//	process_batch(ptr, len: i32) -> i32         optional; handles a batch of requests in one call: a batch in, the address
//	                                            of a return area out
//	cabi_post_process(ret: i32)                 frees what process or process_batch returned; called once for each of
//	                                            them that returned
//
// A reactor's _initialize, if there is one, runs before all of them. What the host got from cabi_realloc belongs to
// the guest from the call it is handed to (configure, process or process_batch).
//
// By default every call of process or process_batch finds memory and globals as configure left them: what a guest
// remembers of one request, no other request sees. A bundle may ask to keep an instance's state (`state: keep`), for
// guests that fill caches; results must not depend on them. The requests of one batch may see each other.
//
// # The return area
//
// Twelve bytes, aligned to 4, little-endian: u32 status, u32 ptr, u32 len.
//
//	status 0   ptr and len are a tensor list: the result
//	status 1   ptr and len are a UTF-8 sentence: the request is at fault (a photo that is no photo)
//	status 2   ptr and len are a UTF-8 sentence: the guest is at fault
//
// The host has taken what it needs out of the guest's memory before it calls cabi_post_process.
//
// What process_batch returns has status 0 and a batch with an item for each request, in their order, or status 2 for all.
//
// # What the host offers, in module "dhow"
//
//	emit_feature(name_ptr, name_len: i32, value: f64)   a number about this input, for drift; NaN and Inf are dropped
//	emit_count(name_ptr, name_len: i32, n: i64)         adds n (unsigned) to a counter
//	log(level, ptr, len: i32)                           a line: 0 debug, 1 information, 2 warning, 3 error
//
// Names must be declared in bundle.yaml; others are dropped and counted. Of wasi_snapshot_preview1 there is as much as a
// language's run time needs to start: no files, no network, no real clock, no real randomness, so that the same input
// gives the same output everywhere.
//
// # The tensor list
//
// Little-endian. The list begins at an address that is a multiple of 8, and every part of it begins at a multiple of 8
// from there, so that numbers can be read in place.
//
//	header    offset 0   u32  number of tensors, at most MaxTensors
//	          offset 4   u32  length of the whole list in bytes, header included
//	tensor    offset 0   u8   datatype: BOOL 1, UINT8 2, UINT16 3, UINT32 4, UINT64 5, INT8 6, INT16 7, INT32 8,
//	                          INT64 9, FP16 10, FP32 11, FP64 12, BYTES 13, BF16 14
//	          offset 1   u8   rank, at most MaxRank
//	          offset 2   u16  length of the name in bytes, 1 to MaxName
//	          offset 4   u32  length of the data in bytes
//	          offset 8   rank times u64: the dimensions
//	          then       the name, then zero bytes up to a multiple of 8
//	          then       the data, then zero bytes up to a multiple of 8
//	          (the next tensor follows at once)
//
// Data is what the Open Inference Protocol's binary form carries: elements row-major, BOOL one byte each, BYTES each
// element as a u32 length and then its bytes. Names within a list are unique. There is one encoding of a list: padding
// that is not zero, and bytes after the last tensor, are refused.
//
// # The batch
//
// Little-endian, and every part begins at a multiple of 8, as in a list.
//
//	header    offset 0   u32  number of items, 1 to MaxBatch
//	          offset 4   u32  length of the whole batch in bytes, header included
//	item      offset 0   u32  status as in a return area; 0 in requests
//	          offset 4   u32  length of the payload in bytes
//	          offset 8   the payload, a tensor list or a sentence, then zero bytes up to a multiple of 8
//
// The package allocates only what it returns, does no I/O and keeps no state.
package abi

// Version is what dhow_abi_version returns.
const Version = 1

// The names of the contract.
const (
	ExportMemory      = "memory"
	ExportVersion     = "dhow_abi_version"
	ExportRealloc     = "cabi_realloc"
	ExportConfigure   = "configure"
	ExportProcess     = "process"
	ExportBatch       = "process_batch"
	ExportPostProcess = "cabi_post_process"
	ExportInitialize  = "_initialize"

	HostModule        = "dhow"
	ImportEmitFeature = "emit_feature"
	ImportEmitCount   = "emit_count"
	ImportLog         = "log"

	WASIModule = "wasi_snapshot_preview1"
)

// Status is the first word of a return area.
type Status uint32

// The statuses.
const (
	StatusTensors    Status = 0
	StatusInputError Status = 1
	StatusGuestError Status = 2
)

// The levels of log.
const (
	LevelDebug uint32 = 0
	LevelInfo  uint32 = 1
	LevelWarn  uint32 = 2
	LevelError uint32 = 3
)

// The bounds. Both sides hold to them; the host refuses what is beyond.
const (
	MaxTensors       = 64
	MaxRank          = 16
	MaxName          = 256
	MaxList          = 1 << 30 // bytes of one list, and of one batch
	MaxBatch         = 256     // requests in one batch
	MaxMessage       = 4 << 10 // bytes of an error's sentence; the host cuts off the rest
	MaxLogLine       = 1 << 10 // bytes of a log line; the host cuts off the rest
	MaxConfiguration = 1 << 20 // bytes handed to configure
	MaxEmits         = 1 << 10 // emit_feature and emit_count in one call of process; more are dropped and counted
	ReturnAreaSize   = 12
	Align            = 8
)
