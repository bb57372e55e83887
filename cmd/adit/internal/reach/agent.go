package reach

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/adit-mesh/adit/agent/inspect"
)

// AdminPort is where an agent answers, on its node's loopback.
const AdminPort = 15000

// Agent is one agent that may be asked.
type Agent struct {
	// Node is the node it runs on, "" if only the agent knows.
	Node string
	// Name is its pod, or the address of its admin port.
	Name string
	// Problem is why it cannot answer whatever one does: its pod does not run.
	Problem string

	base   string // of its URLs
	client *http.Client
}

// newAgent returns an agent at a URL, which must name a loopback address. dial
// gets there; nil = the network does.
func newAgent(node, name, base string, dial func(ctx context.Context) (net.Conn, error)) *Agent {
	transport := &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}
	if dial != nil {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	}
	return &Agent{Node: node, Name: name, base: base, client: &http.Client{Transport: transport}}
}

// String names the agent in messages.
func (a *Agent) String() string {
	if a.Node == "" {
		return "agent " + a.Name
	}
	return fmt.Sprintf("agent %s on node %s", a.Name, a.Node)
}

// Close ends the connections that wait for the next question.
func (a *Agent) Close() {
	if a.client != nil {
		a.client.CloseIdleConnections()
	}
}

// maxAnswer bounds what is read of an answer. A node with 1,000 pods and
// 100,000 connections has about 60 MB to tell.
const maxAnswer = 256 << 20

// Get asks for a path and reads the JSON of the answer into v. A question that
// the agent does not take is an [*inspect.InputError].
func (a *Agent) Get(ctx context.Context, path string, query url.Values, v any) error {
	if a.Problem != "" {
		return errors.New(a.Problem)
	}
	u := a.base + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return transportError(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, body, path)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("the answer is not the JSON of an agent's %s: %w; is this the admin port of an agent of this version?", path, err)
	}
	return nil
}

// transportError takes off what HTTP adds to an error: its URL is that of a
// tunnel's end.
func transportError(err error) error {
	if forward := new(forwardError); errors.As(err, &forward) {
		return forward
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

func refusal(resp *http.Response, body []byte, path string) error {
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "application/json" {
		input := &inspect.InputError{}
		if json.Unmarshal(body, input) == nil && input.Message != "" {
			return input
		}
	}
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("nothing answers to %s; is this the admin port of an agent of this version?", path)
	}
	const shown = 200
	text := strings.Join(strings.Fields(string(body[:min(len(body), shown)])), " ")
	return fmt.Errorf("answered %s: %s", resp.Status, text)
}

// Answer is what became of one agent's question.
type Answer[T any] struct {
	Agent *Agent
	Value T
	Err   error
}

// parallel bounds the agents that are asked at once: each costs the API server
// and a kubelet a connection.
const parallel = 16

// Ask asks all agents at once, within timeout each, and returns their answers
// in the order of agents.
func Ask[T any](ctx context.Context, agents []*Agent, timeout time.Duration, ask func(ctx context.Context, a *Agent) (T, error)) []Answer[T] {
	answers := make([]Answer[T], len(agents))
	slots := make(chan struct{}, parallel)
	var asking sync.WaitGroup
	for i, a := range agents {
		asking.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			answers[i].Agent = a
			answers[i].Value, answers[i].Err = ask(ctx, a)
		})
	}
	asking.Wait()
	return answers
}

func sortAgents(agents []*Agent) {
	slices.SortFunc(agents, func(a, b *Agent) int { return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Name, b.Name)) })
}
