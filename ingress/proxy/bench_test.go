package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// fixedBackend answers every request with the same bytes, as cheaply as it can.
func fixedBackend(b *testing.B, body int) *upstream.Config {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: " + strconv.Itoa(body) + "\r\n\r\n" + strings.Repeat("x", body))
	return rawBackend(b, func(c net.Conn) {
		in := bufio.NewReaderSize(c, 4096)
		for {
			for {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				if len(line) <= 2 {
					break
				}
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
}

const benchRequest = "GET /path?q=1 HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\n\r\n"

// drive sends n requests over conns connections, and returns how long that took.
func drive(b *testing.B, addr string, conns, n int) time.Duration {
	b.Helper()
	cs := make([]net.Conn, conns)
	for i := range cs {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		cs[i] = c
	}
	var wg sync.WaitGroup
	start := time.Now()
	for i, c := range cs {
		mine := n / conns
		if i < n%conns {
			mine++
		}
		wg.Go(func() {
			in := bufio.NewReaderSize(c, 64<<10)
			for range mine {
				if _, err := io.WriteString(c, benchRequest); err != nil {
					b.Error(err)
					return
				}
				if err := skipAnswer(in); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func skipAnswer(in *bufio.Reader) error {
	length := 0
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
			length, _ = strconv.Atoi(string(bytes.TrimSpace(v)))
		}
	}
	_, err := in.Discard(length)
	return err
}

// BenchmarkAgainstReverseProxy drives this proxy behind its HTTP/1.1 server, and
// the standard library's behind its own, in turns, and reports how many times as
// fast the former is: the median of the turns.
func BenchmarkAgainstReverseProxy(b *testing.B) {
	for _, size := range []int{128, 100 << 10} {
		for _, conns := range []int{1, 64} {
			b.Run("body="+strconv.Itoa(size)+"/conns="+strconv.Itoa(conns), func(b *testing.B) {
				conf := fixedBackend(b, size)
				e := newEdge(b, one(conf), toA(), func(c *Config) { c.Record = nil })
				target, _ := url.Parse("http://" + conf.Endpoints[0].Addr.String())
				tr := &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}
				std := httptest.NewServer(&httputil.ReverseProxy{
					Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target); r.SetXForwarded() },
					Transport: tr, BufferPool: stdBuffers{},
				})
				b.Cleanup(func() { std.Close(); tr.CloseIdleConnections() })
				ours, theirs := strings.TrimPrefix(e.url, "http://"), strings.TrimPrefix(std.URL, "http://")
				drive(b, ours, conns, 200)
				drive(b, theirs, conns, 200)
				const rounds = 9
				n := max(b.N/rounds, conns)
				var ratios []float64
				var sum time.Duration
				b.ResetTimer()
				for range rounds {
					a := drive(b, ours, conns, n)
					ratios = append(ratios, float64(drive(b, theirs, conns, n))/float64(a))
					sum += a
				}
				slices.Sort(ratios)
				b.ReportMetric(ratios[rounds/2], "times-as-fast")
				b.ReportMetric(float64(sum.Nanoseconds())/float64(n*rounds), "ns/ours")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkServe is for profiles of this proxy alone.
func BenchmarkServe(b *testing.B) {
	e := newEdge(b, one(fixedBackend(b, 128)), toA(), func(c *Config) { c.Record = nil })
	b.ReportAllocs()
	drive(b, strings.TrimPrefix(e.url, "http://"), 16, 200)
	b.ResetTimer()
	drive(b, strings.TrimPrefix(e.url, "http://"), 16, b.N)
}

type stdBuffers struct{}

func (stdBuffers) Get() []byte  { return buffers.Get().(*[copyBuffer]byte)[:] }
func (stdBuffers) Put(p []byte) { buffers.Put((*[copyBuffer]byte)(p)) }
