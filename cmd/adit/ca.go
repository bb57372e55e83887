package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/adit-mesh/adit/identity/ca"
	"github.com/adit-mesh/adit/identity/cakube"
	"github.com/adit-mesh/adit/identity/caserver"
)

// caLinger is how long a CA that is told to stop goes on serving, while the
// Service learns that it is not ready.
const caLinger = 5 * time.Second

// caFlags are those of adit ca.
type caFlags struct {
	kubeconfig, context, namespace      string
	listen, httpListen                  string
	trustDomain, clusterDomain, service string
	serverNames                         []string
	secret, configMap, issuerDir        string
	agents                              []string
	audience                            string
	ttl                                 time.Duration
	policy                              ca.RotationPolicy
	logLevel, logFormat                 string
}

func newCACmd() *cobra.Command {
	f := new(caFlags)
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Run the mesh's certificate authority on Kubernetes",
		Long: `Run the certificate authority of a mesh on Kubernetes: it serves Istio's
CreateCertificate to node agents, for the pods that run on their nodes.

Agents are known by their service account tokens. The root is made at the first
start and kept in a Secret; any number of replicas share it. What agents must
trust is published in a ConfigMap. At four fifths of a root's life, or when asked
by adit ca rotate, the next one is made: it is published, signs once agents have
had the time to learn of it (--propagation), and the old one is trusted until the
last certificate under it has expired.

A CA that exists already can be given instead, as a directory with the files of
Istio's Secret cacerts (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem) or
of cert-manager (tls.crt, tls.key, ca.crt). They are read again when they change;
put a new root next to the old one in the file of roots first.

Exit codes: 0 stopped as asked, 1 trouble at run time, 2 the command line.`,
		Example: `  adit ca                                       # in a pod of the mesh's namespace
  adit ca --issuer-dir /etc/cacerts --max-ttl 6h
  adit ca rotate --namespace adit-system`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runCA(cmd, f) },
	}
	f.registerAPI(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.listen, "listen", ":15012", "`address` of CreateCertificate")
	fs.StringVar(&f.httpListen, "http-listen", ":15014", "`address` of /healthz and /metrics")
	fs.StringVar(&f.trustDomain, "trust-domain", "cluster.local", "the mesh's trust `domain`")
	fs.StringVar(&f.clusterDomain, "cluster-domain", "cluster.local", "the cluster's DNS `domain`")
	fs.StringVar(&f.service, "service", "adit-ca", "`name` of the Service that agents reach the CA by")
	fs.StringSliceVar(&f.serverNames, "server-name", nil, "further DNS `name` or address of the CA; may be repeated")
	fs.StringVar(&f.configMap, "config-map", "adit-ca-root", "`name` of the ConfigMap for the trust bundle")
	fs.StringVar(&f.issuerDir, "issuer-dir", "", "`directory` with a CA that exists already, instead of the Secret")
	fs.StringSliceVar(&f.agents, "agent", nil, "service account NAMESPACE/NAME of node agents; may be repeated (default NAMESPACE/adit-agent)")
	fs.StringVar(&f.audience, "audience", "istio-ca", "`audience` of their tokens")
	fs.DurationVar(&f.ttl, "ttl", 24*time.Hour, "life of a certificate whose request names none")
	fs.DurationVar(&f.policy.MaxTTL, "max-ttl", 24*time.Hour, "longest life of a certificate")
	fs.DurationVar(&f.policy.RootTTL, "root-ttl", 10*365*24*time.Hour, "life of a root")
	fs.DurationVar(&f.policy.Propagation, "propagation", time.Hour, "how long a root is published before it signs")
	fs.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fs.StringVar(&f.logFormat, "log-format", "text", "text or json")
	cmd.AddCommand(newCARotateCmd())
	return cmd
}

// registerAPI adds the flags that say where the CA's objects are.
func (f *caFlags) registerAPI(cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig `file`; without one, that of the pod or of kubectl")
	fs.StringVar(&f.context, "context", "", "`name` of the kubeconfig's context")
	fs.StringVarP(&f.namespace, "namespace", "n", "", "`namespace` of the CA (default that of the pod, or adit-system)")
	fs.StringVar(&f.secret, "secret", "adit-ca", "`name` of the Secret that keeps the roots")
}

// podNamespace is where kubelet tells a pod its namespace.
const podNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

func (f *caFlags) complete() {
	if f.namespace == "" {
		f.namespace = "adit-system"
		if data, err := os.ReadFile(podNamespace); err == nil && len(strings.TrimSpace(string(data))) > 0 {
			f.namespace = strings.TrimSpace(string(data))
		}
	}
	if len(f.agents) == 0 {
		f.agents = []string{f.namespace + "/adit-agent"}
	}
}

// names are those that the Service is reached by.
func (f *caFlags) names() []string {
	s := f.service
	names := []string{s + "." + f.namespace + ".svc", s + "." + f.namespace + ".svc." + f.clusterDomain, s + "." + f.namespace, s}
	return slices.Concat(names, f.serverNames)
}

func (f *caFlags) config(log *slog.Logger) (cakube.Config, error) {
	td, err := spiffeid.TrustDomainFromString(f.trustDomain)
	if err != nil {
		return cakube.Config{}, &usageError{fmt.Errorf("--trust-domain: %w", err)}
	}
	for _, a := range f.agents {
		if ns, name, ok := strings.Cut(a, "/"); !ok || ns == "" || name == "" {
			return cakube.Config{}, &usageError{fmt.Errorf("--agent %q: want NAMESPACE/NAME", a)}
		}
	}
	if f.ttl <= 0 {
		return cakube.Config{}, &usageError{fmt.Errorf("--ttl %s: want more than zero", f.ttl)}
	}
	if _, err := f.policy.WithDefaults(); err != nil {
		return cakube.Config{}, &usageError{err}
	}
	rest, err := cakube.LoadREST(f.kubeconfig, f.context)
	if err != nil {
		return cakube.Config{}, err
	}
	rest.UserAgent = "adit-ca/" + version
	return cakube.Config{
		REST: rest, Namespace: f.namespace, Secret: f.secret, ConfigMap: f.configMap, TrustDomain: td,
		Policy: f.policy, IssuerDir: f.issuerDir, Agents: f.agents, Audience: f.audience, Logger: log,
	}, nil
}

func runCA(cmd *cobra.Command, f *caFlags) error {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(f.logLevel)); err != nil {
		return &usageError{fmt.Errorf("--log-level: %w", err)}
	}
	if f.logFormat != "text" && f.logFormat != "json" {
		return &usageError{fmt.Errorf("--log-format %q: want text or json", f.logFormat)}
	}
	f.complete()
	log := newLogger(cmd.ErrOrStderr(), f.logFormat, level)
	cfg, err := f.config(log)
	if err != nil {
		return err
	}
	backend, err := cakube.New(cfg)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server, err := caserver.New(caserver.Config{
		TrustDomain: cfg.TrustDomain, Authority: backend.Authority, Ready: backend.Ready,
		Authenticator: backend, Authorizer: backend, ServerNames: f.names(), DefaultTTL: f.ttl,
		Linger: caLinger, Logger: log, Registerer: reg,
	})
	if err != nil {
		return err
	}
	grpcListener, err := net.Listen("tcp", f.listen)
	if err != nil {
		return err
	}
	defer grpcListener.Close()
	httpListener, err := net.Listen("tcp", f.httpListen)
	if err != nil {
		return err
	}
	web := &http.Server{Handler: server.Handler(reg), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: 2 * time.Minute, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	log.Info("starting", "version", version, "trust_domain", f.trustDomain, "namespace", f.namespace,
		"listen", grpcListener.Addr().String(), "http", httpListener.Addr().String())
	return serveCA(cmd.Context(), backend, server, grpcListener, web, httpListener)
}

// serveCA runs the three parts until ctx ends or one of them fails. Health and
// metrics are there to the last, and the roots as long as they may be asked for.
func serveCA(ctx context.Context, backend *cakube.Backend, server *caserver.Server, grpcListener net.Listener, web *http.Server, httpListener net.Listener) error {
	soft, stop := context.WithCancel(ctx)
	defer stop()
	hard, stopBackend := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBackend()

	var parts sync.WaitGroup
	var webErr, backendErr error
	parts.Go(func() {
		defer stop()
		if err := web.Serve(httpListener); !errors.Is(err, http.ErrServerClosed) {
			webErr = err
		}
	})
	parts.Go(func() {
		defer stop()
		backendErr = backend.Run(hard)
	})
	err := server.Serve(soft, grpcListener)
	stopBackend()
	closeErr := web.Close()
	parts.Wait()
	return errors.Join(err, webErr, backendErr, closeErr)
}

func newCARotateCmd() *cobra.Command {
	f := new(caFlags)
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Have the CA make its next root now",
		Long: `Have the CA make its next root now. The running replicas do it: the new root is
published at once, signs once agents have had the time to learn of it, and the old
one is trusted until the last certificate under it has expired. No connection is
interrupted. This needs patch on the CA's Secret; its keys are not read.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.complete()
			rest, err := cakube.LoadREST(f.kubeconfig, f.context)
			if err != nil {
				return err
			}
			rest.UserAgent = "adit/" + version
			ctx, cancel := context.WithTimeout(cmd.Context(), 30*time.Second)
			defer cancel()
			if err := cakube.RequestRotation(ctx, rest, f.namespace, f.secret); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "asked for; the CA says in its log when the new root signs\n")
			return err
		},
	}
	f.registerAPI(cmd)
	return cmd
}
