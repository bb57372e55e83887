package edgedemo

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/lab"
)

// browser is a Chromium without a window that is told by the DevTools protocol
// (https://chromedevtools.github.io/devtools-protocol/) what to do, and says what
// it saw.
type browser struct {
	process *lab.Process
	home    string
	in      io.WriteCloser

	mu      sync.Mutex // guards the fields below
	calls   int
	answers map[int]chan message
	events  []message
	changed chan struct{}
	ended   error
}

// message is one of the protocol's, either way.
type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// startBrowser runs Chromium inside ns with a fresh profile in home, which is
// not removed.
func startBrowser(ns *lab.Namespace, home string, flags ...string) (*browser, error) {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	theirs, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	out, theirOut, err := os.Pipe()
	if err != nil {
		_ = in.Close()
		return nil, err
	}
	defer theirOut.Close()
	log, err := os.Create(filepath.Join(home, "chromium.log"))
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	defer log.Close()
	cmd := exec.Command("chromium", append([]string{
		"--headless=new",
		"--remote-debugging-pipe", // it reads from descriptor 3 and writes to 4
		"--no-sandbox",            // which root cannot have, and which would be for pages of strangers
		"--user-data-dir=" + filepath.Join(home, "profile"),
		"--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-extensions", "--window-size=1100,760", "--hide-scrollbars",
	}, flags...)...)
	cmd.ExtraFiles = []*os.File{theirs, theirOut}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	b := &browser{home: home, in: in, answers: make(map[int]chan message), changed: make(chan struct{})}
	if b.process, err = ns.Start(cmd); err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	go b.readMessages(out)
	return b, nil
}

// readMessages ends when the browser does.
func (b *browser) readMessages(out io.ReadCloser) {
	defer out.Close()
	r := bufio.NewReader(out)
	for {
		raw, err := r.ReadBytes(0)
		if err != nil {
			b.mu.Lock()
			b.ended = fmt.Errorf("the browser has ended; its words are in %s", filepath.Join(b.home, "chromium.log"))
			close(b.changed)
			b.changed = make(chan struct{})
			for _, c := range b.answers {
				close(c)
			}
			clear(b.answers)
			b.mu.Unlock()
			return
		}
		var m message
		if json.Unmarshal(raw[:len(raw)-1], &m) != nil {
			continue
		}
		b.mu.Lock()
		if m.Method != "" {
			b.events = append(b.events, m)
			close(b.changed)
			b.changed = make(chan struct{})
		} else if c := b.answers[m.ID]; c != nil {
			c <- m
			delete(b.answers, m.ID)
		}
		b.mu.Unlock()
	}
}

// Close ends the browser and all its processes.
func (b *browser) Close() {
	_ = b.in.Close()
	// Its children are in its process group.
	_ = syscall.Kill(-b.process.Cmd.Process.Pid, syscall.SIGKILL)
	b.process.Kill()
}

// call asks the browser, or one of its tabs, and decodes the answer into result,
// which may be nil.
func (b *browser) call(ctx context.Context, session, method string, params, result any) error {
	raw, err := json.Marshal(params)
	if err != nil {
		return err
	}
	answer := make(chan message, 1)
	b.mu.Lock()
	if b.ended != nil {
		b.mu.Unlock()
		return b.ended
	}
	b.calls++
	m := message{ID: b.calls, SessionID: session, Method: method, Params: raw}
	b.answers[m.ID] = answer
	b.mu.Unlock()
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(text, 0)); err != nil {
		return fmt.Errorf("tell the browser: %w", err)
	}
	select {
	case got, ok := <-answer:
		switch {
		case !ok:
			return b.ended
		case got.Error != nil:
			return fmt.Errorf("the browser on %s: %s", method, got.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(got.Result, result)
	case <-ctx.Done():
		return fmt.Errorf("the browser does not answer %s: %w", method, ctx.Err())
	}
}

// await returns the first event of a tab that match accepts.
func (b *browser) await(ctx context.Context, session string, match func(message) bool) error {
	for seen := 0; ; {
		b.mu.Lock()
		events, changed, ended := b.events, b.changed, b.ended
		b.mu.Unlock()
		for ; seen < len(events); seen++ {
			if events[seen].SessionID == session && match(events[seen]) {
				return nil
			}
		}
		if ended != nil {
			return ended
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// visit is a page as the browser saw it.
type visit struct {
	Status   int
	Protocol string // as the browser's network stack says
	Header   map[string]string
	Text     string // what the page says
	Picture  []byte // PNG
	Failed   string // why there is no page
}

// visitTime bounds a visit. A browser that starts on a busy machine is slow.
const visitTime = 60 * time.Second

// visit opens a page in a tab of its own and looks at it.
func (b *browser) visit(ctx context.Context, url string) (visit, error) {
	ctx, cancel := context.WithTimeout(ctx, visitTime)
	defer cancel()
	var target struct {
		TargetID string `json:"targetId"`
	}
	if err := b.call(ctx, "", "Target.createTarget", map[string]any{"url": "about:blank"}, &target); err != nil {
		return visit{}, err
	}
	defer func() { _ = b.call(ctx, "", "Target.closeTarget", target, nil) }()
	var attached struct {
		SessionID string `json:"sessionId"`
	}
	if err := b.call(ctx, "", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached); err != nil {
		return visit{}, err
	}
	tab := attached.SessionID
	for _, domain := range []string{"Network.enable", "Page.enable"} {
		if err := b.call(ctx, tab, domain, struct{}{}, nil); err != nil {
			return visit{}, err
		}
	}
	var went struct {
		ErrorText string `json:"errorText"`
	}
	if err := b.call(ctx, tab, "Page.navigate", map[string]any{"url": url}, &went); err != nil {
		return visit{}, err
	}
	if went.ErrorText != "" {
		return visit{Failed: went.ErrorText}, nil
	}
	var v visit
	if err := b.await(ctx, tab, v.document); err != nil {
		return v, fmt.Errorf("no answer to the browser's request: %w", err)
	}
	if err := b.await(ctx, tab, func(m message) bool { return m.Method == "Page.loadEventFired" }); err != nil {
		return v, fmt.Errorf("the page does not load: %w", err)
	}
	var text struct {
		Result struct {
			Value string `json:"value"`
		} `json:"result"`
	}
	if err := b.call(ctx, tab, "Runtime.evaluate", map[string]any{"expression": "document.body.innerText"}, &text); err != nil {
		return v, err
	}
	v.Text = text.Result.Value
	var picture struct {
		Data string `json:"data"`
	}
	if err := b.call(ctx, tab, "Page.captureScreenshot", map[string]any{"format": "png"}, &picture); err != nil {
		return v, err
	}
	var err error
	v.Picture, err = base64.StdEncoding.DecodeString(picture.Data)
	return v, err
}

// document takes the answer to the page's own request out of an event.
func (v *visit) document(m message) bool {
	if m.Method != "Network.responseReceived" {
		return false
	}
	var p struct {
		Type     string `json:"type"`
		Response struct {
			Status   int               `json:"status"`
			Protocol string            `json:"protocol"`
			Headers  map[string]string `json:"headers"`
		} `json:"response"`
	}
	if json.Unmarshal(m.Params, &p) != nil || p.Type != "Document" {
		return false
	}
	v.Status, v.Protocol, v.Header = p.Response.Status, p.Response.Protocol, p.Response.Headers
	return true
}

// quit lets the browser end by itself, so that what it logs is whole.
func (b *browser) quit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_ = b.call(ctx, "", "Browser.close", struct{}{}, nil)
	select {
	case <-b.process.Done():
	case <-ctx.Done():
	}
	b.Close()
}
