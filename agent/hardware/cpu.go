package hardware

import (
	"context"
	"runtime"
	"strings"

	"github.com/klauspost/cpuid/v2"
	"github.com/shirou/gopsutil/v3/cpu"

	syncv1 "github.com/dhowfleet/dhow/protocol/gen/dhow/sync/v1"
)

// extensions are those that ONNX Runtime's kernels choose by.
var extensions = []cpuid.FeatureID{
	cpuid.SSE4, cpuid.AVX, cpuid.F16C, cpuid.FMA3, cpuid.AVX2, cpuid.AVXVNNI, cpuid.AVXVNNIINT8,
	cpuid.AVX512F, cpuid.AVX512BW, cpuid.AVX512DQ, cpuid.AVX512VL, cpuid.AVX512VNNI, cpuid.AVX512BF16, cpuid.AVX512FP16,
	cpuid.AMXTILE, cpuid.AMXINT8, cpuid.AMXBF16,
	cpuid.ASIMD, cpuid.ASIMDHP, cpuid.ASIMDDP, cpuid.SVE,
}

func probeCPU(ctx context.Context, limits cgroup) *syncv1.Cpu {
	out := &syncv1.Cpu{Model: strings.TrimSpace(cpuid.CPU.BrandName), LogicalCores: uint32(runtime.NumCPU())}
	if out.Model == "" { // arm64 has no brand string
		if info, err := cpu.InfoWithContext(ctx); err == nil && len(info) > 0 {
			out.Model = strings.TrimSpace(info[0].VendorID + " " + info[0].ModelName)
		}
	}
	if n, err := cpu.CountsWithContext(ctx, true); err == nil && n > 0 {
		out.LogicalCores = uint32(n)
	}
	if n, err := cpu.CountsWithContext(ctx, false); err == nil && n > 0 {
		out.PhysicalCores = uint32(n)
	}
	// The affinity mask is what NumCPU counts; it and the cgroup may each allow less than the machine has.
	allowed := float64(runtime.NumCPU())
	if limits.cores > 0 && limits.cores < allowed {
		allowed = limits.cores
	}
	if allowed < float64(out.LogicalCores) {
		out.LimitCores = allowed
	}
	for _, id := range extensions {
		if cpuid.CPU.Supports(id) {
			out.Extensions = append(out.Extensions, id.String())
		}
	}
	return out
}
