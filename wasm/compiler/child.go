package compiler

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/dhowfleet/dhow/wasm/confine"
	"github.com/dhowfleet/dhow/wasm/host/compiled"
)

// maxMessage bounds what the engine says of a module.
const maxMessage = 1000

// Main is the child: it reads a header and a module, compiles it, answers with a line, and returns the exit code. The
// process is of no other use afterwards, since its limits stay.
func Main(stdin io.Reader, stdout io.Writer) int {
	in := bufio.NewReaderSize(stdin, maxHeader)
	line, err := in.ReadSlice('\n')
	var h header
	if err != nil || json.Unmarshal(line, &h) != nil {
		fmt.Fprintln(os.Stderr, "wasm-compile: the request is none; this command is started by the program itself")
		return 64
	}
	a := compile(h, in)
	reply, err := json.Marshal(a)
	if err == nil {
		_, err = stdout.Write(append(reply, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "wasm-compile: cannot answer:", err)
		return 74
	}
	return 0
}

func compile(h header, in io.Reader) answer {
	if h.Build != build() {
		return answer{Reason: Unavailable, Message: "the compiler's process is of another version than the one that started it; restart the program, it was updated"}
	}
	if h.Bytes < 0 || h.Bytes > maxCode || !filepath.IsAbs(h.Dir) {
		return answer{Reason: Unavailable, Message: "the compiler's process was asked for what it does not do"}
	}
	// A file beyond its limit is an error of writing then.
	signal.Ignore(syscall.SIGXFSZ)
	if err := (confine.Limits{Memory: h.Memory, CPUSeconds: h.CPUSeconds, FileBytes: uint64(max(h.Output, 0))}).Apply(); err != nil {
		return answer{Reason: Unavailable, Message: err.Error()}
	}
	// The collector works harder before memory runs out.
	debug.SetMemoryLimit(h.Memory / 4 * 3)
	code := make([]byte, h.Bytes)
	if _, err := io.ReadFull(in, code); err != nil {
		return answer{Reason: Unavailable, Message: fmt.Sprintf("the compiler's process got a part of the module alone: %v", err)}
	}
	return verdict(compiled.Fill(context.Background(), code, h.Dir, h.Pages), h.Output)
}

// verdict is the answer to what compiling came to.
func verdict(err error, output int64) answer {
	switch {
	case err == nil:
		return answer{Done: true}
	case errors.Is(err, syscall.EFBIG):
		return answer{Reason: SizeLimit, Message: fmt.Sprintf("it becomes more than %d KiB of machine code", output>>10)}
	case errors.Is(err, compiled.ErrUnwritable):
		return answer{Unwritable: true, Message: unquoted(err)}
	}
	return answer{Reason: Refused, Message: unquoted(err)}
}

// unquoted makes an error's text, which may quote a module's names, fit for a line of a log.
func unquoted(err error) string {
	s := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(err.Error(), "\ufffd"))
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}
