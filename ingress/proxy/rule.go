package proxy

import (
	"net/http"
	"regexp"
	"time"

	"github.com/adit-mesh/adit/ingress/route"
)

// Rule is what happens to the requests of one rule of an HTTPRoute or GRPCRoute.
// It is immutable, and shared between configurations as long as its object does
// not change.
type Rule struct {
	Owner route.Owner
	Name  string // of the rule; "" = none
	Index int
	// Prefix is the value of the path match that led here, for
	// ReplacePrefixMatch. It is of one match, so each match has a Rule of its own
	// if it is used.
	Prefix   string
	GRPC     bool
	Filters  Filters
	Backends []Backend // empty: 500, unless Filters redirects
	// Request bounds the whole exchange, Backend each attempt. Zero: the default
	// of 15 s until the answer's header; negative: none.
	RequestTimeout, BackendTimeout time.Duration
	Retry                          *Retry
	Persistence                    *Persistence
}

// Backend is one place that a rule's requests go to.
type Backend struct {
	// Cluster is the key of an upstream.Config. "" = Status is answered.
	Cluster string
	// Status is answered instead of forwarding if the reference is wrong: 500.
	Status int
	// Reason says why, for the access log.
	Reason string
	Weight int32
	// Filters are applied after those of the rule.
	Filters Filters
	// UpgradeHTTP1 says that WebSocket goes to this backend over HTTP/1.1
	// whatever the cluster's protocol.
	UpgradeHTTP1 bool
}

// Filters is what is done to a request and its answer. The zero value does
// nothing.
type Filters struct {
	RequestHeaders  HeaderChange
	ResponseHeaders HeaderChange
	Redirect        *Redirect
	Rewrite         *Rewrite
	CORS            *CORS
	Mirrors         []Mirror
	// Invalid is answered as 500: a filter that could not be resolved, and may
	// not be left out. It is the reason, for the access log.
	Invalid string
}

// HeaderChange sets, adds and removes header fields, in this order.
type HeaderChange struct {
	Set, Add []HeaderValue
	Remove   []string // canonical
}

// HeaderValue is a header field with a canonical name.
type HeaderValue struct{ Name, Value string }

// Path is how a path is replaced. The zero value leaves it.
type Path struct {
	Full   string // "" = not this
	Prefix *string
}

// Redirect answers with a redirection.
type Redirect struct {
	Scheme string // "" = the request's
	Host   string // "" = the request's
	Port   uint16 // 0 = by the rules of HTTPRequestRedirectFilter
	Path   Path
	Status int
}

// Rewrite changes what the backend is asked for.
type Rewrite struct {
	Host string
	Path Path
}

// CORS answers preflights and marks answers (Fetch Standard).
type CORS struct {
	Origins      []Origin // none: nothing is allowed
	Methods      []string
	Headers      []string
	Expose       []string
	Credentials  bool
	MaxAge       time.Duration
	AnyOrigin    bool
	AnyMethod    bool
	AnyHeader    bool
	AnyExposeHdr bool
}

// Origin is one allowed origin, exact or with a wildcard in the host.
type Origin struct {
	Exact string
	Regex *regexp.Regexp // compiled from a wildcard
}

// Mirror sends a copy of a share of the requests to another backend, whose
// answers are dropped.
type Mirror struct {
	Backend     Backend
	Numerator   int32 // of Denominator; 0/0 = all
	Denominator int32
}

// Retry is when and how often a request is tried again.
type Retry struct {
	Codes    []int
	Attempts int // beyond the first; 0 disables
	Backoff  time.Duration
}

// Persistence keeps a client's session with one endpoint.
type Persistence struct {
	Header    string // canonical; "" = a cookie
	Cookie    string // its name
	Permanent bool   // lives for Absolute, otherwise as long as the client's session
	Absolute  time.Duration
	Idle      time.Duration
	Path      string // of the cookie
}

// Exchange is what is known of a request besides itself. The engine fills in
// Client; Proxy fills in the rest, which the access log and the metrics then tell.
// The headers in it are those of the messages, and change or are used again after
// Config.Record has returned.
type Exchange struct {
	Client Client
	Rule   *Rule // nil: no rule matched; set from the beginning

	// The rest is filled in while the request is served.
	Start         time.Time
	Proto         string // HTTP/1.0, HTTP/1.1, HTTP/2 or HTTP/3
	Method, Path  string // as the client sent them
	Host          string
	Status        int
	Flags         string // Envoy's response flags: NR, UH, UF, UT, DC …
	Detail        string // the reason in words; "" for an answer from a backend
	Cluster       string
	Upstream      string        // host:port
	UpstreamTime  time.Duration // from the request to the answer's header, last attempt
	RequestTime   time.Duration // from Start to the client's last byte; 0 = it did not come
	ResponseTime  time.Duration // from Start to the header of the backend's answer; 0 = none came
	Attempts      int
	Received      int64 // body bytes from the client
	Sent          int64 // body bytes to the client
	Duration      time.Duration
	RequestID     string
	ForwardedFor  string
	UpstreamMesh  bool
	RequestHeader http.Header // as the backend got it: what was not to be believed is gone
	RespHeader    http.Header // as sent
	Trailer       http.Header // of the answer; nil = none
}
