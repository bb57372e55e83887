package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/testbed"
)

// dialEdge opens a connection to one of the edge's ports.
func (b *border) dialEdge(t *testing.T, port uint16) net.Conn {
	t.Helper()
	c, err := b.Client.Dial(t.Context(), &net.Dialer{Timeout: patience}, "tcp", b.target(port).Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (b *border) dialEdgeTLS(t *testing.T, alpn string) *tls.Conn {
	t.Helper()
	c := tls.Client(b.dialEdge(t, 443), &tls.Config{RootCAs: b.root.Pool(), ServerName: "www.example.com", NextProtos: []string{alpn}})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// serves wants an answer over every version.
func (b *border) serves(t *testing.T, when string) {
	t.Helper()
	for _, v := range edgeclient.Versions {
		if _, _, err := seen(t.Context(), b.client(t, v), "https://www.example.com/"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
}

// open waits until the edge has at most so many TCP connections open.
func (b *border) open(t *testing.T, most float64) {
	t.Helper()
	eventually(t, func() error {
		got, err := b.edge.Metric(t.Context(), "adit_ingress_connections_open", map[string]string{"transport": "tcp"})
		if err == nil && got > most {
			err = fmt.Errorf("%v connections are open, want at most %v", got, most)
		}
		return err
	})
}

// Clients that mean ill, or are very slow, are got rid of, and do not keep others
// from being served. Bounds are counted; nothing here is about speed.
func TestEdgeBoundsWhatClientsCost(t *testing.T) {
	b := newBorder(t)
	b.simple(t)
	app(t, b.Web, testbed.Echo("web"))
	b.run(t)
	b.serves(t, "at first")

	// They begin first, as their time is the longest: a header has 10 s from its
	// first byte, and a handshake 10 s.
	const slow = 60
	var lorises []net.Conn
	for i := range slow {
		var c net.Conn
		var err error
		switch i % 3 {
		case 0:
			c = b.dialEdge(t, 80)
			_, err = io.WriteString(c, "GET / HTTP/1.1\r\nHost: www.example.com\r\nX-A: b")
		case 1:
			c = b.dialEdge(t, 443) // no handshake
			_, err = c.Write([]byte{22, 3, 1})
		case 2:
			tc := b.dialEdgeTLS(t, "http/1.1")
			_, err = io.WriteString(tc, "GET / HTTP/1.1\r\nHost: www.example.com\r\n")
			c = tc
		}
		if err != nil {
			t.Fatal(err)
		}
		lorises = append(lorises, c)
	}

	t.Run("header floods", b.headerFloods)
	t.Run("rapid resets", b.rapidResets)
	t.Run("idle connections", b.idleConnections)
	t.Run("slow headers", func(t *testing.T) {
		b.serves(t, "beside slow headers")
		// However long this has taken, their time is soon over.
		deadline := time.Now().Add(time.Minute)
		var ended sync.WaitGroup
		for i, c := range lorises {
			ended.Go(func() {
				_ = c.SetReadDeadline(deadline)
				if _, err := io.Copy(io.Discard, c); isTimeout(err) {
					t.Errorf("slow client %d is still there after a minute", i)
				}
			})
		}
		ended.Wait()
	})
	b.serves(t, "in the end")
}

// headerFloods sends headers without end: each version stops reading.
func (b *border) headerFloods(t *testing.T) {
	for _, many := range []bool{false, true} {
		c := b.dialEdgeTLS(t, "http/1.1")
		_ = c.SetDeadline(time.Now().Add(patience))
		answer := make(chan string, 1)
		go func() {
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				answer <- err.Error()
				return
			}
			answer <- res.Status
		}()
		sent, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: www.example.com\r\n")
		for i := 0; err == nil && sent < 64<<20; i++ {
			var n int
			if many {
				n, err = fmt.Fprintf(c, "X-%d: y\r\n", i)
			} else {
				n, err = io.WriteString(c, strings.Repeat("x", 16<<10))
			}
			sent += n
		}
		if err == nil {
			t.Errorf("%d bytes of header were taken", sent)
		}
		// The answer may be lost to the reset that follows what was not read.
		if got := <-answer; !strings.HasPrefix(got, "431") && !strings.Contains(got, "reset") && !strings.Contains(got, "EOF") {
			t.Errorf("a header without end is answered with %q, want 431", got)
		}
	}
	for _, v := range []edgeclient.Version{edgeclient.HTTP2, edgeclient.HTTP3} {
		a, err := b.client(t, v).Get(t.Context(), "https://www.example.com/", "X-Large", strings.Repeat("x", 200<<10))
		if err == nil && a.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("%s: a header of 200 KiB is answered with %s, want 431 or a refusal", v, a.Status)
		}
	}
	b.continuationFlood(t)
	b.serves(t, "after floods of headers")
}

// continuationFlood sends CONTINUATION frames without end (CVE-2023-45288).
func (b *border) continuationFlood(t *testing.T) {
	c := b.dialEdgeTLS(t, "h2")
	_ = c.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = io.Copy(io.Discard, c) }()
	fr := http2.NewFramer(c, nil)
	_, err := io.WriteString(c, http2.ClientPreface)
	if err == nil {
		err = fr.WriteSettings()
	}
	if err == nil {
		err = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: requestHeader("/"), EndStream: true})
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	_ = enc.WriteField(hpack.HeaderField{Name: "x-more", Value: strings.Repeat("y", 8<<10), Sensitive: true})
	sent := 0
	for err == nil && sent < 64<<20 {
		err = fr.WriteContinuation(1, false, block.Bytes())
		sent += block.Len()
	}
	if err == nil {
		t.Errorf("%d bytes of CONTINUATION were taken", sent)
	}
}

func requestHeader(path string) []byte {
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "www.example.com"}, {":path", path}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return b.Bytes()
}

// rapidResets opens streams and resets them at once, without end (CVE-2023-44487).
func (b *border) rapidResets(t *testing.T) {
	mark := b.edge.LogOffset()
	const connections = 2
	for range connections {
		c := b.dialEdgeTLS(t, "h2")
		_ = c.SetDeadline(time.Now().Add(patience))
		go func() { _, _ = io.Copy(io.Discard, c) }()
		var out bytes.Buffer
		fr := http2.NewFramer(&out, nil)
		fr.AllowIllegalWrites = true
		out.WriteString(http2.ClientPreface)
		_ = fr.WriteSettings()
		header := requestHeader("/reset")
		var err error
		streams := 0
		for id := uint32(1); err == nil && streams < 100_000; id += 2 {
			_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: header, EndStream: true, EndHeaders: true})
			_ = fr.WriteRSTStream(id, http2.ErrCodeCancel)
			if streams++; streams%100 == 0 {
				_, err = c.Write(out.Bytes())
				out.Reset()
			}
		}
		if err == nil {
			t.Errorf("%d streams were opened and reset on one connection, which is still open", streams)
		}
	}
	b.serves(t, "after rapid resets")
	// What got through was little: a line of the log for each request.
	lines := 0
	_, _ = b.edge.Logged(t.Context(), mark, func(e testbed.Entry) bool {
		if strings.HasPrefix(e.Get("x-envoy-origin-path"), "/reset") {
			lines++
		}
		return e.Get("x-envoy-origin-path") == "/"
	})
	if lines > connections*5000 {
		t.Errorf("%d requests were begun for %d connections that reset all of theirs", lines, connections)
	}
}

// idleConnections holds many connections that say nothing.
func (b *border) idleConnections(t *testing.T) {
	const many = 600
	before, err := b.edge.Metric(t.Context(), "process_resident_memory_bytes", nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []net.Conn
	for range many {
		c := b.dialEdge(t, 80)
		all = append(all, c)
	}
	b.serves(t, "beside idle connections")
	after, err := b.edge.Metric(t.Context(), "process_resident_memory_bytes", nil)
	if err != nil {
		t.Fatal(err)
	}
	// An upper bound that holds with the race detector's shadow memory, too.
	if per := (after - before) / many; per > 256<<10 {
		t.Errorf("an idle connection takes %.0f bytes", per)
	}
	for _, c := range all {
		_ = c.Close()
	}
	b.open(t, 200)
}
