//go:build race

package openinference

func init() { raced = true }
