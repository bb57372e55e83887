package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// total is what client and stream count. Times are milliseconds.
type total struct {
	OK      int
	Failed  int
	Errors  map[string]int `json:",omitempty"` // by message, without addresses of our own
	Servers map[string]int `json:",omitempty"` // by host name: who answered
	Peers   map[string]int `json:",omitempty"` // by address: whom servers took us for
	Longest int64          // between two successes, or the start and the first
	Last    string         `json:",omitempty"` // the last error, whole
	Done    bool           // no line follows

	since time.Time
}

func newTotal() *total {
	return &total{Errors: map[string]int{}, Servers: map[string]int{}, Peers: map[string]int{}, since: time.Now()}
}

func (t *total) succeed(server, peer string) {
	t.OK++
	t.gap()
	t.Servers[server]++
	if host, _, err := net.SplitHostPort(peer); err == nil {
		peer = host
	}
	t.Peers[peer]++
}

func (t *total) gap() {
	now := time.Now()
	t.Longest = max(t.Longest, now.Sub(t.since).Milliseconds())
	t.since = now
}

func (t *total) fail(err error) {
	t.Failed++
	t.Last = err.Error()
	var op *net.OpError
	if errors.As(err, &op) {
		err = errors.New(op.Op + ": " + op.Err.Error())
	}
	if len(t.Errors) < 20 || t.Errors[err.Error()] > 0 {
		t.Errors[err.Error()]++
	}
}

func (t *total) print() {
	b, _ := json.Marshal(t)
	fmt.Println(string(b))
}

// client connects to TARGET, HOST:PORT or http://..., again and again, each time
// anew.
//
//	-every 100ms    from one start to the next
//	-for 0          how long; 0 is until SIGTERM
//	-count 0        how many; 0 is no limit
//	-timeout 2s     of one
//	-udp            the target speaks UDP
//	-until-ok       end with the first success
//	-fail           exit with an error if any failed
func client(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("client", flag.ContinueOnError)
	every := flags.Duration("every", 100*time.Millisecond, "")
	patience := flags.Duration("for", 0, "")
	count := flags.Int("count", 0, "")
	timeout := flags.Duration("timeout", 2*time.Second, "")
	udp := flags.Bool("udp", false, "")
	untilOK := flags.Bool("until-ok", false, "")
	strict := flags.Bool("fail", false, "")
	target, err := parse(flags, args)
	if err != nil {
		return err
	}
	if *patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *patience)
		defer cancel()
	}
	try := tryTCP
	switch {
	case strings.HasPrefix(target, "http://"):
		try = tryHTTP
	case *udp:
		try = tryUDP
	}
	t := newTotal()
	tick, report := time.NewTicker(*every), time.NewTicker(time.Second)
	defer tick.Stop()
	defer report.Stop()
	for n := 0; (*count == 0 || n < *count) && ctx.Err() == nil && (!*untilOK || t.OK == 0); n++ {
		// One that began is finished: a deadline of ours is no failure of the network.
		once, cancel := context.WithTimeout(context.WithoutCancel(ctx), *timeout)
		server, peer, err := try(once, target)
		cancel()
		if err != nil {
			t.fail(err)
		} else {
			t.succeed(server, peer)
		}
		select {
		case <-report.C:
			t.print()
		default:
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	t.gap()
	t.Done = true
	t.print()
	if *strict && (t.Failed > 0 || t.OK == 0) {
		return fmt.Errorf("%d of %d failed: %s", t.Failed, t.OK+t.Failed, t.Last)
	}
	return nil
}

// parse takes the target first or last.
func parse(flags *flag.FlagSet, args []string) (string, error) {
	var target string
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		target, args = args[0], args[1:]
	}
	if err := flags.Parse(args); err != nil {
		return "", err
	}
	if target == "" {
		target = flags.Arg(0)
	}
	if target == "" {
		return "", fmt.Errorf("usage: testapp %s TARGET [flags]", flags.Name())
	}
	return target, nil
}

func tryTCP(ctx context.Context, target string) (server, peer string, err error) {
	c, err := dial(ctx, "tcp", target)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	r := bufio.NewReader(c)
	if server, peer, err = greeting(r); err != nil {
		return "", "", err
	}
	const word = "and back\n"
	if _, err := io.WriteString(c, word); err != nil {
		return "", "", err
	}
	if back, err := r.ReadString('\n'); err != nil {
		return "", "", err
	} else if back != word {
		return "", "", fmt.Errorf("echo is %q", back)
	}
	return server, peer, nil
}

func tryUDP(ctx context.Context, target string) (server, peer string, err error) {
	c, err := dial(ctx, "udp", target)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, "who?"); err != nil {
		return "", "", err
	}
	return greeting(bufio.NewReader(c))
}

// dial gives the connection the deadline of ctx.
func dial(ctx context.Context, network, target string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	c, err := d.DialContext(ctx, network, target)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(deadline)
	}
	return c, nil
}

var oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func tryHTTP(ctx context.Context, target string) (server, peer string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return "", "", err
	}
	res, err := oneShot.Do(req)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", "", errors.New(res.Status)
	}
	var s seen
	if err := json.NewDecoder(res.Body).Decode(&s); err != nil {
		return "", "", err
	}
	return s.Host, s.Peer, nil
}
