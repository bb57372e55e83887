// Package certs reads certificates from Kubernetes Secrets and ConfigMaps.
package certs
