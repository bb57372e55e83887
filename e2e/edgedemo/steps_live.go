package edgedemo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/adit-mesh/adit/e2e/edgeclient"
	"github.com/adit-mesh/adit/e2e/testbed"
	"github.com/adit-mesh/adit/ingress"
)

// load is requests one after the other over each version, until it is stopped.
type load struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	total  int
	failed []error
	pods   map[string]int // since the last count
}

func (d *demo) startLoad(ctx context.Context) *load {
	ctx, stop := context.WithCancel(ctx)
	l := &load{stop: stop, pods: make(map[string]int)}
	for _, v := range edgeclient.Versions {
		l.done.Go(func() { l.ask(ctx, edgeclient.New(d.target, v)) })
	}
	return l
}

func (l *load) ask(ctx context.Context, c *edgeclient.Client) {
	defer c.Close()
	for ctx.Err() == nil {
		// The last request ends by itself: to cut it short would look like a failure.
		a, err := c.Get(context.WithoutCancel(ctx), "https://"+name+"/load")
		var seen testbed.Seen
		if err == nil && a.StatusCode != http.StatusOK {
			err = errors.New(a.Status)
		}
		if err == nil {
			err = json.Unmarshal(a.Content, &seen)
		}
		l.mu.Lock()
		l.total++
		l.pods[seen.Pod]++
		if err != nil {
			l.failed = append(l.failed, fmt.Errorf("%s: %w", c.Version, err))
		}
		l.mu.Unlock()
	}
}

// count waits for n more requests, and says which pods answered these.
func (l *load) count(ctx context.Context, n int) (map[string]int, error) {
	l.mu.Lock()
	l.pods = make(map[string]int)
	start := l.total
	l.mu.Unlock()
	err := testbed.Poll(ctx, 20*time.Second, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if done := l.total - start; done < n {
			return fmt.Errorf("only %d requests are through", done)
		}
		return nil
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.pods), err
}

// end waits for the last requests. It says how many there were, and why some failed.
func (l *load) end() (total int, failed []error) {
	l.stop()
	l.done.Wait()
	return l.total, l.failed
}

func (d *demo) routesChangeUnderLoad(ctx context.Context) error {
	d.Step("Weights and routes change while requests run")
	l := d.startLoad(ctx)
	defer l.end()
	for _, edit := range []struct {
		web, next int
		more      string
		low, high float64 // of the share that the second pod has
	}{
		{1, 1, "", 0.35, 0.65},
		{1, 2, "", 0.5, 0.83},
		{0, 1, "", 1, 1},
		{1, 0, canary, 0, 0},
	} {
		d.Does("edit routes.yaml: web %d, next %d", edit.web, edit.next)
		if err := d.edge.Put("routes.yaml", routes(edit.web, edit.next, edit.more)); err != nil {
			return err
		}
		if err := d.applied(ctx, edit.web, edit.next); err != nil {
			return err
		}
		if _, err := l.count(ctx, len(edgeclient.Versions)); err != nil { // what was under way
			return err
		}
		pods, err := l.count(ctx, 300)
		if err != nil {
			return err
		}
		share := float64(pods[d.Next.Name]) / float64(pods[d.Web.Name]+pods[d.Next.Name])
		d.Check(share >= edit.low && share <= edit.high, fmt.Sprintf("weights %d:%d", edit.web, edit.next), "web answered %d, next %d", pods[d.Web.Name], pods[d.Next.Name])
	}
	c := edgeclient.New(d.target, edgeclient.HTTP3)
	defer c.Close()
	a, err := c.Get(ctx, "https://"+name+"/", "env", "canary")
	d.Check(err == nil && strings.Contains(string(a.Content), `"pod":"next"`), "a header leads to the other pod", "env: canary")
	d.Does("edge: adit why https://%s/ -H 'env: canary'", name)
	if out, err := run(ctx, d.Edge, d.Binary, "why", "https://"+name+"/", "-H", "env: canary"); err != nil {
		d.Check(false, "adit says why", "%v", err)
	} else {
		for line := range strings.Lines(out) {
			d.Quote("adit", line)
		}
	}
	total, failed := l.end()
	d.Check(len(failed) == 0, "no request failed", "%d of %d, over HTTP/1.1, 2 and 3 %s", len(failed), total, first(failed))
	return ctx.Err()
}

func first(errs []error) string {
	if len(errs) == 0 {
		return ""
	}
	return "(" + errs[0].Error() + ")"
}

// applied waits until the edge has the weights that routes.yaml has.
func (d *demo) applied(ctx context.Context, web, next int) error {
	return testbed.Poll(ctx, 5*time.Second, func() error {
		var answer ingress.Answer
		if err := d.edge.Explain(ctx, "url=https://"+name+"/", &answer); err != nil {
			return err
		}
		if len(answer.Ports) != 1 || answer.Ports[0].Rule == nil {
			return fmt.Errorf("the edge knows no rule: %+v", answer)
		}
		var has [2]int
		for _, b := range answer.Ports[0].Rule.Backends {
			if strings.Contains(b.Cluster, d.Web.Name) {
				has[0] += int(b.Weight)
			} else {
				has[1] += int(b.Weight)
			}
		}
		if has != [2]int{web, next} {
			return fmt.Errorf("the edge has the weights %v, and not %d:%d", has, web, next)
		}
		return nil
	})
}

func (d *demo) certificateIsSwapped(ctx context.Context) error {
	d.Step("A certificate is renewed under open connections, on TCP and on QUIC")
	l := d.startLoad(ctx)
	defer l.end()
	open := make(map[edgeclient.Version]*edgeclient.WebSocket)
	for _, v := range edgeclient.Versions {
		ws, err := edgeclient.OpenWebSocket(ctx, d.target, v, "https://"+name+"/ws")
		if err != nil {
			d.Check(false, "a WebSocket over "+string(v), "%v", err)
			return ctx.Err()
		}
		defer ws.Close()
		open[v] = ws
	}
	before, err := d.presented(ctx, edgeclient.HTTP1)
	if err != nil {
		return err
	}
	fresh, err := d.root.Issue(name)
	if err != nil {
		return err
	}
	d.Does("write %s/www.crt and www.key", d.certificates())
	if err := testbed.WriteCertificate(d.certificates(), "www", fresh); err != nil {
		return err
	}
	want := fmt.Sprintf("%x", fresh.Leaf.SerialNumber)
	for _, v := range edgeclient.Versions {
		var shown string
		err := testbed.Poll(ctx, 5*time.Second, func() (err error) {
			if shown, err = d.presented(ctx, v); err == nil && shown != want {
				err = fmt.Errorf("the server shows %s, and not %s", shown, want)
			}
			return err
		})
		if err != nil {
			d.Check(false, fmt.Sprintf("new handshakes (%s) show the new one", v), "%v", err)
			continue
		}
		d.Check(true, fmt.Sprintf("new handshakes (%s) show the new one", v), "serial %s → %s", before, shown)
	}
	for _, v := range edgeclient.Versions {
		got, err := open[v].Say("still here")
		d.Check(err == nil && got == d.Web.Name+" heard still here", fmt.Sprintf("the WebSocket over %s never noticed", v), "%s%v", got, orNothing(err))
	}
	total, failed := l.end()
	d.Check(len(failed) == 0, "no request failed", "%d of %d %s", len(failed), total, first(failed))
	return ctx.Err()
}

func orNothing(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// presented is the serial number of the certificate that a new handshake is shown.
func (d *demo) presented(ctx context.Context, v edgeclient.Version) (string, error) {
	c := edgeclient.New(d.target, v)
	defer c.Close()
	a, err := c.Get(ctx, "https://"+name+"/")
	if err != nil {
		return "", err
	}
	var state *tls.ConnectionState
	if state = a.TLS; state == nil || len(state.PeerCertificates) == 0 {
		return "", errors.New("the client does not say which certificate it was shown")
	}
	return fmt.Sprintf("%x", state.PeerCertificates[0].SerialNumber), nil
}

// drains ends the edge with an answer under way on each version.
func (d *demo) drains(ctx context.Context) error {
	d.Step("SIGTERM: what is under way ends in peace")
	type outcome struct {
		v    edgeclient.Version
		text string
		err  error
	}
	begun, ended := make(chan outcome), make(chan outcome)
	for _, v := range edgeclient.Versions {
		go func() {
			c := edgeclient.New(d.target, v)
			defer c.Close()
			res, err := c.Client.Get("https://" + name + slow)
			if err != nil {
				begun <- outcome{v, "", err}
				return
			}
			defer res.Body.Close()
			head := make([]byte, len("begun"))
			_, err = io.ReadFull(res.Body, head)
			begun <- outcome{v, string(head), err}
			rest, err := io.ReadAll(res.Body)
			ended <- outcome{v, string(head) + string(rest), err}
		}()
	}
	running := 0
	for range edgeclient.Versions {
		if o := <-begun; o.err != nil {
			d.Check(false, "an answer begins over "+string(o.v), "%v", o.err)
		} else {
			running++
		}
	}
	d.Does("kill -TERM %d   (the edge)", d.edge.PID())
	if err := d.edge.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := testbed.Poll(ctx, 5*time.Second, func() error {
		c, err := d.Client.Dial(ctx, nil, "tcp", d.target.Addr.String())
		if err == nil {
			_ = c.Close()
			return errors.New("a new connection is accepted")
		}
		return nil
	})
	d.Check(err == nil, "nothing new is accepted", "%s", orNothing(err))
	close(d.end)
	for range running {
		o := <-ended
		d.Check(o.err == nil && o.text == "begun, and ended", "the answer over "+string(o.v)+" is whole", "%q%s", o.text, orNothing(o.err))
	}
	select {
	case <-d.edge.Done():
		err := d.edge.Wait()
		d.Check(err == nil, "then the edge exits", "%s", map[bool]string{true: "with code 0", false: orNothing(err)}[err == nil])
	case <-time.After(15 * time.Second):
		d.Check(false, "then the edge exits", "not after 15 s")
	case <-ctx.Done():
	}
	return ctx.Err()
}
