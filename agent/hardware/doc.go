// Package hardware finds out what the machine can do: CPU and its instruction set extensions, memory, disk, cgroup
// limits, and NVIDIA GPUs.
//
// Probe asks each source once and returns what it could learn; a source that fails leaves its fields empty and never
// fails the whole, since a node without a readable /sys still serves. GPUs are asked through NVML, which is opened at
// run time and closed again, in a goroutine of its own that Probe does not wait for longer than Options.GPUTimeout: a
// hanging driver must not hang the agent. "No GPU" is a normal answer and comes with a sentence that says why.
package hardware
