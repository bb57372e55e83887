package h2

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// TestTurns checks that streams that have much to send take turns, and that a small
// answer waits for one batch at most.
func TestTurns(t *testing.T) {
	const streams = 5
	begin := make(chan struct{})
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		<-begin
		if r.URL.Path == "/" {
			w.Write(make([]byte, 1<<20))
		} else {
			io.WriteString(w, "small")
		}
	})
	p := dial(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	for range streams {
		p.open(true, getRoot...)
	}
	p.ping()
	close(begin)
	headers, used := 0, 0
	p.want("all headers and all of the window", func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			headers++
		case *http2.DataFrame:
			used += len(f.Data())
		}
		return headers == streams && used == defaultWindow
	})
	small := p.open(true, with(getRoot[:6], ":path", "/small")...)
	p.ping()
	p.f.WriteWindowUpdate(0, 40*16<<10)
	got := map[uint32]int{}
	var order []uint32
	p.want("the small answer and the rest of the window", func(f http2.Frame) bool {
		if d, ok := f.(*http2.DataFrame); ok {
			got[d.StreamID] += len(d.Data())
			if len(d.Data()) > 1000 || d.StreamID == small {
				order = append(order, d.StreamID)
			}
		}
		total := 0
		for _, n := range got {
			total += n
		}
		return total >= 40*16<<10
	})
	if got[small] != 5 {
		t.Errorf("the small answer did not come: %v", got)
	}
	most, least := 0, 1<<30
	for id, n := range got {
		if id != small {
			most, least = max(most, n), min(least, n)
		}
	}
	if most-least > 2*quantum {
		t.Errorf("the streams' shares differ: %v", got)
	}
	for i, id := range order {
		if id == small && i > 2*streams {
			t.Errorf("the small answer came after %d frames", i)
		}
	}
}

// TestUrgency checks that what is more urgent goes first (RFC 9218).
func TestUrgency(t *testing.T) {
	addr := plain(t, &Server{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Date"] = nil
		w.Write([]byte(strings.Repeat("x", 100_000)))
	})
	p := dial(t, addr, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
	block := func(id uint32) {
		p.want("HEADERS", func(f http2.Frame) bool { _, ok := f.(*http2.MetaHeadersFrame); return ok })
	}
	block(p.open(true, getRoot...)) // takes the connection's window
	p.want("all of the window", func() func(http2.Frame) bool {
		n := 0
		return func(f http2.Frame) bool {
			if d, ok := f.(*http2.DataFrame); ok {
				n += len(d.Data())
			}
			return n == defaultWindow
		}
	}())
	block(p.open(true, with(getRoot, "priority", "u=5")...))
	urgent := p.open(true, with(getRoot, "priority", "i, u=1")...)
	block(urgent)
	block(p.open(true, with(getRoot, "priority", "u=9")...))
	p.ping()
	p.f.WriteWindowUpdate(0, 150_000)
	n := 0
	p.want("the urgent answer", func(f http2.Frame) bool {
		d, ok := f.(*http2.DataFrame)
		if !ok {
			return false
		}
		if d.StreamID != urgent {
			t.Errorf("stream %d goes before the urgent one", d.StreamID)
		}
		n += len(d.Data())
		return n == 100_000
	})
}

func TestUrgencyField(t *testing.T) {
	for field, want := range map[string]uint8{
		"": 3, "u=0": 0, "i": 3, "u=7": 7, "u=8": 3, "u=-1": 3, "i, u=2": 2, "i,u=2": 2, "mu=2": 3, "u": 3, "u=": 3, "u=1;x": 1,
	} {
		if got := urgency(field); got != want {
			t.Errorf("urgency(%q) = %d, want %d", field, got, want)
		}
	}
}
