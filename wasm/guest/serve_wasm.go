//go:build wasip1

package guest

func serveNative() {}
