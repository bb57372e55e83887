package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/adit-mesh/adit/agent"
)

func newIngressCmd() *cobra.Command {
	var f ingressFlags
	cmd := &cobra.Command{
		Use:   "ingress --config PATH",
		Short: "Run the edge: TLS and QUIC in, Gateway API's routes, the mesh behind",
		Long: `Run the edge: take HTTP/1.1, HTTP/2 and HTTP/3 from outside, route requests by
the objects of Gateway API, and carry them to backends; to those in the mesh
over HBONE, with the edge's own certificate.

PATH is a directory of YAML files (Gateway, HTTPRoute, GRPCRoute, TLSRoute,
TCPRoute, UDPRoute, ListenerSet, BackendTLSPolicy, ReferenceGrant, Service,
EndpointSlice, Secret, ConfigMap), which is watched, and needs no Kubernetes. Or
it is a configuration file as adit agent takes it, with an ingress section; local
pods are then left alone.

Listeners that terminate TLS are served over QUIC on the same port as well, and
say so by alt-svc. Ports below 1024 take root or CAP_NET_BIND_SERVICE; nothing
else here takes a privilege.

A first SIGINT or SIGTERM drains: nothing new is accepted, clients are told to go
elsewhere, and requests under way have drainTimeout to end. A second one ends it
at once.

Exit codes: 0 stopped as asked, 1 trouble at run time, 2 configuration.`,
		Example: `  adit ingress --config gateway/
  adit ingress --config gateway/ --check       # read it, say what is wrong, exit
  adit ingress --config gateway/ --mesh world.yaml --ca-dir ca/
  adit ingress --config ingress.yaml --pod adit-system/adit-ingress-x2zvk`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runIngress(cmd, f) },
	}
	fl := cmd.Flags()
	fl.StringVarP(&f.config, "config", "c", "", "a `directory` of Gateway API objects, or a configuration file")
	fl.StringVar(&f.mesh, "mesh", "", "the mesh `file`: which backends are in the mesh, for a directory")
	fl.StringVar(&f.caDir, "ca-dir", "", "the `directory` of the CA that the mesh's agents share, for a directory")
	fl.StringVar(&f.identity, "identity", "", "the `SPIFFE-ID` shown to backends in the mesh, for a directory")
	fl.StringVar(&f.accessLog, "access-log", "", "text, json, a `format` with Envoy's operators, or off, for a directory")
	fl.StringVar(&f.admin, "admin", "", "the operator's loopback `address`, or off, for a directory (default 127.0.0.1:15000)")
	fl.StringVar(&f.metrics, "metrics", "", "the `address` of /metrics, or off, for a directory (default :15020)")
	fl.StringVar(&f.readiness, "readiness", "", "the `address` of /healthz, or off, for a directory (default :15021)")
	fl.StringVar(&f.node, "node-name", "", "this node's `name`, instead of nodeName in the configuration")
	fl.StringVar(&f.pod, "pod", "", "the own pod, as `NAMESPACE/NAME`")
	fl.BoolVar(&f.check, "check", false, "only check the configuration")
	return cmd
}

type ingressFlags struct {
	config, mesh, caDir, identity, accessLog, admin, metrics, readiness, node, pod string
	check                                                                          bool
}

// runIngress runs an agent that captures nothing.
func runIngress(cmd *cobra.Command, f ingressFlags) error {
	cfg, err := f.load(cmd)
	if err != nil {
		return err
	}
	self, err := parsePod(f.pod)
	if err != nil {
		return err
	}
	if f.check {
		if err := agent.Check(cfg, newLogger(cmd.ErrOrStderr(), cfg.Log.Format, slog.LevelWarn)); err != nil {
			return err
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: ok\n", f.config)
		return err
	}
	return runAgent(cmd, cfg, self)
}

// load reads the configuration file, or makes the configuration of a directory.
func (f ingressFlags) load(cmd *cobra.Command) (agent.Config, error) {
	if f.config == "" {
		return agent.Config{}, &usageError{errors.New("ingress needs --config with a directory of Gateway API objects; see adit ingress --help")}
	}
	info, err := os.Stat(f.config)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return agent.Config{}, &usageError{fmt.Errorf("--config %s: there is no such directory or file", f.config)}
		}
		return agent.Config{}, &usageError{fmt.Errorf("--config: %w", err)}
	}
	var cfg agent.Config
	if info.IsDir() {
		cfg = agent.DefaultConfig()
		f.overlay(&cfg)
	} else {
		for _, name := range []string{"mesh", "ca-dir", "identity", "access-log", "admin", "metrics", "readiness"} {
			if cmd.Flags().Changed(name) {
				return cfg, &usageError{fmt.Errorf("--%s is for a directory; %s is a configuration file, which says it itself", name, f.config)}
			}
		}
		if cfg, err = agent.LoadConfig(f.config); err != nil {
			return cfg, err
		}
		if cfg.Ingress == nil {
			return cfg, &usageError{fmt.Errorf("%s has no ingress section; adit agent runs it without one", f.config)}
		}
	}
	cfg.Capture = false
	if f.node != "" {
		cfg.NodeName = f.node
	}
	return cfg, nil
}

// overlay makes the flags part of cfg.
func (f ingressFlags) overlay(cfg *agent.Config) {
	cfg.Ingress = &agent.IngressConfig{Config: filepath.Clean(f.config), Identity: f.identity}
	cfg.World.File, cfg.CA.Directory = f.mesh, f.caDir
	switch f.accessLog {
	case "":
	case "off":
		cfg.Ingress.AccessLog.File = f.accessLog
	case "json":
		// Connections to the mesh are logged to the same place.
		cfg.AccessLog.Format = f.accessLog
		fallthrough
	default:
		cfg.Ingress.AccessLog.Format = f.accessLog
	}
	for _, o := range []struct {
		value string
		into  *string
	}{{f.admin, &cfg.Admin}, {f.metrics, &cfg.Metrics}, {f.readiness, &cfg.Readiness}} {
		switch o.value {
		case "":
		case "off":
			*o.into = ""
		default:
			*o.into = o.value
		}
	}
}
