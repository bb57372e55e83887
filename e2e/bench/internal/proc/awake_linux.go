package proc

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A Waker keeps every processor awake with a thread that any other thread displaces.
// It has a process of its own, because a starved thread would hold up its process's garbage collector.
type Waker struct {
	on      atomic.Bool
	threads sync.WaitGroup
}

func (w *Waker) Handle(do string, _ json.RawMessage) (any, error) {
	switch do {
	case "start":
		return nil, w.start()
	case "stop":
		w.on.Store(false)
		w.threads.Wait()
		return nil, nil
	}
	return HandleCommon(do)
}

func (w *Waker) start() error {
	debug.SetGCPercent(-1)
	processors := runtime.NumCPU()
	runtime.GOMAXPROCS(processors + 1) // one for the control loop
	w.on.Store(true)
	ready := make(chan error, processors)
	for range processors {
		w.threads.Go(func() { w.spin(ready) })
	}
	for range processors {
		if err := <-ready; err != nil {
			w.on.Store(false)
			return err
		}
	}
	return nil
}

func (w *Waker) spin(ready chan<- error) {
	runtime.LockOSThread() // the policy belongs to this thread; it ends with the goroutine
	err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
	if err != nil {
		ready <- fmt.Errorf("sched_setattr(SCHED_IDLE): %w", err)
		return
	}
	ready <- nil
	for w.on.Load() {
	}
}
