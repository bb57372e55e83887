package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/cmd/adit/internal/reach"
	"github.com/adit-mesh/adit/cmd/adit/internal/report"
	"github.com/adit-mesh/adit/ingress"
)

// request is a question about a request, besides its URL.
type request struct {
	method, host, sni, gateway string
	header                     []string
}

func (q *request) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&q.method, "method", "X", "", "the request's `method`, with a URL (default GET)")
	f.StringArrayVarP(&q.header, "header", "H", nil, "a `NAME: VALUE` of the request, with a URL; repeatable")
	f.StringVar(&q.host, "host", "", "the Host header, if it is not the URL's `name`")
	f.StringVar(&q.sni, "sni", "", "the server `name` of the TLS handshake, if it is not the URL's")
	f.StringVar(&q.gateway, "gateway", "", "of several that have the port, the one called `NAMESPACE/NAME`")
}

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

// whyArgs takes a URL, or two ends of a connection.
func whyArgs(cmd *cobra.Command, args []string) error {
	asked := false
	for _, name := range []string{"method", "header", "host", "sni", "gateway"} {
		asked = asked || cmd.Flags().Changed(name)
	}
	switch {
	case len(args) == 1 && isURL(args[0]):
		return nil
	case len(args) == 2 && !isURL(args[0]) && !asked:
		return nil
	case len(args) == 2 && asked:
		return &usageError{errors.New("-X, -H, --host, --sni and --gateway are of a request: why takes a URL with them")}
	}
	return &usageError{errors.New("why needs a source and a destination, as in adit why shop/client shop/server:8080, or a URL; see adit why --help")}
}

// noRuleError is an answer that scripts are to see in the exit code.
type noRuleError struct{}

func (*noRuleError) Error() string { return "no rule is for this request" }

// whyRequest explains a request to the edge. All of its pods have the same
// configuration, so the first that answers will do.
func (o *where) whyRequest(cmd *cobra.Command, url string, q request) error {
	for _, h := range q.header {
		if name, _, ok := strings.Cut(h, ":"); !ok || strings.TrimSpace(name) == "" {
			return &usageError{fmt.Errorf("-H %q: want NAME: VALUE", h)}
		}
	}
	o.options.Edge = true
	agents, done, err := o.find(cmd)
	if err != nil {
		return err
	}
	defer done()
	answer, err := o.route(cmd.Context(), agents, q.query(url))
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if o.output == "json" {
		if err := printJSON(out, answer); err != nil {
			return err
		}
	} else {
		width, _ := terminal(out)
		report.Route(out, width, answer)
	}
	for _, p := range answer.Ports {
		if p.Rule != nil || p.Stream != nil || p.TLS != nil && p.TLS.Stream != nil {
			return nil
		}
	}
	return &noRuleError{}
}

func (q request) query(u string) url.Values {
	v := url.Values{"url": {u}, "header": q.header}
	for name, value := range map[string]string{"method": q.method, "host": q.host, "sni": q.sni, "gateway": q.gateway} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return v
}

func (o *where) route(ctx context.Context, agents []*reach.Agent, query url.Values) (*ingress.Answer, error) {
	var failures []error
	for _, a := range agents {
		var answer ingress.Answer
		ctx, cancel := context.WithTimeout(ctx, o.timeout)
		err := a.Get(ctx, "/route", query, &answer)
		cancel()
		if err == nil {
			return &answer, nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", a, err))
	}
	return nil, fmt.Errorf("nobody of the edge could be asked: %w", errors.Join(failures...))
}
