package agent

import (
	"os"
	"time"
)

// Config is the agent's configuration. It is read as a whole from a YAML file
// in which unknown and duplicate keys are errors; a key that is absent has the
// value of [DefaultConfig].
type Config struct {
	// NodeName is this node's name in the world: workloads of other nodes are
	// not this agent's to capture. Default: the host name.
	NodeName string `yaml:"nodeName"`
	// TrustDomain is that of the identities issued here. Default: cluster.local.
	TrustDomain string `yaml:"trustDomain"`
	// TrustDomainAliases are further trust domains whose SVIDs are accepted of
	// peers. Default: none.
	TrustDomainAliases []string `yaml:"trustDomainAliases"`

	World WorldConfig `yaml:"world"`
	CA    CAConfig    `yaml:"ca"`

	// SameNode is how connections between two pods of this node are carried:
	// "hbone", as to any other node, or "direct", joined inside the agent.
	// Direct saves the encryption; the same policies are applied, but a
	// NetworkPolicy engine on the pods' links sees nothing. Default: hbone.
	SameNode string `yaml:"sameNode"`

	Log       LogConfig       `yaml:"log"`
	AccessLog AccessLogConfig `yaml:"accessLog"`

	// Admin is the address of the operator's interface: configuration dump, live
	// connections, log level, profiles, stop. It must be a loopback address. ""
	// turns it off. Default: 127.0.0.1:15000.
	Admin string `yaml:"admin"`
	// Metrics is the address of /metrics. "" turns it off. Default: ":15020".
	Metrics string `yaml:"metrics"`
	// Readiness is the address of /healthz/ready and /healthz/live. "" turns it
	// off. Default: ":15021".
	Readiness string `yaml:"readiness"`

	// DialTimeout bounds a connection's way to its destination, all endpoints
	// tried and all handshakes included. Default: 10s.
	DialTimeout time.Duration `yaml:"dialTimeout"`
	// HalfCloseTimeout bounds how long a connection that has ended in one
	// direction may be silent in the other. Default: 1h.
	HalfCloseTimeout time.Duration `yaml:"halfCloseTimeout"`
	// DrainTimeout bounds how long live connections may go on once the agent or
	// a pod stops. Default: 30s.
	DrainTimeout time.Duration `yaml:"drainTimeout"`

	// Encapsulate are listeners whose connections are carried in CONNECT
	// streams to a peer, without capture. Default: none.
	Encapsulate []EncapsulateConfig `yaml:"encapsulate"`
	// Terminate are listeners that take CONNECT streams and carry them on as
	// TCP, without capture. Default: none.
	Terminate []TerminateConfig `yaml:"terminate"`
}

// WorldConfig says where workloads, services and policies come from.
type WorldConfig struct {
	// File is a mesh file, in ztunnel's LOCAL_XDS_PATH format with a netns for
	// each local pod. It is read again when it changes. "" = no pods, only the
	// encapsulate and terminate roles. Relative to the configuration file.
	File string `yaml:"file"`
}

// CAConfig is the embedded CA.
type CAConfig struct {
	// Directory keeps the CA's root and key; agents that share it trust each
	// other. "" = a root in memory, which no other process knows. Relative to
	// the configuration file. Default: "".
	Directory string `yaml:"directory"`
	// TTL is the life of a certificate; it is renewed at half of it.
	// Default: 24h.
	TTL time.Duration `yaml:"ttl"`
}

// LogConfig is the agent's own log, on standard error.
type LogConfig struct {
	// Level is debug, info, warn or error. Default: info.
	Level string `yaml:"level"`
	// Format is text or json. Default: text.
	Format string `yaml:"format"`
}

// AccessLogConfig is the log of connections, one line each, at their end.
type AccessLogConfig struct {
	// Format is text or json. Default: text.
	Format string `yaml:"format"`
	// File is appended to. "" = standard output. Relative to the configuration
	// file. Default: "".
	File string `yaml:"file"`
}

// EncapsulateConfig is an HBONE client: TCP in, CONNECT out.
type EncapsulateConfig struct {
	// Listen is the address that clients connect to.
	Listen string `yaml:"listen"`
	// Peer is the host:port of the HBONE server.
	Peer string `yaml:"peer"`
	// Authority is the host:port asked for by CONNECT. It may hold variables,
	// as Headers may.
	Authority string `yaml:"authority"`
	// Identity is the SPIFFE ID whose SVID is presented.
	Identity string `yaml:"identity"`
	// Expect are the SPIFFE IDs of which the peer must prove one.
	Expect []string `yaml:"expect"`
	// Headers are added to the CONNECT request. Values may hold the variables
	// of Envoy's format strings that concern the client's connection, such as
	// %DOWNSTREAM_LOCAL_PORT%. Default: none.
	Headers map[string]string `yaml:"headers"`
}

// TerminateConfig is an HBONE server: CONNECT in, TCP out.
type TerminateConfig struct {
	// Listen is the address that peers connect to.
	Listen string `yaml:"listen"`
	// Identity is the SPIFFE ID whose SVID is presented.
	Identity string `yaml:"identity"`
	// Allow are the SPIFFE IDs that may use this listener. [] refuses all.
	Allow []string `yaml:"allow"`
	// Upstream is the host:port that every stream is carried to. "" = whatever
	// its authority says, which makes of this listener a way to everywhere for
	// those in Allow. Default: "".
	Upstream string `yaml:"upstream"`
}

// DefaultConfig is what a configuration file starts from.
func DefaultConfig() Config {
	host, _ := os.Hostname() // "" leaves only workloads without a node
	return Config{
		NodeName:         host,
		TrustDomain:      "cluster.local",
		CA:               CAConfig{TTL: 24 * time.Hour},
		SameNode:         "hbone",
		Log:              LogConfig{Level: "info", Format: "text"},
		AccessLog:        AccessLogConfig{Format: "text"},
		Admin:            "127.0.0.1:15000",
		Metrics:          ":15020",
		Readiness:        ":15021",
		DialTimeout:      10 * time.Second,
		HalfCloseTimeout: time.Hour,
		DrainTimeout:     30 * time.Second,
	}
}
