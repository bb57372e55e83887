package edge

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/quic-go/quic-go"
)

// idleOrder opens connections, makes a request on each, and leaves them.
type idleOrder struct {
	Proto, Addr string
	Count       int
}

func (c *client) hold(o idleOrder) (any, error) {
	if o.Proto == protoH3 {
		conns, sockets, err := openH3(o.Addr, o.Count)
		for _, q := range conns {
			c.idle = append(c.idle, quicCloser{q})
		}
		for _, s := range sockets {
			c.idle = append(c.idle, s)
		}
		if err != nil {
			return nil, err
		}
		l := &h3Load{request: requestFrame(o.Addr)}
		return nil, inTurns(len(conns), func(i int) error { return l.exchange(conns[i], make([]byte, 2048)) })
	}
	var mu sync.Mutex
	return nil, inTurns(o.Count, func(int) error {
		conn, err := openIdle(o.Proto, o.Addr)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		c.idle = append(c.idle, conn)
		return nil
	})
}

type quicCloser struct{ c *quic.Conn }

func (q quicCloser) Close() error { return q.c.CloseWithError(0x100, "") }

// inTurns does n things, a few at a time.
func inTurns(n int, do func(int) error) error {
	errs := make([]error, n)
	turn := make(chan struct{}, 16)
	var wg sync.WaitGroup
	for i := range n {
		turn <- struct{}{}
		wg.Go(func() {
			errs[i] = do(i)
			<-turn
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func openIdle(proto, addr string) (io.Closer, error) {
	if proto == protoH2 {
		return openIdleH2(addr)
	}
	conn, err := dial(proto, addr)
	if err != nil {
		return nil, err
	}
	resp, err := exchangeH1(conn, bufio.NewReader(conn), addr, "/")
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// openIdleH2 speaks HTTP/2 by hand: thousands of connections of a whole client would crowd the machine.
func openIdleH2(addr string) (net.Conn, error) {
	conn, err := dialH2(addr)
	if err != nil {
		return nil, err
	}
	if err := exchangeH2(conn, addr); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func exchangeH2(conn net.Conn, authority string) error {
	var head, out bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", authority}, {":path", "/"}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	out.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&out, conn)
	framer.WriteSettings()
	framer.WriteSettingsAck()
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true})
	if _, err := conn.Write(out.Bytes()); err != nil {
		return err
	}
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			return fmt.Errorf("GOAWAY with %s", f.ErrCode)
		case *http2.RSTStreamFrame:
			return fmt.Errorf("the stream was reset with %s", f.ErrCode)
		case *http2.DataFrame:
			if f.StreamEnded() {
				return nil
			}
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				return errors.New("an answer without a body")
			}
		}
	}
}

func (c *client) drop() error {
	for _, conn := range c.idle {
		conn.Close()
	}
	c.idle = nil
	return nil
}
