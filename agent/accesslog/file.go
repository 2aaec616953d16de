package accesslog

import (
	"fmt"
	"io/fs"
	"os"
)

// file is a log file that follows its name.
type file struct {
	path string
	*os.File
}

func openFile(path string) (*file, error) {
	// Opening a pipe waits until somebody reads it.
	if info, err := os.Stat(path); err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		return nil, fmt.Errorf("%s is a pipe", path)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	return &file{path, f}, nil
}

// follow opens the file anew when what has its name is another one by now, or none. When that fails, the lines go on
// into the one that is open, which somebody has under another name.
func (f *file) follow() {
	if named, err := os.Stat(f.path); err == nil {
		if open, err := f.Stat(); err == nil && os.SameFile(named, open) {
			return
		}
	}
	next, err := openFile(f.path)
	if err != nil {
		return
	}
	_ = f.Close() // what was written to it is not lost by that
	*f = *next
}
