package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"
)

// asked is what echo tells the client about its request: the members, and their
// order, of the echo server that Gateway API's own examples run.
type asked struct {
	Path      string      `json:"path"`
	Host      string      `json:"host"`
	Method    string      `json:"method"`
	Proto     string      `json:"proto"`
	Headers   http.Header `json:"headers"`
	Namespace string      `json:"namespace"`
	Ingress   string      `json:"ingress"`
	Service   string      `json:"service"`
	Pod       string      `json:"pod"`
}

// echoHTTP answers every HTTP request with what it saw of it, and with the NAMESPACE
// and POD_NAME of its environment.
//
//	-http :3000    where
//	-linger 0      how long it goes on after SIGTERM, before it finishes what it has
//
// A request may ask for time: ?wait=2s before the answer, ?last=2s between the
// header and the last byte of it. /readyz is 200, and not echoed.
func echoHTTP(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("echo", flag.ContinueOnError)
	addr := flags.String("http", ":3000", "")
	linger := flags.Duration("linger", 0, "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/", echoPage(os.Getenv("NAMESPACE"), os.Getenv("POD_NAME")))
	s := &http.Server{Addr: *addr, Handler: mux}
	failed := make(chan error, 1)
	go func() { failed <- s.ListenAndServe() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-failed:
		return err
	case <-time.After(*linger):
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		return err
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func echoPage(namespace, pod string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		wait, err := timeAsked(r, "wait")
		last, bad := timeAsked(r, "last")
		if err := errors.Join(err, bad); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		pause(r.Context(), wait)
		body, err := json.MarshalIndent(asked{
			Path: r.URL.RequestURI(), Host: r.Host, Method: r.Method, Proto: r.Proto, Headers: r.Header, Namespace: namespace, Pod: pod,
		}, "", " ")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if last > 0 {
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			pause(r.Context(), last)
		}
		_, _ = w.Write(body)
	}
}

// timeAsked is a duration in the query, and zero if there is none.
func timeAsked(r *http.Request, name string) (time.Duration, error) {
	s := r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	return time.ParseDuration(s)
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
