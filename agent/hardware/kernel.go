package hardware

import "golang.org/x/sys/unix"

// kernel returns the release of the running kernel, such as "6.1.0-18-amd64".
func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}
