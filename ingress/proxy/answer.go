package proxy

import (
	"net/http"
	"strconv"
	"time"
)

// Response flags, as Envoy's access log has them.
const (
	flagNoRoute          = "NR"
	flagNoCluster        = "NC"
	flagNoHealthy        = "UH"
	flagConnectFailure   = "UF"
	flagUpstreamClosed   = "UC"
	flagTimeout          = "UT"
	flagUpstreamProtocol = "UPE"
	flagClientGone       = "DC"
	flagClientProtocol   = "DPE"
	flagRetriesExhausted = "URX"
	flagIdle             = "SI"
	flagLocalReset       = "LR"
)

// statusClientGone is logged for a client that left before its answer began;
// nobody receives it.
const statusClientGone = 499

// reasons are what a client is told. The log says more.
var reasons = map[string]string{
	flagNoRoute:          "no route matches this request",
	flagNoCluster:        "no such backend",
	flagNoHealthy:        "no healthy upstream",
	flagConnectFailure:   "upstream connection failure",
	flagUpstreamClosed:   "upstream closed the connection before it answered",
	"UR":                 "upstream reset the request before it answered",
	"UO":                 "upstream overloaded",
	flagTimeout:          "upstream request timeout",
	flagUpstreamProtocol: "upstream protocol error",
	flagClientProtocol:   "malformed request",
	flagLocalReset:       "the request could not be sent again",
	flagIdle:             "the request did not come to its end in time",
}

// grpcStatus is what a gRPC client gets instead of an HTTP status of ours.
func grpcStatus(status int) int {
	switch status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusRequestHeaderFieldsTooLarge:
		return 13 // INTERNAL
	case http.StatusUnauthorized:
		return 16
	case http.StatusForbidden:
		return 7
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return 12 // UNIMPLEMENTED
	case http.StatusGatewayTimeout, http.StatusRequestTimeout:
		return 4 // DEADLINE_EXCEEDED
	case http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable:
		return 14 // UNAVAILABLE, which GRPCRoute also wants for a backend that is invalid
	}
	return 2 // UNKNOWN
}

// refuse answers instead of a backend.
func (t *transaction) refuse(status int, flags, detail string) {
	t.x.Flags = appendFlag(t.x.Flags, flags)
	if t.x.Detail == "" {
		t.x.Detail = detail
	}
	if t.r.Context().Err() != nil {
		// Nobody is there to be answered; the log should not blame the backend.
		t.clientGone()
		return
	}
	text := reasons[flags]
	if text == "" || status == http.StatusMisdirectedRequest || status == http.StatusMethodNotAllowed {
		text = http.StatusText(status)
	}
	h := t.w.Header()
	t.common(h)
	if t.grpc {
		h["Content-Type"] = grpcContentType
		h["Grpc-Status"] = []string{strconv.Itoa(grpcStatus(status))}
		h["Grpc-Message"] = []string{text}
		status = http.StatusOK
		text = ""
	} else {
		h["Content-Type"] = plainText
		text += "\n"
		h["Content-Length"] = []string{strconv.Itoa(len(text))}
	}
	t.writeHeader(status)
	if text != "" && t.r.Method != http.MethodHead {
		n, _ := t.w.Write([]byte(text))
		t.x.Sent += int64(n)
	}
}

var (
	grpcContentType = []string{"application/grpc"}
	plainText       = []string{"text/plain; charset=utf-8"}
)

// empty answers without a body: redirects, preflights.
func (t *transaction) empty(status int) {
	h := t.w.Header()
	t.common(h)
	if status != http.StatusNoContent {
		h["Content-Length"] = []string{"0"}
	}
	t.writeHeader(status)
}

// common sets what every answer has, those of backends included.
func (t *transaction) common(h http.Header) {
	if t.cors != nil {
		t.cors.mark(h, t.origin)
	}
	h["Server"] = t.p.server
	if _, ok := h["Date"]; !ok {
		h["Date"] = t.p.clock.date(time.Now())
	}
	if s := t.x.Client.AltSvc; s != "" {
		h["Alt-Svc"] = []string{s}
	}
	if t.rule != nil {
		t.rule.Filters.ResponseHeaders.apply(h)
	}
	if t.backend != nil {
		t.backend.Filters.ResponseHeaders.apply(h)
	}
}

func (t *transaction) writeHeader(status int) {
	t.x.Status = status
	t.started = true
	t.w.WriteHeader(status)
}

// clientGone notes that the client left.
func (t *transaction) clientGone() {
	t.x.Flags = appendFlag(t.x.Flags, flagClientGone)
	if !t.started {
		t.x.Status = statusClientGone
		t.torn = true
	}
}

func appendFlag(flags, f string) string {
	switch {
	case flags == "" || f == "":
		return flags + f
	case flags == f:
		return f
	}
	return flags + "," + f
}
