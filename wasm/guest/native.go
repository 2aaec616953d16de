//go:build !wasip1

package guest

func emitFeature(string, float64) {}

func emitCount(string, uint64) {}

func emitLog(uint32, string) {}
