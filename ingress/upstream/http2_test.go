package upstream

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// frames is an HTTP/2 server that a test writes by hand: handle is called for each
// stream's HEADERS.
func frames(t testing.TB, settings []http2.Setting, handle func(fr *http2.Framer, f *http2.MetaHeadersFrame) (goOn bool)) string {
	return rawServer(t, func(c net.Conn) {
		if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		fr := http2.NewFramer(c, c)
		fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		fr.WriteSettings(settings...)
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() {
					fr.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if !f.IsAck() {
					fr.WritePing(true, f.Data)
				}
			case *http2.MetaHeadersFrame:
				if !handle(fr, f) {
					return
				}
			}
		}
	})
}

func answer(fr *http2.Framer, f *http2.MetaHeadersFrame, body string) {
	var sb strings.Builder
	enc := hpack.NewEncoder(&sb)
	enc.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, BlockFragment: []byte(sb.String()), EndHeaders: true})
	fr.WriteData(f.StreamID, true, []byte(body))
}

func TestHTTP2OpensMoreConnections(t *testing.T) {
	const atOnce = 25
	var wg, entered sync.WaitGroup
	entered.Add(atOnce)
	var conns atomic.Int32
	srv := h2cServer(t, func(w http.ResponseWriter, r *http.Request) {
		entered.Done()
		entered.Wait() // all are under way at once
		echo(w, r)
	}, func(s *http.Server) {
		s.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 10}
		s.ConnState = func(_ net.Conn, st http.ConnState) {
			if st == http.StateNew {
				conns.Add(1)
			}
		}
	})
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Protocol: H2, Endpoints: []Endpoint{at(t, srv.URL)}})
	for range atOnce {
		wg.Go(func() { mustSend(t, c, request(t, "GET", "/", ""), "GET / backend.example ") })
	}
	wg.Wait()
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections of 10 streams for 25 requests at once, want 3", n)
	}
}

func TestHTTP2Failures(t *testing.T) {
	for _, tt := range []struct {
		why       string
		handle    func(fr *http2.Framer, f *http2.MetaHeadersFrame) bool
		kind      Kind
		processed bool
	}{
		{"resets the stream", func(fr *http2.Framer, f *http2.MetaHeadersFrame) bool {
			fr.WriteRSTStream(f.StreamID, http2.ErrCodeInternal)
			return true
		}, Reset, true},
		{"always refuses the stream", func(fr *http2.Framer, f *http2.MetaHeadersFrame) bool {
			fr.WriteRSTStream(f.StreamID, http2.ErrCodeRefusedStream)
			return true
		}, Reset, false},
		{"closes the connection", func(fr *http2.Framer, f *http2.MetaHeadersFrame) bool { return false }, Closed, true},
		{"answers without a status", func(fr *http2.Framer, f *http2.MetaHeadersFrame) bool {
			fr.WriteHeaders(http2.HeadersFrameParam{StreamID: f.StreamID, EndHeaders: true, EndStream: true})
			return true
		}, Malformed, true},
		{"always goes away", func(fr *http2.Framer, f *http2.MetaHeadersFrame) bool {
			fr.WriteGoAway(0, http2.ErrCodeNo, nil)
			return true
		}, Closed, false},
	} {
		t.Run(tt.why, func(t *testing.T) {
			s := newSet(t, SetConfig{})
			c := one(t, s, Config{Protocol: H2, Endpoints: []Endpoint{at(t, frames(t, nil, tt.handle))}})
			_, _, err := send(c, request(t, "POST", "/", ""))
			e := wantKind(t, err, tt.kind, "a backend that "+tt.why)
			if e.Processed != tt.processed || !e.Sent {
				t.Errorf("%v: processed %v, want %v", e, e.Processed, tt.processed)
			}
			if st := c.Status().Endpoints[0]; st.Active != 0 {
				t.Errorf("%d requests under way afterwards", st.Active)
			}
		})
	}
}

// What a backend promises not to have looked at is sent again, whatever it is.
func TestHTTP2SendsAgainWhatWasRefused(t *testing.T) {
	for _, refuse := range []func(fr *http2.Framer, id uint32){
		func(fr *http2.Framer, id uint32) { fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
		func(fr *http2.Framer, id uint32) { fr.WriteGoAway(id-2&^1, http2.ErrCodeNo, nil) },
	} {
		var n atomic.Int32
		addr := frames(t, nil, func(fr *http2.Framer, f *http2.MetaHeadersFrame) bool {
			if n.Add(1) == 2 { // the first is another request's, so that this is none of a new connection
				refuse(fr, f.StreamID)
			} else {
				answer(fr, f, "ok")
			}
			return true
		})
		s := newSet(t, SetConfig{})
		c := one(t, s, Config{Protocol: H2, Endpoints: []Endpoint{at(t, addr)}})
		mustSend(t, c, request(t, "GET", "/", ""), "ok")
		mustSend(t, c, request(t, "POST", "/", ""), "ok")

		n.Store(0)
		mustSend(t, c, request(t, "GET", "/", ""), "ok")
		r := request(t, "POST", "/", "body")
		var closed atomic.Int32
		r.GetBody = func() (io.ReadCloser, error) { return closeCounted{strings.NewReader("body"), &closed}, nil }
		r.Body, _ = r.GetBody()
		mustSend(t, c, r, "ok")
		eventually(t, "each body is closed", func() bool { return closed.Load() >= 1 })
	}
}

type closeCounted struct {
	io.Reader
	n *atomic.Int32
}

func (c closeCounted) Close() error { c.n.Add(1); return nil }

// Some errors of http2 are known by their text alone: these are those of a
// connection that takes no more requests.
func TestHTTP2ErrorTexts(t *testing.T) {
	srv := h2cServer(t, echo, nil)
	nc, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	cc, err := newH2ClientConn(newH2Transport(SetConfig{MaxHeaderBytes: 1 << 10}), nc)
	if err != nil {
		t.Fatal(err)
	}
	x := &exchange{ctx: t.Context(), host: &Host{peer: &peer{}}}
	cc.Close()
	for range 2 {
		_, err := cc.RoundTrip(request(t, "GET", "/", ""))
		if err == nil {
			t.Fatal("a closed connection carried a request")
		}
		if e := x.error2(err, nil); e.Sent || e.Processed {
			t.Errorf("%q is not known to mean that nothing was sent", err)
		}
		cc.SetDoNotReuse()
	}
}

func TestHTTP2BackendThatIsNone(t *testing.T) {
	for why, addr := range map[string]string{
		"speaks HTTP/1.1": serve(t, echo).URL,
		"closes at once":  rawServer(t, func(net.Conn) {}),
	} {
		s := newSet(t, SetConfig{})
		c := one(t, s, Config{Protocol: H2, Endpoints: []Endpoint{at(t, addr)}})
		_, _, err := send(c, request(t, "POST", "/", "x"))
		e := wantKind(t, err, Connect, "a backend that "+why)
		if !strings.Contains(e.Error(), "does the backend speak HTTP/2 on this port?") || e.BodyRead {
			t.Errorf("%s: %v", why, e)
		}
		eventually(t, "no connection is left", func() bool { return c.Status().Endpoints[0].Connections == 0 })
	}
}

// A connection on which a request timed out, and whose peer is silent, keeps no
// other requests waiting.
func TestHTTP2SilentPeer(t *testing.T) {
	var silent atomic.Bool
	addr := rawServer(t, func(c net.Conn) {
		if silent.Load() {
			return
		}
		io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		fr := http2.NewFramer(c, c)
		fr.WriteSettings()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return
			}
			if f, ok := f.(*http2.PingFrame); ok && !silent.Swap(true) {
				fr.WritePing(true, f.Data)
			}
		}
	})
	s := newSet(t, SetConfig{})
	c := one(t, s, Config{Protocol: H2, Endpoints: []Endpoint{at(t, addr)}})
	h, _ := c.Pick(Pick{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.RoundTrip(request(t, "GET", "/", "").WithContext(ctx), h)
	wantKind(t, err, Timeout, "no answer in time")
	_, err = c.RoundTrip(request(t, "GET", "/", ""), h)
	wantKind(t, err, Connect, "the next request does not wait on the silent connection")
}
