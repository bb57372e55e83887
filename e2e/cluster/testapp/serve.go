package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// serve listens with
//
//	-tcp :9000    writes "HOSTNAME PEER\n" and then echoes until the client closes
//	-udp :9001    answers each datagram with "HOSTNAME PEER\n"
//	-http :8080   see pages
//	-grpc :9090   grpc.health.v1.Health/Check, SERVING while ready
//
// An empty address leaves a listener out. After SIGTERM it serves for -linger,
// so that a test can watch a pod that terminates, and ends.
func serve(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	tcp := flags.String("tcp", ":9000", "")
	udp := flags.String("udp", ":9001", "")
	web := flags.String("http", ":8080", "")
	grpc := flags.String("grpc", ":9090", "")
	linger := flags.Duration("linger", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	s := &server{host: host}
	s.ready.Store(true)

	failed := make(chan error, 4)
	if *tcp != "" {
		l, err := net.Listen("tcp", *tcp)
		if err != nil {
			return err
		}
		go func() { failed <- s.echo(l) }()
	}
	if *udp != "" {
		l, err := net.ListenPacket("udp", *udp)
		if err != nil {
			return err
		}
		go func() { failed <- s.echoPackets(l) }()
	}
	if *web != "" {
		go func() { failed <- http.ListenAndServe(*web, s.pages()) }()
	}
	if *grpc != "" {
		go func() { failed <- s.serveHealth(*grpc) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-failed:
		return err
	case <-time.After(*linger):
		return nil
	}
}

type server struct {
	host  string
	ready atomic.Bool
	conns atomic.Int64 // accepted on -tcp since the start
}

func (s *server) echo(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		s.conns.Add(1)
		go func() {
			defer c.Close()
			if _, err := fmt.Fprintf(c, "%s %s\n", s.host, c.RemoteAddr()); err != nil {
				return
			}
			_, _ = io.Copy(c, c)
		}()
	}
}

func (s *server) echoPackets(l net.PacketConn) error {
	buf := make([]byte, 2048)
	for {
		_, from, err := l.ReadFrom(buf)
		if err != nil {
			return err
		}
		_, _ = l.WriteTo(fmt.Appendf(nil, "%s %s\n", s.host, from), from)
	}
}

// seen is what GET / tells the client about its own request.
type seen struct {
	Host  string // of the server
	Peer  string // address and port of the client, as the server sees it
	Local string // address and port that the client reached
	Conns int64  // on the TCP listener since the start
}

// pages are
//
//	/         seen, as JSON
//	/healthz  200
//	/readyz   200 or 503; POST /readyz?to=false or true changes it
//	/stream   a line every 100 ms until the client goes
func (s *server) pages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		_ = json.NewEncoder(w).Encode(seen{Host: s.host, Peer: r.RemoteAddr, Local: local.String(), Conns: s.conns.Load()})
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !s.ready.Load() {
			http.Error(w, "not ready", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /readyz", func(w http.ResponseWriter, r *http.Request) { s.ready.Store(r.FormValue("to") != "false") })
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		flush := http.NewResponseController(w)
		for i := 0; r.Context().Err() == nil; i++ {
			if _, err := fmt.Fprintln(w, i, s.host); err != nil || flush.Flush() != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	return mux
}

// serveHealth answers the kubelet's gRPC probe. The messages are so small that
// they are written here: five octets of frame, and field 1, the status.
func (s *server) serveHealth(addr string) error {
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /grpc.health.v1.Health/Check", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		status := byte(1) // SERVING
		if !s.ready.Load() {
			status = 2
		}
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 2, 1 << 3, status})
		w.Header().Set("Grpc-Status", "0")
	})
	return (&http.Server{Addr: addr, Handler: mux, Protocols: h2}).ListenAndServe()
}

// greeting reads what the TCP listener says first: who the server is and whom it takes us for.
func greeting(r *bufio.Reader) (host, peer string, err error) {
	line, err := r.ReadString('\n')
	if errors.Is(err, io.EOF) && line == "" {
		return "", "", errors.New("closed without a word")
	} else if err != nil {
		return "", "", err
	}
	if _, err := fmt.Sscan(line, &host, &peer); err != nil {
		return "", "", fmt.Errorf("greeting %q: %w", line, err)
	}
	return host, peer, nil
}
