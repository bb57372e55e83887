package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/testbed"
)

// answer is what a pod's server says about a request, from its own side.
type answer struct {
	Pod        string `json:"pod"`
	RemoteAddr string `json:"remoteAddr"` // the peer of the server's socket
	Connection int64  `json:"connection"` // which of the connections that it accepted
	Echo       string `json:"echo"`       // the token it was sent
}

// tick is one line of /ticks.
type tick struct {
	N          int64 `json:"n"`
	Connection int64 `json:"connection"`
}

// tickEvery is short enough that a stream shows a gap of any length that
// matters here.
const tickEvery = 25 * time.Millisecond

type connectionKey struct{}

// ServePod is the application in a pod: an HTTP server that knows nothing of a
// mesh. GET / says who asked and echoes the X-Token header; GET /ticks counts
// until the client leaves. It returns when ctx ends or the listener fails.
func ServePod(ctx context.Context, name, addr string) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	var accepted atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		n, _ := r.Context().Value(connectionKey{}).(int64)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer{Pod: name, RemoteAddr: r.RemoteAddr, Connection: n, Echo: r.Header.Get("X-Token")})
	})
	mux.HandleFunc("GET /ticks", serveTicks)
	srv := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			return context.WithValue(ctx, connectionKey{}, accepted.Add(1))
		},
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	select {
	case err = <-served:
		return err
	case <-ctx.Done():
		_ = srv.Close()
		<-served
		return nil
	}
}

// startServer runs the application in a pod and waits until it listens.
func startServer(ctx context.Context, binary string, p *testbed.Pod) error {
	cmd := exec.Command(binary, "demo", "pod", p.Name, fmt.Sprintf(":%d", testbed.AppPort))
	// Its own process group: Ctrl-C is for the demo, which then stops it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	process, err := p.NS.Start(cmd)
	if err != nil {
		return err
	}
	return testbed.Poll(ctx, 5*time.Second, func() error {
		select {
		case <-process.Done():
			return testbed.Permanent{Err: fmt.Errorf("server in %s: %w", p.Name, process.Wait())}
		default:
		}
		c, err := p.NS.Dial(ctx, nil, "tcp", fmt.Sprintf("127.0.0.1:%d", testbed.AppPort))
		if err != nil {
			return fmt.Errorf("server in %s: %w", p.Name, err)
		}
		return c.Close()
	})
}

// url is a server at one of its addresses.
func url(addr netip.Addr, port uint16) string {
	return "http://" + netip.AddrPortFrom(addr, port).String()
}

func serveTicks(w http.ResponseWriter, r *http.Request) {
	conn, _ := r.Context().Value(connectionKey{}).(int64)
	flush := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	timer := time.NewTicker(tickEvery)
	defer timer.Stop()
	for n := int64(1); ; n++ {
		if enc.Encode(tick{N: n, Connection: conn}) != nil || flush.Flush() != nil {
			return
		}
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		}
	}
}

// ticks reads /ticks on one connection in the background, and notices when a
// number is missing or the connection ends.
type ticks struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // read after done

	last atomic.Int64
	conn atomic.Int64
}

// openTicks starts a stream over its own connection. Close ends it.
func openTicks(ctx context.Context, client *http.Client, url string) (*ticks, error) {
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/ticks", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		_ = res.Body.Close()
		cancel()
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	t := &ticks{cancel: cancel, done: make(chan struct{})}
	go t.read(res)
	return t, nil
}

func (t *ticks) read(res *http.Response) {
	defer close(t.done)
	defer res.Body.Close()
	dec := json.NewDecoder(res.Body)
	for {
		var next tick
		if t.err = dec.Decode(&next); t.err != nil {
			return
		}
		if last := t.last.Load(); next.N != last+1 {
			t.err = fmt.Errorf("tick %d follows tick %d", next.N, last)
			return
		}
		t.conn.Store(next.Connection)
		t.last.Store(next.N)
	}
}

// advance waits until n more ticks have arrived.
func (t *ticks) advance(ctx context.Context, n int64) error {
	want := t.last.Load() + n
	return testbed.Poll(ctx, 5*time.Second, func() error {
		select {
		case <-t.done:
			return testbed.Permanent{Err: fmt.Errorf("the stream ended after tick %d: %w", t.last.Load(), t.err)}
		default:
		}
		if got := t.last.Load(); got < want {
			return fmt.Errorf("stuck at tick %d", got)
		}
		return nil
	})
}

// Close ends the stream and returns why it had ended before, if it had.
func (t *ticks) Close() error {
	select {
	case <-t.done:
		return t.err
	default:
	}
	t.cancel()
	<-t.done
	return nil
}
