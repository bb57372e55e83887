package agent

import (
	"cmp"
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
	// Capture says whether local pods are captured. false is for a gateway alone,
	// which needs no privilege. Default: true.
	Capture bool `yaml:"capture"`
	// Ingress is the edge: it takes requests from outside by Gateway API's objects
	// and carries them to pods. Default: none.
	Ingress *IngressConfig `yaml:"ingress"`
	// CNI is the server that adit-cni asks before a pod's first process starts,
	// and that plugin's installation. Default: none, pods are found once they
	// run. It needs world.kubernetes.
	CNI *CNIConfig `yaml:"cni"`
	// Probes exempts kubelet's probes from policy, by rules in the node's own
	// network namespace. It needs world.kubernetes. Default: false.
	Probes bool `yaml:"probes"`
	// SysctlRoot is where sysctls of the pods' network namespaces are written:
	// a container's own /proc/sys is read-only, the host's mounted elsewhere is
	// not. Default: /proc/sys.
	SysctlRoot string `yaml:"sysctlRoot"`

	// SameNode is how connections between two pods of this node are carried:
	// "hbone", as to any other node, or "direct", joined inside the agent.
	// Direct saves the encryption; the same policies are applied, but a
	// NetworkPolicy engine on the pods' links sees nothing. Default: hbone.
	SameNode string `yaml:"sameNode"`

	Log       LogConfig       `yaml:"log"`
	AccessLog AccessLogConfig `yaml:"accessLog"`

	// Admin is the address of the operator's interface: configuration dump, live
	// connections, log level, profiles, stop. It must be a loopback address, and
	// only root and the agent's own user are answered. ""
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
	// Kubernetes takes them from the Kubernetes API instead, with Istio's
	// policies where their CRDs are installed. Default: none.
	Kubernetes *KubernetesConfig `yaml:"kubernetes"`
}

// KubernetesConfig says how the Kubernetes API is read.
type KubernetesConfig struct {
	// Kubeconfig is a kubeconfig file. "" = the pod's own service account.
	// Relative to the configuration file. Default: "".
	Kubeconfig string `yaml:"kubeconfig"`
	// ClusterDomain is the DNS domain of services. Default: cluster.local.
	ClusterDomain string `yaml:"clusterDomain"`
	// ClusterID is the cluster's name in the UIDs of workloads. Default:
	// Kubernetes.
	ClusterID string `yaml:"clusterID"`
	// RootNamespace is the one whose policies hold for the whole mesh. Default:
	// adit-system.
	RootNamespace string `yaml:"rootNamespace"`
}

// CNIConfig is the way from a container runtime to the agent.
type CNIConfig struct {
	// Socket is where adit-cni asks the agent. Default: /run/adit/cni.sock.
	Socket string `yaml:"socket"`
	// ConfDir is where the node's runtime finds its network configuration; the
	// agent adds its plugin there, last in the chain. Default: /etc/cni/net.d.
	ConfDir string `yaml:"confDir"`
	// BinDir is where the runtime finds plugins. Default: /opt/cni/bin.
	BinDir string `yaml:"binDir"`
	// Binary is the plugin, which is copied to BinDir. Default: /adit-cni.
	Binary string `yaml:"binary"`
	// ExcludeNamespaces are those whose pods are never captured, and start
	// without the agent being asked: what it needs must not wait for it. Default:
	// kube-system and adit-system.
	ExcludeNamespaces []string `yaml:"excludeNamespaces"`
}

// CAConfig says where certificates come from: the embedded CA, or a server.
type CAConfig struct {
	// Address is the host:port of a server of Istio's CreateCertificate, such as
	// adit ca or istiod. "" = the embedded CA. Default: "".
	Address string `yaml:"address"`
	// TokenFile is the agent's own service account token, by which that server
	// knows it; read again for every request. Default:
	// /var/run/secrets/tokens/istio-token.
	TokenFile string `yaml:"tokenFile"`
	// RootConfigMap is the NAMESPACE/NAME of the ConfigMap that holds the
	// trusted roots under root-cert.pem. It needs world.kubernetes. Default: "".
	RootConfigMap string `yaml:"rootConfigMap"`
	// RootFile is a file of trusted roots, PEM, read again when it changes.
	// Relative to the configuration file. Default: "".
	RootFile string `yaml:"rootFile"`
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
		CA:               CAConfig{TTL: 24 * time.Hour, TokenFile: "/var/run/secrets/tokens/istio-token"},
		Capture:          true,
		SysctlRoot:       "/proc/sys",
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

// complete gives the parts of c that are there only when they are named their
// defaults.
func (c *Config) complete() {
	if k := c.World.Kubernetes; k != nil {
		k.ClusterDomain = cmp.Or(k.ClusterDomain, "cluster.local")
		k.ClusterID = cmp.Or(k.ClusterID, "Kubernetes")
		k.RootNamespace = cmp.Or(k.RootNamespace, "adit-system")
	}
	if c.Ingress != nil {
		c.Ingress.complete(c.TrustDomain)
	}
	if n := c.CNI; n != nil {
		n.Socket = cmp.Or(n.Socket, "/run/adit/cni.sock")
		n.ConfDir = cmp.Or(n.ConfDir, "/etc/cni/net.d")
		n.BinDir = cmp.Or(n.BinDir, "/opt/cni/bin")
		n.Binary = cmp.Or(n.Binary, "/adit-cni")
		if n.ExcludeNamespaces == nil {
			n.ExcludeNamespaces = []string{"kube-system", "adit-system"}
		}
	}
}
