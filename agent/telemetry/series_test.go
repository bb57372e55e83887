package telemetry

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/adit-mesh/adit/hbone"
)

func TestSeriesAreEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		var mu sync.Mutex
		exists := map[string]bool{client.UID: true, server.UID: true}
		tel := New(Config{Registerer: reg, LabelTTL: 10 * time.Minute, Exists: func(uid string) bool {
			mu.Lock()
			defer mu.Unlock()
			return exists[uid]
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tel.Run(ctx) }()

		stranger := Info{Reporter: Source, DestinationAddr: netip.MustParseAddrPort("192.0.2.1:443")}
		tel.Open(outbound()).Close(1, 1, nil, FlagNone)
		tel.Open(stranger).Close(1, 1, nil, FlagNone)
		long := tel.Open(inbound())
		tel.CaptureRepair("default/curl-1", "rules")
		want(t, "in use", gather(t, reg), "adit_telemetry_series", 3)

		time.Sleep(time.Hour)
		samples := gather(t, reg, "destination_workload")
		want(t, "workloads that exist keep their series; an idle stranger does not", samples, "adit_telemetry_series", 2)
		want(t, "an old repair", samples, "adit_capture_repairs_total", 0)

		mu.Lock()
		delete(exists, server.UID)
		mu.Unlock()
		time.Sleep(9 * time.Minute)
		want(t, "gone, not for long enough", gather(t, reg), "adit_telemetry_series", 2)
		time.Sleep(4 * time.Minute)
		want(t, "gone, but one connection is still open", gather(t, reg), "adit_telemetry_series", 1)
		long.Progress(5, 5)
		long.Close(5, 5, nil, FlagNone)
		want(t, "closed just now, so still to be scraped", gather(t, reg, "reporter"), "istio_tcp_received_bytes_total{destination}", 5)
		time.Sleep(13 * time.Minute)
		want(t, "the last one is gone", gather(t, reg), "adit_telemetry_series", 0)

		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A peer that the node does not know names its series itself. They go when they
// are not used, although their destination exists, and make room for others.
func TestSeriesNamedByPeersAreEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewPedanticRegistry()
		tel := New(Config{Registerer: reg, MaxSeries: 10, LabelTTL: 10 * time.Minute, Exists: func(uid string) bool {
			return uid == client.UID || uid == server.UID
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- tel.Run(ctx) }()

		for i := range 10 {
			info := inbound()
			info.Source = nil
			info.SourceBaggage = &hbone.Baggage{WorkloadName: fmt.Sprint("w", i)}
			tel.Open(info).Close(1, 0, nil, FlagNone)
		}
		want(t, "in use", gather(t, reg), "adit_telemetry_series", 10)
		time.Sleep(15 * time.Minute)
		want(t, "named by peers and not used for longer than LabelTTL", gather(t, reg), "adit_telemetry_series", 0)
		tel.Open(outbound()).Close(1, 0, nil, FlagNone)
		want(t, "there is room for workloads that are known", gather(t, reg), "adit_telemetry_overflow_total", 0)

		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestSeriesAreBounded(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	tel := New(Config{Registerer: reg, MaxSeries: 10})
	for i := range 100 {
		info := inbound()
		info.Source = nil
		info.SourceBaggage = &hbone.Baggage{WorkloadName: fmt.Sprint("w", i)}
		tel.Open(info).Close(1, 0, nil, FlagNone)
	}
	samples := gather(t, reg)
	want(t, "beyond the bound", samples, "adit_telemetry_series", 11)
	want(t, "beyond the bound", samples, "adit_telemetry_overflow_total", 90)
	want(t, "nothing is lost from the sum", samples, "istio_tcp_connections_closed_total", 100)
}

func TestConcurrentRecords(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	var log bytes.Buffer
	tel := New(Config{Registerer: reg, AccessLog: &log, LabelTTL: time.Nanosecond})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- tel.Run(ctx) }()
	// Holds the series: the records that come and go beside it must not let
	// an eviction take it away under it.
	anchor := tel.Open(outbound())
	stop := make(chan struct{})
	evicted := make(chan struct{})
	go func() {
		defer close(evicted)
		for {
			select {
			case <-stop:
				return
			default:
				tel.table.evict(time.Now().Add(time.Hour), time.Nanosecond, nil)
				_, _ = reg.Gather()
			}
		}
	}()

	var wg sync.WaitGroup
	const each, workers = 200, 8
	for range workers {
		wg.Go(func() {
			for i := range each {
				r := tel.Open(outbound())
				r.Progress(int64(i), 1)
				r.Close(int64(i), 1, nil, FlagNone)
			}
		})
	}
	wg.Wait()
	close(stop)
	<-evicted
	cancel()
	<-done
	anchor.Close(0, 1, nil, FlagNone)
	samples := gather(t, reg)
	const n = each*workers + 1
	want(t, "all", samples, "istio_tcp_connections_opened_total", n)
	want(t, "all", samples, "istio_tcp_connections_closed_total", n)
	want(t, "all", samples, "istio_tcp_received_bytes_total", workers*each*(each-1)/2)
	want(t, "all", samples, "istio_tcp_sent_bytes_total", n)
	if got := strings.Count(log.String(), "\n"); got != n {
		t.Errorf("%d lines, want %d", got, n)
	}
}

func TestSeriesUsedWhileItIsEvictedStays(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	tel := New(Config{Registerer: reg})
	tel.Open(outbound()).Close(1, 0, nil, FlagNone)
	var r *Record
	tel.table.evict(time.Now().Add(time.Hour), time.Minute, func(string) bool {
		if r == nil {
			r = tel.Open(outbound()) // a connection comes while we ask
		}
		return false
	})
	r.Close(1, 0, nil, FlagNone)
	want(t, "the series was in use again", gather(t, reg), "istio_tcp_connections_closed_total", 2)
}
