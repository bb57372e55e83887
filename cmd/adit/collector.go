package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// heapGoal is how large the heap of an edge may grow before it is collected, however little of it is live. A request leaves some
// kilobytes behind, and what is live of an edge with few connections is a few megabytes: at Go's default the collector would run a
// hundred times a second, for a tenth of the processor. Much more costs again what it saves, in cache misses and page faults.
const heapGoal = 32 << 20

// spareCollector keeps the collector from running before the heap is heapGoal. GOGC in the environment has the last word.
func spareCollector() {
	if os.Getenv("GOGC") != "" {
		return
	}
	c := &collector{percent: 100}
	c.adjust()
	c.follow()
}

// collector is changed after each collection, by one goroutine at a time.
type collector struct{ percent int }

// follow arranges for adjust to be called after each collection.
func (c *collector) follow() {
	type marker struct{ self *collector }
	runtime.AddCleanup(&marker{c}, func(c *collector) {
		c.adjust()
		c.follow()
	}, c)
}

func (c *collector) adjust() {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"},
		{Name: "/gc/scan/globals:bytes"},
	}
	metrics.Read(samples)
	percent := gcPercent(samples[0].Value.Uint64(), samples[1].Value.Uint64()+samples[2].Value.Uint64())
	// Setting it stops the world: not for a few per cent.
	if diff := percent - c.percent; diff > c.percent/8 || -diff > c.percent/8 {
		c.percent = percent
		debug.SetGCPercent(percent)
	}
}

// gcPercent is the GOGC at which a heap of live bytes, with roots bytes of stacks and globals, is next collected at heapGoal or
// at twice its size, whichever is later: the goal is live + (live + roots) × GOGC/100.
func gcPercent(live, roots uint64) int {
	if live >= heapGoal {
		return 100
	}
	return int(min(max((heapGoal-live)*100/max(live+roots, 1<<20), 100), 1600))
}
