package upstream

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// BenchmarkRoundTrip compares with http.Transport, taking turns so that both see
// the same machine; x is how many times as long http.Transport takes.
func BenchmarkRoundTrip(b *testing.B) {
	srv := h2cServer(b, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }, nil)
	for _, proto := range []Protocol{HTTP1, H2} {
		b.Run(fmt.Sprintf("HTTP%d", proto+1), func(b *testing.B) {
			s := newSet(b, SetConfig{})
			c := one(b, s, Config{Protocol: proto, Endpoints: []Endpoint{at(b, srv.URL)}})
			tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64, Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(proto == HTTP1)
			tr.Protocols.SetUnencryptedHTTP2(proto == H2)
			b.Cleanup(tr.CloseIdleConnections)
			req, _ := http.NewRequestWithContext(b.Context(), "GET", srv.URL+"/", nil)
			req.Header.Set("User-Agent", "bench")
			drain := func(resp *http.Response, err error) {
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			ours := func() { h, _ := c.Pick(Pick{}); drain(c.RoundTrip(req, h)) }
			theirs := func() { drain(tr.RoundTrip(req)) }
			ours()
			theirs()
			var took [2]time.Duration
			const turn = 50
			for b.Loop() {
				for i, f := range []func(){ours, theirs} {
					start := time.Now()
					for range turn {
						f()
					}
					took[i] += time.Since(start)
				}
			}
			n := float64(b.N * turn)
			b.ReportMetric(float64(took[0])/n, "ns/req")
			b.ReportMetric(float64(took[1])/n, "ns/req-net/http")
			b.ReportMetric(float64(took[1])/float64(took[0]), "x")
			b.ReportMetric(testing.AllocsPerRun(100, ours), "allocs/req")
			b.ReportMetric(testing.AllocsPerRun(100, theirs), "allocs/req-net/http")
		})
	}
}
