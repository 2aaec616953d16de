package metrics

import runtimemetrics "runtime/metrics"

// readRuntime asks Go's runtime without stopping it, which runtime.ReadMemStats would.
func readRuntime() (heap, released, collections uint64) {
	samples := []runtimemetrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	runtimemetrics.Read(samples)
	value := func(i int) uint64 {
		if samples[i].Value.Kind() != runtimemetrics.KindUint64 {
			return 0
		}
		return samples[i].Value.Uint64()
	}
	return value(0), value(1), value(2)
}

// process writes what Prometheus' own clients write of a process, by the same names, and the memory that is its own.
func (p *page) process(s Process) {
	one := func(name, kind, help string, n uint64) {
		p.family(name, kind, help)
		p.count("", n)
	}
	p.family("process_cpu_seconds_total", counter, "Processor time of the agent.")
	p.value("", s.CPU.Seconds())
	one("process_resident_memory_bytes", gauge, "Memory of the agent, with the pages of its program.", s.Resident)
	if s.Anonymous > 0 {
		one("dhow_process_anonymous_memory_bytes", gauge, "Memory of the agent that is its own.", s.Anonymous)
	}
	one("process_open_fds", gauge, "Open files of the agent.", s.OpenFiles)
	if s.MaxFiles > 0 {
		one("process_max_fds", gauge, "How many files the agent may open.", s.MaxFiles)
	}
	if !s.Start.IsZero() {
		p.family("process_start_time_seconds", gauge, "When the agent started, in seconds since 1970.")
		p.value("", float64(s.Start.UnixMilli())/1000)
	}
	one("go_goroutines", gauge, "Goroutines of the agent.", uint64(s.Goroutines))
	one("go_threads", gauge, "Threads of the agent.", s.Threads)
	one("go_memstats_heap_alloc_bytes", gauge, "Objects on the heap.", s.HeapInUse)
	one("go_memstats_heap_released_bytes", gauge, "Memory that was given back to the system.", s.HeapReleased)
	one("dhow_gc_cycles_total", counter, "Garbage collections.", s.GarbageCollections)
}
