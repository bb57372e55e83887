package proxy

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"

	"github.com/adit-mesh/adit/ingress/upstream"
)

// mirrorLag is how far a mirror may fall behind a body, in bytes. One that is
// slower is given up: it must not slow the request.
const mirrorLag = 256 << 10

// mirrorAnswer is how much of a mirror's answer is read so that its connection can
// be used again. Nobody wants the answer.
const mirrorAnswer = 64 << 10

var errMirrorSlow = errors.New("the mirror is slower than the request")

// mirror begins the copies that the rule's and the backend's filters ask for, of
// the request as the backend gets it.
func (t *transaction) mirror() {
	if t.upgrade != "" {
		return
	}
	t.mirrorTo(t.rule.Filters.Mirrors)
	t.mirrorTo(t.backend.Filters.Mirrors)
}

func (t *transaction) mirrorTo(ms []Mirror) {
	for i := range ms {
		m := &ms[i]
		if m.Backend.Cluster == "" || !m.takes() {
			continue
		}
		cluster := t.p.set.Cluster(m.Backend.Cluster)
		if cluster == nil {
			continue
		}
		select {
		case t.p.mirrors <- struct{}{}:
		default:
			t.p.log.Debug("request not mirrored: too many are", "cluster", m.Backend.Cluster)
			continue
		}
		u := *t.r.URL
		req := &http.Request{Method: t.r.Method, URL: &u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: t.r.Header.Clone(), Host: t.r.Host, Body: http.NoBody, RemoteAddr: t.r.RemoteAddr}
		if t.body != nil {
			tee := newTee()
			t.body.tees = append(t.body.tees, tee)
			req.Body, req.ContentLength = tee, t.r.ContentLength
		}
		t.p.wg.Add(1)
		go t.p.serveMirror(cluster, req, m.Backend.Cluster)
	}
}

// takes says whether this request is of the share that is mirrored.
func (m *Mirror) takes() bool {
	return m.Denominator <= 0 || rand.Int32N(m.Denominator) < m.Numerator
}

func (p *Proxy) serveMirror(cluster *upstream.Cluster, req *http.Request, name string) {
	defer p.wg.Done()
	defer func() { <-p.mirrors }()
	defer req.Body.Close()
	ctx, cancel := context.WithTimeout(p.ctx, p.mirrorTimeout)
	defer cancel()
	host, err := cluster.Pick(upstream.Pick{})
	if err != nil {
		p.log.Debug("mirror", "cluster", name, "err", err)
		return
	}
	res, err := cluster.RoundTrip(req.WithContext(ctx), host)
	if err != nil {
		p.log.Debug("mirror", "cluster", name, "err", err)
		return
	}
	_, _ = io.CopyN(io.Discard, res.Body, mirrorAnswer)
	_ = res.Body.Close()
}

// tee is a copy of a body that is still coming.
type tee struct {
	mu   sync.Mutex
	wake sync.Cond
	buf  []byte
	err  error
}

func newTee() *tee {
	t := new(tee)
	t.wake.L = &t.mu
	return t
}

// write never waits.
func (t *tee) write(p []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	if len(t.buf)+len(p) > mirrorLag {
		t.buf, t.err = nil, errMirrorSlow
	} else {
		t.buf = append(t.buf, p...)
	}
	t.wake.Signal()
}

func (t *tee) end(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = err
	}
	t.wake.Signal()
}

func (t *tee) Read(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.buf) == 0 && t.err == nil {
		t.wake.Wait()
	}
	if len(t.buf) == 0 {
		return 0, t.err
	}
	n := copy(p, t.buf)
	t.buf = t.buf[n:]
	return n, nil
}

func (t *tee) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = nil
	if t.err == nil {
		t.err = errAttemptOver
	}
	t.wake.Signal()
	return nil
}
