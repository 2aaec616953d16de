// Package wasi is a WASI preview 1 for guests with no authority of their own: bounded, charged, and the same on every
// run.
//
// wazero has an implementation, and this is not a wrapper around it, for three reasons. Its state (descriptors, clock,
// random source) belongs to the module instance and cannot be taken back, so that an instance whose memory was reset
// would still remember its last request. Several of its functions run as long as the guest pleases within one call:
// random_get over all of memory, fd_write with millions of pieces, poll_oneoff, directory listings. And proc_exit closes
// the module, which costs a new instance. What is left to take over is small, so all functions are written here.
//
// # Data flow and contract
//
// Instantiate offers the functions to a runtime's guests. A function finds out for which instance it runs by asking for
// the Caller in its context; the Caller takes the charge, the lines that the guest writes, and hands out the instance's
// State. State is everything that an instance remembers: Mark remembers it with the instance's image, Reset goes back
// there, so that a reset guest sees the same clock, the same random bytes and the same descriptors as the first time.
//
// Without grants there are no files, no arguments, no variables. The clock starts at 2022-01-01 and goes on by a
// millisecond with every look at it and by what the guest sleeps; sleeping takes no time. Random bytes come from a
// generator with a fixed seed: nothing secret may be made of them. Sockets do not exist. A grant opens one thing:
//
//	Clock   the real time. Sleeping still takes no time; the monotonic clock is moved on by as much.
//	Random  random bytes of the operating system.
//	Files   one folder, as "/", for reading. Names are resolved inside it (os.Root): neither ".." nor a symbolic link
//	        leads out. Only regular files and folders open. Times, owners and link targets are not shown.
//
// # Bounds
//
// Every function charges for what it copies or asks of the operating system before it does so, in pieces of 64 KiB, so
// that a call ends soon after its fuel, its deadline or its memory. There are at most 64 descriptors, 1,024 pieces or
// subscriptions in a call, 4,096 bytes in a path and 4,096 entries in a folder; what is beyond gets an error number.
// What a command writes to its standard output is bounded by what State.Command was given; more ends the call with
// ErrOutput. proc_exit ends the call by a panic with *sys.ExitError and leaves the module open.
//
// # Concurrency and blocking
//
// Functions of different instances run side by side. A State belongs to its instance, which runs one call at a time.
// Nothing blocks but reading granted files, for as long as the file system takes.
package wasi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"

	"github.com/dhowfleet/dhow/wasm/abi"
)

// Grants is what a guest may see of the machine. The zero value is nothing.
type Grants struct {
	Clock  bool
	Random bool
	Files  string // a folder, for reading; "" is none
}

// Caller is the instance for which a function runs.
type Caller interface {
	// Charge takes fuel before work is done. It may end the call by a panic.
	Charge(fuel int64)
	// Line takes bytes that the guest wrote to a standard stream, 1 or 2; they need not be whole lines. b is valid
	// until Line returns.
	Line(fd uint32, b []byte)
	// WASI is what the instance remembers.
	WASI() *State
}

// ErrOutput ends a call that wrote more to standard output than a command may.
var ErrOutput = errors.New("the guest wrote more to standard output than it may")

var errNoMemory = errors.New("the guest has no memory, which WASI needs")

// The bounds that the package's description names.
const (
	maxDescriptors = 64
	maxPieces      = 1 << 10
	maxPath        = 4 << 10
	maxEntries     = 4 << 10
	maxListed      = 16 << 10 // entries of all folders that an instance lists at a time
	pieceSize      = 64 << 10
)

// What work costs in fuel, beyond what a call of an import costs already. A unit is about the time of an instruction.
const (
	costPiece  = 16     // of each piece of a read or write, and each subscription
	costLine   = 256    // of a log line, and of each piece of one
	costSystem = 20_000 // of a question to the operating system, 2 to 20 microseconds
	costEntry  = 500    // of an entry of a folder that is read
	perMove    = 64     // bytes moved for a unit
	perLine    = 4      // bytes of log lines for a unit
	perRandom  = 4      // bytes of the fixed generator for a unit
	perSecret  = 1      // bytes of the operating system's generator for a unit
	perRead    = 8      // bytes read from a file for a unit
)

// errno is WASI's error number; 0 is success.
type errno uint32

const (
	ok             errno = 0
	errAccess      errno = 2
	errBadf        errno = 8
	errFault       errno = 21
	errInvalid     errno = 28
	errIO          errno = 29
	errIsDir       errno = 31
	errLoop        errno = 32
	errTooMany     errno = 33 // descriptors
	errNameTooLong errno = 37
	errNoEntry     errno = 44
	errNoSys       errno = 52
	errNotDir      errno = 54
	errNotSock     errno = 57
	errNotSup      errno = 58
	errOverflow    errno = 61
	errReadOnly    errno = 69
	errSeek        errno = 70
	errNotCapable  errno = 76
)

// call is one call of a function.
type call struct {
	api.Memory
	Caller
	*State
	grants *Grants
}

// charge takes fuel for n bytes, of which a unit pays for per.
func (c call) charge(n, per uint32) { c.Charge(int64(n/per) + 1) }

// at returns n bytes of the guest's memory, to read or write.
func (c call) at(ptr uint64, n uint32) ([]byte, bool) { return c.Read(uint32(ptr), n) }

// Instantiate offers the functions to the guests of runtime. of returns the instance that a context belongs to; it is
// asked by every call.
func Instantiate(ctx context.Context, runtime wazero.Runtime, grants Grants, of func(context.Context) Caller) error {
	if grants.Files != "" {
		switch info, err := os.Stat(grants.Files); {
		case err != nil:
			return fmt.Errorf("cannot grant files to a guest: %v", err)
		case !info.IsDir():
			return fmt.Errorf("cannot grant files to a guest: %s is not a folder", grants.Files)
		}
	}
	builder := runtime.NewHostModuleBuilder(abi.WASIModule)
	for i := range functions {
		f := &functions[i]
		results := []api.ValueType{api.ValueTypeI32}
		if f.name == "proc_exit" {
			results = nil
		}
		builder.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, guest api.Module, stack []uint64) {
			caller := of(ctx)
			c := call{Memory: guest.Memory(), Caller: caller, State: caller.WASI(), grants: &grants}
			if reflect.ValueOf(c.Memory).IsNil() { // an interface that holds no memory, which wazero would run into
				panic(errNoMemory)
			}
			c.State.start()
			if e := f.do(c, stack); results != nil {
				stack[0] = uint64(e)
			}
		}), types(f.params), results).Export(f.name)
	}
	_, err := builder.Instantiate(ctx)
	return err
}

// types reads a signature: "i" is an i32, "l" an i64.
func types(params string) []api.ValueType {
	out := make([]api.ValueType, len(params))
	for i, c := range params {
		out[i] = api.ValueTypeI32
		if c == 'l' {
			out[i] = api.ValueTypeI64
		}
	}
	return out
}

// functions is all of preview 1. An i32 parameter fills the lower half of its word; the upper half is not defined.
var functions = []struct {
	name, params string
	do           func(c call, p []uint64) errno
}{
	{"args_get", "ii", argsGet},
	{"args_sizes_get", "ii", argsSizesGet},
	{"environ_get", "ii", environGet},
	{"environ_sizes_get", "ii", environSizesGet},
	{"clock_res_get", "ii", clockResGet},
	{"clock_time_get", "ili", clockTimeGet},
	{"fd_advise", "illi", onOpen(ok)},
	{"fd_allocate", "ill", onOpen(errReadOnly)},
	{"fd_close", "i", fdClose},
	{"fd_datasync", "i", onOpen(ok)},
	{"fd_fdstat_get", "ii", fdFdstatGet},
	{"fd_fdstat_set_flags", "ii", onOpen(ok)},
	{"fd_fdstat_set_rights", "ill", onOpen(errNoSys)},
	{"fd_filestat_get", "ii", fdFilestatGet},
	{"fd_filestat_set_size", "il", onOpen(errReadOnly)},
	{"fd_filestat_set_times", "illi", onOpen(errReadOnly)},
	{"fd_pread", "iiili", fdPread},
	{"fd_prestat_get", "ii", fdPrestatGet},
	{"fd_prestat_dir_name", "iii", fdPrestatDirName},
	{"fd_pwrite", "iiili", onOpen(errReadOnly)},
	{"fd_read", "iiii", fdRead},
	{"fd_readdir", "iiili", fdReaddir},
	{"fd_renumber", "ii", fdRenumber},
	{"fd_seek", "ilii", fdSeek},
	{"fd_sync", "i", onOpen(ok)},
	{"fd_tell", "ii", fdTell},
	{"fd_write", "iiii", fdWrite},
	{"path_create_directory", "iii", onOpen(errReadOnly)},
	{"path_filestat_get", "iiiii", pathFilestatGet},
	{"path_filestat_set_times", "iiiilli", onOpen(errReadOnly)},
	{"path_link", "iiiiiii", onOpen(errReadOnly)},
	{"path_open", "iiiiilli" + "i", pathOpen},
	{"path_readlink", "iiiiii", onOpen(errNotSup)},
	{"path_remove_directory", "iii", onOpen(errReadOnly)},
	{"path_rename", "iiiiii", onOpen(errReadOnly)},
	{"path_symlink", "iiiii", pathSymlink},
	{"path_unlink_file", "iii", onOpen(errReadOnly)},
	{"poll_oneoff", "iiii", pollOneoff},
	{"proc_exit", "i", procExit},
	{"proc_raise", "i", func(call, []uint64) errno { return errNoSys }},
	{"random_get", "ii", randomGet},
	{"sched_yield", "", func(call, []uint64) errno { return ok }},
	{"sock_accept", "iii", onOpen(errNotSock)},
	{"sock_recv", "iiiiii", onOpen(errNotSock)},
	{"sock_send", "iiiii", onOpen(errNotSock)},
	{"sock_shutdown", "ii", onOpen(errNotSock)},
}

// onOpen is a function that does nothing with an open descriptor but to answer e.
func onOpen(e errno) func(call, []uint64) errno {
	return func(c call, p []uint64) errno {
		if c.open(p[0]) == nil {
			return errBadf
		}
		return e
	}
}

// pathSymlink has its descriptor in another place than the others that change a folder.
func pathSymlink(c call, p []uint64) errno { return onOpen(errReadOnly)(c, p[2:]) }

func procExit(_ call, p []uint64) errno { panic(sys.NewExitError(uint32(p[0]))) }

func argsSizesGet(c call, p []uint64) errno {
	n := 0
	for _, a := range c.args {
		n += len(a) + 1
	}
	return c.two(p, uint32(len(c.args)), uint32(n))
}

func argsGet(c call, p []uint64) errno {
	table, at := uint32(p[0]), uint32(p[1])
	for _, a := range c.args {
		c.charge(uint32(len(a)), perMove)
		if !c.WriteUint32Le(table, at) || !c.WriteString(at, a) || !c.WriteByte(at+uint32(len(a)), 0) {
			return errFault
		}
		table += 4
		at += uint32(len(a)) + 1
	}
	return ok
}

func environSizesGet(c call, p []uint64) errno { return c.two(p, 0, 0) }

func environGet(call, []uint64) errno { return ok }

// two writes two numbers where the first two parameters point to.
func (c call) two(p []uint64, a, b uint32) errno {
	if !c.WriteUint32Le(uint32(p[0]), a) || !c.WriteUint32Le(uint32(p[1]), b) {
		return errFault
	}
	return ok
}
