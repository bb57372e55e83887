package edge

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// changeOrder changes a configuration in the way that its program documents, and asks on new connections until it is used.
type changeOrder struct {
	File, Content string // replaced whole
	Signal        int    // to the process PID, afterwards; 0 = none
	PID           int
	Post          string // a URL to which the content goes as well; "" = none
	Addr, Path    string // what answers 404 before and 200 afterwards
	Patience      time.Duration
}

type changeResult struct {
	Took time.Duration
}

func change(o changeOrder) (changeResult, error) {
	if status, err := statusOf(o.Addr, o.Path); err != nil || status == http.StatusOK {
		return changeResult{}, fmt.Errorf("before the change: status %d, %v; want 404", status, err)
	}
	begun := time.Now()
	if err := replace(o.File, o.Content); err != nil {
		return changeResult{}, err
	}
	if o.Signal != 0 {
		if err := syscall.Kill(o.PID, syscall.Signal(o.Signal)); err != nil {
			return changeResult{}, fmt.Errorf("signal the program: %w", err)
		}
	}
	if o.Post != "" {
		resp, err := http.Post(o.Post, "text/caddyfile", strings.NewReader(o.Content))
		if err != nil {
			return changeResult{}, err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return changeResult{}, fmt.Errorf("POST %s: %s", o.Post, resp.Status)
		}
	}
	for time.Since(begun) < o.Patience {
		// A refused connection is no answer: a program that reloads may be between two.
		if status, err := statusOf(o.Addr, o.Path); err == nil && status == http.StatusOK {
			return changeResult{time.Since(begun)}, nil
		}
		time.Sleep(200 * time.Microsecond)
	}
	return changeResult{}, fmt.Errorf("not used %s after the change", o.Patience)
}

// replace puts a new file in the place of an old one in one step.
func replace(name, content string) error {
	next := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".next")
	if err := os.WriteFile(next, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(next, name)
}

func statusOf(addr, path string) (int, error) {
	c, err := dial(protoH1, addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	resp, err := exchangeH1(c, bufio.NewReader(c), addr, path)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, nil
}
