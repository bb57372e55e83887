package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Request sends one HTTP request from inside a node or pod of a demo that was
// started with Keep, and writes the body to out. An answer that is no 2xx is
// an error.
func Request(ctx context.Context, out io.Writer, from, method, url string) error {
	path := filepath.Join(lab.Dir, nsPrefix+from)
	ns, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("no %s here; start `adit demo --keep` in another terminal, and name one of its nodes or pods", from)
	} else if err != nil {
		return err
	}
	defer ns.Close()
	client := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				return dialInside(ctx, ns, network, addr)
			},
		},
	}
	req, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(out, res.Body); err != nil {
		return err
	}
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("%s: %s", url, res.Status)
	}
	return nil
}

// dialInside connects from within a namespace, to a literal address.
func dialInside(ctx context.Context, ns *os.File, network, addr string) (net.Conn, error) {
	var c net.Conn
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine, so that
		// nothing else runs in the namespace by accident.
		runtime.LockOSThread()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			err = fmt.Errorf("enter %s: %w; run as root", ns.Name(), err)
			return
		}
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
	}()
	<-done
	return c, err
}
