package testbed

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"github.com/adit-mesh/adit/e2e/lab"
)

// Seen is a request as an application saw it.
type Seen struct {
	Pod     string      `json:"pod"`
	Proto   string      `json:"proto"`
	Method  string      `json:"method"`
	Path    string      `json:"path"`
	Host    string      `json:"host"`
	Peer    string      `json:"peer"`              // of the application's socket
	Chunked bool        `json:"chunked,omitempty"` // the request's body had no length
	Body    int64       `json:"body"`              // bytes
	Headers http.Header `json:"headers"`
}

// See reads a request to its end and says what was seen of it.
func See(pod string, r *http.Request) (Seen, error) {
	n, err := io.Copy(io.Discard, r.Body)
	return Seen{
		Pod: pod, Proto: r.Proto, Method: r.Method, Path: r.URL.RequestURI(), Host: r.Host, Peer: r.RemoteAddr,
		Chunked: len(r.TransferEncoding) > 0, Body: n, Headers: r.Header,
	}, err
}

// Echo is the application of a pod that knows nothing of a mesh: it says what it
// saw of each request, and says back what comes by WebSocket, with its name.
func Echo(pod string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		seen, err := See(pod, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(seen)
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) { echoWebSocket(pod, w, r) })
	return mux
}

func echoWebSocket(pod string, w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer c.Close()
	for {
		kind, b, err := c.ReadMessage()
		if err != nil || c.WriteMessage(kind, append([]byte(pod+" heard "), b...)) != nil {
			return
		}
	}
}

// Serve runs an application inside ns until the function that it returns is
// called.
func Serve(ns *lab.Namespace, addr string, h http.Handler) (stop func(), err error) {
	l, err := ns.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			_ = l.Close()
		}
	}()
	return func() {
		_ = srv.Close()
		<-done
	}, nil
}
