package edge

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// handshakeOrder makes TLS connections one after the other, each closed as soon as it is there, Workers at a time.
type handshakeOrder struct {
	Addr     string
	Resume   bool // a session of before
	Hybrid   bool // key exchange X25519MLKEM768 instead of X25519, which is all that the rivals have
	Workers  int
	Duration time.Duration
}

type handshakeResult struct {
	Count   int64
	Elapsed time.Duration
}

func shakeHands(o handshakeOrder) (handshakeResult, error) {
	cfg := clientTLS("http/1.1")
	cfg.CurvePreferences = []tls.CurveID{tls.X25519}
	if o.Hybrid {
		cfg.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768}
	}
	if o.Resume {
		var err error
		if cfg.ClientSessionCache, err = oneSession(o.Addr); err != nil {
			return handshakeResult{}, err
		}
	}
	var count, resumed atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, o.Workers)
	begun := time.Now()
	end := begun.Add(o.Duration)
	for range o.Workers {
		wg.Go(func() {
			for time.Now().Before(end) {
				again, err := shakeOnce(o.Addr, cfg)
				if err != nil {
					errs <- err
					return
				}
				count.Add(1)
				if again {
					resumed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	result := handshakeResult{count.Load(), time.Since(begun)}
	select {
	case err := <-errs:
		return result, err
	default:
	}
	if o.Resume && resumed.Load() < count.Load() {
		return result, fmt.Errorf("%d of %d sessions were not resumed", count.Load()-resumed.Load(), count.Load())
	}
	return result, nil
}

func shakeOnce(addr string, cfg *tls.Config) (resumed bool, err error) {
	tcp, err := net.Dial("tcp4", addr)
	if err != nil {
		return false, err
	}
	defer tcp.Close()
	tcp.(*net.TCPConn).SetLinger(0) // tens of thousands of them would use up the ports
	c := tls.Client(tcp, cfg)
	if err := c.Handshake(); err != nil {
		return false, err
	}
	return c.ConnectionState().DidResume, nil
}

// keptSession is a session cache that gives out the one session that it was made with, ever again.
type keptSession struct {
	state atomic.Pointer[tls.ClientSessionState]
}

func (k *keptSession) Get(string) (*tls.ClientSessionState, bool) {
	s := k.state.Load()
	return s, s != nil
}

func (k *keptSession) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		k.state.CompareAndSwap(nil, s)
	}
}

// oneSession gets a ticket, which comes after the handshake.
func oneSession(addr string) (*keptSession, error) {
	k := new(keptSession)
	cfg := clientTLS("http/1.1")
	cfg.ClientSessionCache = k
	tcp, err := net.Dial("tcp4", addr)
	if err != nil {
		return nil, err
	}
	defer tcp.Close()
	c := tls.Client(tcp, cfg)
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", addr); err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, c); err != nil {
		return nil, err
	}
	if _, ok := k.Get(""); !ok {
		return nil, errors.New("the server gives no session tickets")
	}
	return k, nil
}
