package evidence

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Watch is a capture on one link for the length of one step.
type Watch struct {
	ns      *lab.Namespace
	link    string
	Sniffer *lab.Sniffer
}

func NewWatch(ns *lab.Namespace, link string) (*Watch, error) {
	s, err := ns.Sniff(link)
	if err != nil {
		return nil, err
	}
	return &Watch{ns: ns, link: link, Sniffer: s}, nil
}

// Finish waits until everything that has crossed the link is recorded, ends
// the capture and examines it for secret.
func (w *Watch) Finish(secret string) (Traffic, error) {
	defer w.Sniffer.Close()
	if err := w.Flush(); err != nil {
		return Traffic{}, err
	}
	if err := w.Sniffer.Close(); err != nil {
		return Traffic{}, err
	}
	if n := w.Sniffer.Dropped(); n > 0 {
		return Traffic{}, fmt.Errorf("the capture on %s lost %d frames: it proves nothing", w.link, n)
	}
	return Examine(w.Sniffer.Frames(), []byte(secret)), nil
}

// markType is a local experimental EtherType, IEEE Std 802.
const markType = 0x88b5

// Flush sends a frame of its own over the link and waits for it in the
// capture: frames are recorded in order, so whatever went before is in.
func (w *Watch) Flush() error {
	var id [16]byte
	_, _ = rand.Read(id[:])
	marker := make([]byte, 60)
	marker[0] = 0x03 // a group address: no host takes it for its own
	binary.BigEndian.PutUint16(marker[12:], markType)
	copy(marker[14:], id[:])
	if err := w.ns.Inject(w.link, marker); err != nil {
		return err
	}
	_, ok := w.Sniffer.WaitFor(3*time.Second, func(f lab.Frame) bool { return bytes.Contains(f.Data, id[:]) })
	if !ok {
		return fmt.Errorf("the capture on %s does not see a frame sent to test it", w.link)
	}
	return nil
}

// During runs f while the link is watched, and says what crossed it.
func During(ctx context.Context, ns *lab.Namespace, link, secret string, f func(context.Context) error) (Traffic, error) {
	w, err := NewWatch(ns, link)
	if err != nil {
		return Traffic{}, err
	}
	if err := f(ctx); err != nil {
		_ = w.Sniffer.Close()
		return Traffic{}, err
	}
	return w.Finish(secret)
}

// NewToken is what a step hides in its requests.
func NewToken() string {
	var b [12]byte
	_, _ = rand.Read(b[:])
	return "secret-" + hex.EncodeToString(b[:])
}
