package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// watch is a capture on one link for the length of one step.
type watch struct {
	ns      *lab.Namespace
	link    string
	sniffer *lab.Sniffer
}

func newWatch(ns *lab.Namespace, link string) (*watch, error) {
	s, err := ns.Sniff(link)
	if err != nil {
		return nil, err
	}
	return &watch{ns: ns, link: link, sniffer: s}, nil
}

// finish waits until everything that has crossed the link is recorded, ends
// the capture and examines it for secret.
func (w *watch) finish(secret string) (evidence, error) {
	defer w.sniffer.Close()
	if err := w.flush(); err != nil {
		return evidence{}, err
	}
	if err := w.sniffer.Close(); err != nil {
		return evidence{}, err
	}
	if n := w.sniffer.Dropped(); n > 0 {
		return evidence{}, fmt.Errorf("the capture on %s lost %d frames: it proves nothing", w.link, n)
	}
	return examine(w.sniffer.Frames(), []byte(secret)), nil
}

// flush sends a frame of its own over the link and waits for it in the
// capture: frames are recorded in order, so whatever went before is in.
func (w *watch) flush() error {
	var id [16]byte
	_, _ = rand.Read(id[:])
	marker := make([]byte, 60)
	marker[0] = 0x03                    // a group address: no host takes it for its own
	marker[12], marker[13] = 0x88, 0xb5 // local experimental EtherType, IEEE Std 802
	copy(marker[14:], id[:])
	if err := w.ns.Inject(w.link, marker); err != nil {
		return err
	}
	_, ok := w.sniffer.WaitFor(3*time.Second, func(f lab.Frame) bool { return bytes.Contains(f.Data, id[:]) })
	if !ok {
		return fmt.Errorf("the capture on %s does not see a frame sent to test it", w.link)
	}
	return nil
}

// during runs f while the link is watched, and says what crossed it.
func during(ctx context.Context, ns *lab.Namespace, link, secret string, f func(context.Context) error) (evidence, error) {
	w, err := newWatch(ns, link)
	if err != nil {
		return evidence{}, err
	}
	if err := f(ctx); err != nil {
		_ = w.sniffer.Close()
		return evidence{}, err
	}
	return w.finish(secret)
}

// newToken is what a step hides in its requests.
func newToken() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return "secret-" + hex.EncodeToString(b[:])
}
