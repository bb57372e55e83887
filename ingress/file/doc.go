// Package file is a directory of YAML as a source of Gateway API: it reads
// manifests as kubectl would apply them, and keeps what an API server would keep.
//
// Every object is held to its kind's definition, and gets the defaults that it
// lacks. A file in which something is wrong keeps the objects that it had when
// nothing was; at the start, those of its objects that are good. Generations are
// counted, and statuses kept, in memory.
//
// # What needs not be said
//
// An object without a namespace is in "default". Namespaces exist, with the
// label kubernetes.io/metadata.name; give one to add labels. A GatewayClass adit
// exists.
//
// # Backends
//
// A Service has the endpoints that EndpointSlices give it: they name it by the
// label kubernetes.io/service-name. Endpoints of addressType FQDN are DNS names.
//
// # Certificates
//
// A Secret, or a ConfigMap, may name files instead of having them in it, which
// are watched as well:
//
//	metadata:
//	  annotations:
//	    adit-mesh.github.io/files: tls.crt=/etc/letsencrypt/live/a/fullchain.pem,tls.key=/etc/letsencrypt/live/a/privkey.pem
//
// As long as certificate and key do not belong together, the pair that did stays.
//
// # Limitations
//
// The definitions' rules in CEL are not evaluated. Subdirectories are not read.
// Objects are as old as metadata.creationTimestamp says; those that say nothing
// are equally old, and come in the order of their names. A Gateway listens on
// one address or on all.
package file
