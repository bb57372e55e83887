package caserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"net/netip"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	securityv1alpha1 "istio.io/api/security/v1alpha1"

	"github.com/adit-mesh/adit/identity/ca"
)

const (
	// maxRequest bounds a message: a signing request and some metadata.
	maxRequest = 64 << 10
	// maxConns bounds connections; an agent holds one.
	maxConns = 8192
	// handshakeTimeout bounds TLS and HTTP/2 preface of a new connection.
	handshakeTimeout = 10 * time.Second
	// stopTimeout bounds the requests under way when the server stops.
	stopTimeout = callTimeout + 2*time.Second
)

// errStopping: nobody is asked anything any more.
var errStopping = errors.New("the CA is stopping")

// Config configures a [Server].
type Config struct {
	// TrustDomain is the one whose SVIDs are issued. Required.
	TrustDomain spiffeid.TrustDomain
	// Authority returns what signs now, or why there is nothing yet. It
	// answers from memory. Required.
	Authority func() (*ca.Authority, error)
	// Ready returns nil once the server should be asked, besides having an
	// authority. nil is always.
	Ready func() error
	// Authenticator knows callers. Required.
	Authenticator Authenticator
	// Authorizer knows what they may have. Required.
	Authorizer Authorizer
	// ServerNames are the DNS names and addresses of the server's own
	// certificate. Required.
	ServerNames []string
	// DefaultTTL is the life of an SVID whose request names none. Zero means
	// 24 h. The authority bounds every life.
	DefaultTTL time.Duration
	// Linger is how long the server goes on serving, not ready, when it is
	// told to stop: the time in which whoever routes to it looks elsewhere.
	// Zero is none.
	Linger time.Duration
	// Logger receives refusals, and at debug level what is issued. nil
	// discards them.
	Logger *slog.Logger
	// Registerer receives the metrics adit_ca_*. nil keeps none.
	Registerer prometheus.Registerer
}

// Server issues SVIDs. Make it with [New], run it with [Server.Serve].
type Server struct {
	securityv1alpha1.UnimplementedIstioCertificateServiceServer

	cfg     Config
	log     *slog.Logger
	metrics *metrics

	tokens     *tokens
	endTokens  context.CancelFunc
	callers    *limits[string]
	strangers  *limits[netip.Addr]
	refusalLog *rate.Limiter
	unlogged   atomic.Int64
	stopping   atomic.Bool
}

// New returns a server that does nothing until [Server.Serve].
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.TrustDomain.IsZero():
		return nil, errors.New("ca server: no trust domain configured")
	case cfg.Authority == nil || cfg.Authenticator == nil || cfg.Authorizer == nil:
		return nil, errors.New("ca server: authority, authenticator and authorizer are required")
	case len(cfg.ServerNames) == 0:
		return nil, errors.New("ca server: no server name configured")
	case cfg.DefaultTTL < 0:
		return nil, fmt.Errorf("ca server: negative ttl %s", cfg.DefaultTTL)
	}
	if cfg.DefaultTTL == 0 {
		cfg.DefaultTTL = 24 * time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{
		cfg:        cfg,
		log:        cfg.Logger,
		metrics:    newMetrics(cfg.Registerer, cfg.Authority),
		tokens:     newTokens(ctx, cfg.Authenticator),
		endTokens:  cancel,
		callers:    newLimits[string](callerRate, callerBurst),
		strangers:  newLimits[netip.Addr](strangerRate, strangerBurst),
		refusalLog: rate.NewLimiter(refusalLogRate, refusalLogBurst),
	}, nil
}

// Ready returns nil if requests can be served, or why not.
func (s *Server) Ready() error {
	if s.stopping.Load() {
		return errStopping
	}
	if _, err := s.cfg.Authority(); err != nil {
		return err
	}
	if s.cfg.Ready != nil {
		return s.cfg.Ready()
	}
	return nil
}

// Serve serves on l until ctx ends, then stops: not ready at once, no new
// requests after Linger, the ones under way have their time. It returns nil
// then, and the listener's error if that ends first. It closes l, and is called
// once.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer s.tokens.wait()
	defer s.endTokens()

	own := &serverCert{names: s.cfg.ServerNames, authority: s.cfg.Authority}
	g := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(own.tlsConfig())),
		grpc.MaxRecvMsgSize(maxRequest),
		grpc.MaxHeaderListSize(32<<10),
		grpc.MaxConcurrentStreams(64),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.WaitForHandlers(true),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			// A replica that comes back gets its share again.
			MaxConnectionAge:      30 * time.Minute,
			MaxConnectionAgeGrace: stopTimeout,
			MaxConnectionIdle:     15 * time.Minute,
			Time:                  time.Minute,
			Timeout:               20 * time.Second,
		}),
	)
	securityv1alpha1.RegisterIstioCertificateServiceServer(g, s)
	healthpb.RegisterHealthServer(g, &health{ready: s.Ready})

	served := make(chan error, 1)
	go func() { served <- g.Serve(netutil.LimitListener(l, maxConns)) }()
	select {
	case err := <-served:
		g.Stop()
		return fmt.Errorf("ca server: %w", err)
	case <-ctx.Done():
	}

	linger := s.cfg.Linger
	if s.Ready() != nil {
		linger = 0 // nobody routes to it
	}
	s.stopping.Store(true)
	s.log.Info("stopping", "linger", linger)
	select {
	case err := <-served:
		g.Stop()
		return fmt.Errorf("ca server: %w", err)
	case <-time.After(linger):
	}
	hard := time.AfterFunc(stopTimeout, g.Stop)
	defer hard.Stop()
	g.GracefulStop()
	<-served
	return nil
}

// health answers gRPC's health checks. Watch is not there: whoever wants to
// watch takes that for healthy.
type health struct {
	healthpb.UnimplementedHealthServer
	ready func() error
}

func (h *health) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if h.ready() != nil {
		return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}, nil
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}
