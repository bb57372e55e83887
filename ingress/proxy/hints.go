package proxy

import (
	"net/http"
	"net/textproto"
	"sync"
)

// hints passes interim answers (103 Early Hints) on to the client, as a proxy must
// (RFC 9110, 15.2). They may come on a goroutine of the upstream connection, until
// the attempt has its answer.
type hints struct {
	w http.ResponseWriter

	mu   sync.Mutex
	over bool
}

func (h *hints) pass(code int, header textproto.MIMEHeader) error {
	// 100 is between the client and us; 101 is an answer.
	if code == http.StatusContinue || code == http.StatusSwitchingProtocols {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return nil
	}
	out := h.w.Header()
	interim := http.Header(header).Clone()
	removeHopByHop(interim)
	for name, v := range interim {
		out[name] = v
	}
	h.w.WriteHeader(code)
	clear(out) // what is for the interim answer is not for the final one
	return nil
}

// close returns when nothing is passed on any more.
func (h *hints) close() {
	h.mu.Lock()
	h.over = true
	h.mu.Unlock()
}
