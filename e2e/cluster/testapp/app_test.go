package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

func echo(t *testing.T) (s *server, addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	s = &server{host: "here"}
	s.ready.Store(true)
	go func() { _ = s.echo(l) }()
	return s, l.Addr().String()
}

func TestTries(t *testing.T) {
	s, tcp := echo(t)
	web := httptest.NewServer(s.pages())
	defer web.Close()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	go func() { _ = s.echoPackets(packets) }()

	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for target, try := range map[string]func(context.Context, string) (string, string, error){
		tcp: tryTCP, web.URL: tryHTTP, packets.LocalAddr().String(): tryUDP,
	} {
		server, peer, err := try(ctx, target)
		if err != nil || server != "here" || !strings.HasPrefix(peer, "127.0.0.1:") {
			t.Errorf("%s: server %q took us for %q, %v", target, server, peer, err)
		}
	}
}

func TestTotalTellsErrorsApart(t *testing.T) {
	total := newTotal()
	total.succeed("a", "10.0.0.1:5")
	total.succeed("a", "10.0.0.1:6")
	for _, port := range []string{"1", "2"} {
		total.fail(&net.OpError{Op: "dial", Addr: fakeAddr(port), Err: errors.New("refused")})
	}
	if total.OK != 2 || total.Failed != 2 || total.Peers["10.0.0.1"] != 2 || total.Errors["dial: refused"] != 2 {
		t.Errorf("%+v: want two of a kind counted as one kind", total)
	}
}

type fakeAddr string

func (fakeAddr) Network() string  { return "tcp" }
func (a fakeAddr) String() string { return string(a) }

func TestStreamEndsInOrderAndSeesABreak(t *testing.T) {
	_, addr := echo(t)
	ctx, cancel := context.WithCancel(t.Context())
	s := &streams{target: addr, every: time.Millisecond, timeout: 5 * time.Second, total: newTotal()}
	var wg sync.WaitGroup
	wg.Go(func() { s.keep(ctx) })
	for s.ok() < 3 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	wg.Wait()
	if s.total.Failed != 0 {
		t.Errorf("stopping counts as a break: %+v", s.total)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, _ = io.WriteString(c, "here 127.0.0.1:1\nwrong\n")
			_ = c.Close()
		}
	}()
	s = &streams{target: l.Addr().String(), timeout: 5 * time.Second, total: newTotal()}
	if err := s.one(t.Context()); err == nil {
		t.Error("an echo of something else passes")
	}
}

func (s *streams) ok() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total.OK
}

func TestHealthIsSpokenAsGRPC(t *testing.T) {
	s := &server{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	go func() { _ = s.serveHealth(addr) }()

	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	client := &http.Client{Transport: &http.Transport{Protocols: h2}}
	for ready, want := range map[bool]byte{true: 1, false: 2} {
		s.ready.Store(ready)
		var res *http.Response
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/grpc.health.v1.Health/Check", bytes.NewReader(make([]byte, 5)))
			if err != nil {
				t.Fatal(err)
			}
			if res, err = client.Do(req); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		body, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || len(body) != 7 || binary.BigEndian.Uint32(body[1:]) != 2 || body[6] != want {
			t.Errorf("ready %v: message % x, %v; want status %d", ready, body, err, want)
		}
		if got := res.Trailer.Get("Grpc-Status"); got != "0" {
			t.Errorf("trailer Grpc-Status is %q", got)
		}
	}
}

func TestTotalIsOneLineOfJSON(t *testing.T) {
	b, err := json.Marshal(newTotal())
	if err != nil || bytes.ContainsRune(b, '\n') {
		t.Errorf("%s, %v", b, err)
	}
}
