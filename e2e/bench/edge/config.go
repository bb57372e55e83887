package edge

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// configFile is where its configuration is.
func (p *proxy) configFile() string {
	if p.name == pathOurs {
		return filepath.Join(p.dir, "gateway", "edge.yaml")
	}
	return filepath.Join(p.dir, "config")
}

// command starts it, in the foreground.
func (p *proxy) command(adit []string, config string) []string {
	switch p.name {
	case pathCaddy:
		return []string{programs[p.name], "run", "--adapter", "caddyfile", "--config", config}
	case pathNginx:
		return []string{programs[p.name], "-p", p.dir, "-c", config, "-e", "stderr", "-g", "daemon off;"}
	case pathHAProxy:
		return []string{programs[p.name], "-W", "-db", "-f", config}
	}
	return append(adit[:len(adit):len(adit)], "ingress", "--config", filepath.Dir(config),
		"--access-log", "off", "--admin", p.admin, "--metrics", "off", "--readiness", "off")
}

// config is the configuration for the prefixes of p. What all have alike: one worker, no logs, kept connections to the backend
// in any number, TLS 1.3 alone, X-Forwarded-* for the backend, uploads and downloads streamed.
func (p *proxy) config() string {
	switch p.name {
	case pathCaddy:
		return p.caddyfile()
	case pathNginx:
		return p.nginxConf()
	case pathHAProxy:
		return p.haproxyCfg()
	}
	return p.gatewayYAML()
}

func (p *proxy) gatewayYAML() string {
	host, backendPort := split(p.backend)
	_, httpPort := split(p.http)
	_, httpsPort := split(p.https)
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  gatewayClassName: adit
  addresses: [{value: %s}]
  listeners:
  - {name: http, protocol: HTTP, port: %s}
  - {name: https, protocol: HTTPS, port: %s, tls: {certificateRefs: [{name: edge}], options: {}}}
---
apiVersion: v1
kind: Secret
metadata: {name: edge, annotations: {adit-mesh.github.io/files: "tls.crt=%s,tls.key=%s"}}
type: kubernetes.io/tls
---
apiVersion: v1
kind: Service
metadata: {name: backend}
spec: {ports: [{port: 80, targetPort: %s}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: backend, labels: {kubernetes.io/service-name: backend}}
addressType: IPv4
ports: [{port: %s}]
endpoints: [{addresses: [%s]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: route}
spec:
  parentRefs: [{name: edge}]
  rules:
`, host, httpPort, httpsPort, filepath.Join(p.certs, "tls.crt"), filepath.Join(p.certs, "tls.key"), backendPort, backendPort, host)
	for _, prefix := range p.prefixes {
		fmt.Fprintf(&b, "  - {matches: [{path: {type: PathPrefix, value: %s}}], backendRefs: [{name: backend, port: 80}]}\n", prefix)
	}
	return b.String()
}

func (p *proxy) caddyfile() string {
	var routes strings.Builder
	for _, prefix := range p.prefixes {
		fmt.Fprintf(&routes, `	handle %s* {
		reverse_proxy %s {
			transport http {
				keepalive_idle_conns 4096
				keepalive_idle_conns_per_host 4096
				compression off
			}
		}
	}
`, prefix, p.backend)
	}
	routes.WriteString("\thandle {\n\t\trespond 404\n\t}\n")
	return fmt.Sprintf(`{
	admin %s
	auto_https off
	default_sni %s
	log {
		level ERROR
	}
}
http://:%s {
	bind %s
%s}
https://:%s {
	bind %s
	tls %s %s {
		protocols tls1.3
	}
%s}
`, p.admin, loopback, port(p.http), loopback, routes.String(), port(p.https), loopback,
		filepath.Join(p.certs, "tls.crt"), filepath.Join(p.certs, "tls.key"), routes.String())
}

func (p *proxy) nginxConf() string {
	var locations strings.Builder
	for _, prefix := range p.prefixes {
		fmt.Fprintf(&locations, `		location %s {
			proxy_pass http://backend;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_set_header Host $http_host;
			proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
			proxy_set_header X-Forwarded-Proto $scheme;
			proxy_set_header X-Request-Id $request_id;
		}
`, prefix)
	}
	if len(p.prefixes) == 0 || p.prefixes[0] != "/" {
		locations.WriteString("\t\tlocation / { return 404; }\n")
	}
	return fmt.Sprintf(`user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid %s/nginx.pid;
error_log stderr error;
events { worker_connections 9000; }
http {
	access_log off;
	keepalive_requests 1000000000;
	client_max_body_size 0;
	proxy_request_buffering off;
	proxy_max_temp_file_size 0;
	client_body_temp_path %s/body;
	proxy_temp_path %s/proxy;
	fastcgi_temp_path %s/fastcgi;
	uwsgi_temp_path %s/uwsgi;
	scgi_temp_path %s/scgi;
	upstream backend {
		server %s;
		keepalive 4096;
		keepalive_requests 1000000000;
	}
	server {
		listen %s backlog=4096;
		listen %s ssl http2 backlog=4096;
		ssl_certificate %s/tls.crt;
		ssl_certificate_key %s/tls.key;
		ssl_protocols TLSv1.3;
%s	}
}
`, p.dir, p.dir, p.dir, p.dir, p.dir, p.dir, p.backend, p.http, p.https, p.certs, p.certs, locations.String())
}

func (p *proxy) haproxyCfg() string {
	var uses strings.Builder
	for _, prefix := range p.prefixes {
		fmt.Fprintf(&uses, "\tuse_backend backend if { path_beg %s }\n", prefix)
	}
	return fmt.Sprintf(`global
	nbthread 1
	maxconn 9000
	no log
	ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
	mode http
	timeout connect 5s
	timeout client 5m
	timeout server 5m
	timeout http-keep-alive 5m
	option forwardfor
	http-reuse always
frontend edge
	bind %s backlog 4096
	bind %s ssl crt %s/both.pem alpn h2,http/1.1 backlog 4096
	http-request set-header X-Forwarded-Proto https if { ssl_fc }
	http-request set-header X-Forwarded-Proto http if !{ ssl_fc }
	unique-id-format %%[uuid()]
	unique-id-header X-Request-Id
%sbackend backend
	server one %s pool-max-conn 4096
`, p.http, p.https, p.certs, uses.String(), p.backend)
}

func split(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}

func port(addr string) string {
	_, port := split(addr)
	return port
}
