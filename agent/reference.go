package agent

// ReferenceConfig is a configuration file with every field, at its default
// where it has one.
const ReferenceConfig = `  # This node's name in the mesh file; workloads of other nodes are left alone.
  # Default: the host name.
  nodeName: node-a
  # Of the identities issued here, and further ones accepted of peers.
  trustDomain: cluster.local
  trustDomainAliases: []
  # Workloads, services and policies; read again when it changes. Relative paths
  # begin at this file's directory.
  world:
    file: world.yaml
    # Or from the Kubernetes API, with Istio's policies where their CRDs are.
    # kubernetes:
    #   kubeconfig: ""                # "" = the pod's own service account
    #   clusterDomain: cluster.local
    #   clusterID: Kubernetes
    #   rootNamespace: adit-system    # whose policies hold for the whole mesh
  # The embedded CA. Agents that share the directory trust each other; ""
  # is a CA in memory, which no other process knows.
  ca:
    directory: ""
    ttl: 24h
    # Or a server of Istio's CreateCertificate (adit ca, istiod), and the roots
    # to know it by: root-cert.pem of a ConfigMap, or rootFile.
    # address: adit-ca.adit-system.svc:15012
    # tokenFile: /var/run/secrets/tokens/istio-token
    # rootConfigMap: adit-system/adit-ca-root
    # rootFile: ""
  # With world.kubernetes: capture pods before their first process starts.
  # cni:
  #   socket: /run/adit/cni.sock
  #   confDir: /etc/cni/net.d
  #   binDir: /opt/cni/bin
  #   binary: /adit-cni
  #   excludeNamespaces: [kube-system, adit-system]
  # Whether local pods are captured. A gateway alone does without, and without
  # privileges.
  capture: true
  # The edge: requests from outside, by Gateway API's objects. Default: none.
  # ingress:
  #   config: gateway/                # a directory of YAML files, watched
  #   kubernetes:                     # or the API server, with world.kubernetes
  #     separateUDPService: false     # two Services for each Gateway, where a
  #                                   # load balancer takes one protocol only
  #   controllerNames: [adit-mesh.github.io/gateway-controller]
  #   identity: ""                    # shown to backends; "" = that of the own pod, or
  #                                   # spiffe://TRUSTDOMAIN/ns/adit-system/sa/adit-ingress
  #   accessLog:
  #     format: text                  # text, json, "%START_TIME% %REQ(:PATH)% …"
  #     file: ""                      # "" = standard output; "off" = none
  #   proxyProtocol: []               # CIDRs of load balancers that send PROXY headers
  #   trustedProxies: []              # CIDRs whose X-Forwarded-For is believed
  probes: false              # with world.kubernetes: kubelet's probes pass policy
  sysctlRoot: /proc/sys      # a writable one, where the agent's own is not
  # Between two pods of this node: hbone, or direct (joined inside the agent;
  # saves the encryption, and hides the traffic from NetworkPolicy engines).
  sameNode: hbone
  log:
    level: info              # debug, info, warn, error
    format: text             # text, json
  accessLog:
    format: text             # text, json
    file: ""                 # "" = standard output
  admin: 127.0.0.1:15000     # loopback only; "" = off
  metrics: ":15020"          # /metrics; "" = off
  readiness: ":15021"        # /healthz/ready, /healthz/live; "" = off
  dialTimeout: 10s           # to reach a destination, handshakes and retries included
  halfCloseTimeout: 1h       # ended in one direction, silent in the other
  drainTimeout: 30s          # for live connections when the agent or a pod stops
  # HBONE client without capture: TCP in, CONNECT out. Default: none.
  encapsulate:
  - listen: 127.0.0.1:10000
    peer: 127.0.0.1:10001
    authority: host.com:443
    identity: spiffe://cluster.local/ns/default/sa/client
    expect: [spiffe://cluster.local/ns/default/sa/gateway]
    headers:
      original_dst_port: "%DOWNSTREAM_LOCAL_PORT%"
  # HBONE server without capture: CONNECT in, TCP out. Default: none.
  terminate:
  - listen: 127.0.0.1:10001
    identity: spiffe://cluster.local/ns/default/sa/gateway
    allow: [spiffe://cluster.local/ns/default/sa/client]   # [] = nobody
    upstream: www.example.com:443                          # "" = the CONNECT authority
`
