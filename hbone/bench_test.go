package hbone

import (
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The whole path in one process: client, pool, tunnel, server, upstream. For
// comparisons with other paths, in processes of their own, see `adit bench`.

func BenchmarkBulk(b *testing.B) {
	for _, streams := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("up-%d", streams), func(b *testing.B) {
			r := newRig(b)
			addr := r.front(upstream(b, func(c *net.TCPConn) {
				buf := make([]byte, 256<<10)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}))
			const chunk = 256 << 10
			b.SetBytes(chunk)
			conns := make([]net.Conn, streams)
			for i := range conns {
				conns[i] = dialBench(b, addr)
			}
			cpu := cpuTime()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i, c := range conns {
				n := b.N / streams
				if i < b.N%streams {
					n++
				}
				wg.Go(func() {
					buf := make([]byte, chunk)
					for range n {
						if _, err := c.Write(buf); err != nil {
							b.Error(err)
							return
						}
					}
					c.(*net.TCPConn).CloseWrite()
					io.ReadAll(c)
				})
			}
			wg.Wait()
			b.ReportMetric((cpuTime()-cpu).Seconds()/(float64(b.N)*chunk/(1<<30)), "cpu-s/GiB")
		})
	}
}

func BenchmarkPingPong(b *testing.B) {
	for _, conns := range []int{1, 64} {
		b.Run(fmt.Sprint(conns), func(b *testing.B) {
			r := newRig(b)
			addr := r.front(upstream(b, echo))
			cs := make([]net.Conn, conns)
			for i := range cs {
				cs[i] = dialBench(b, addr)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var wg sync.WaitGroup
			for i, c := range cs {
				n := b.N / conns
				if i < b.N%conns {
					n++
				}
				wg.Go(func() {
					buf := make([]byte, 64)
					for range n {
						c.Write(buf)
						if _, err := io.ReadFull(c, buf); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func BenchmarkConnect(b *testing.B) {
	r := newRig(b)
	addr := r.front(upstream(b, echo))
	buf := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		c.Write(buf)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

func dialBench(b *testing.B, addr string) net.Conn {
	b.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// cpuTime is what the process has used, load generator included.
func cpuTime() time.Duration {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		return 0
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
