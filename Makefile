# setup is cheap when there is nothing to do, so whatever needs it calls it.
SHELL      := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO      ?= go
SUDO    := $(if $(filter-out 0,$(shell id -u)),sudo)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
IMAGE   ?= adit:$(VERSION)

# The version comes from git describe below. Go's own stamp fails the build where
# git distrusts the checkout, as in a container that mounts somebody else's.
export GOFLAGS := $(strip $(shell command -v $(GO) >/dev/null && $(GO) env GOFLAGS) -buildvcs=false)

# cgo stays off: one static binary runs on any node and in an image from scratch.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

STATICCHECK := .tools/staticcheck
H2SPEC      := .tools/h2spec
KUBERNETES  := .tools/kubernetes/kubernetes

.PHONY: setup setup-cluster packages build demo setup-demo-ingress demo-ingress test check bench image crds clean cluster cluster-down test-cluster bench-cluster conformance setup-bench-ingress bench-ingress

## setup: install what the other targets need and the machine lacks
setup: packages $(STATICCHECK) $(H2SPEC)
	@command -v promtool >/dev/null || { echo "setup: installing prometheus"; $(SUDO) tools/apt-install prometheus; }
	@test -e /usr/lib/cni/bridge || { echo "setup: installing containernetworking-plugins"; $(SUDO) tools/apt-install containernetworking-plugins; }

# All that building and the demo need.
packages:
	@command -v $(GO) >/dev/null || { echo "make: $(GO) not found; install Go 1.26 or later from https://go.dev/dl" >&2; exit 1; }
	@want=(); \
	command -v gcc >/dev/null && test -e /usr/include/stdlib.h || want+=(gcc libc6-dev); \
	test -e /etc/ssl/certs/ca-certificates.crt || want+=(ca-certificates); \
	if (( $${#want[@]} )); then \
		echo "setup: installing $${want[*]}"; \
		$(SUDO) tools/apt-install "$${want[@]}"; \
	fi

# What checks adit is pinned in a module of its own.
$(STATICCHECK): PKG := honnef.co/go/tools/cmd/staticcheck
$(H2SPEC): PKG := github.com/summerwind/h2spec/cmd/h2spec
$(STATICCHECK) $(H2SPEC): tools/go.mod tools/go.sum
	@echo "setup: building $(@F)"
	@$(GO) -C tools build -o ../$@ $(PKG)

## build: bin/adit and the CNI plugin bin/adit-cni
build: packages
	@$(BUILD) -o bin/ ./cmd/...

## demo: two nodes, four pods, and evidence for every claim; needs root
demo: build
	@$(SUDO) bin/adit demo $(ARGS)

# The demo does without what cannot be had, and says what it does not show.
setup-demo-ingress: packages
	@want=(); \
	for have in curl:curl gtlsclient:ngtcp2-client chromium:chromium certutil:libnss3-tools; do \
		command -v $${have%%:*} >/dev/null || want+=($${have##*:}); \
	done; \
	if (( $${#want[@]} )); then \
		echo "setup-demo-ingress: installing $${want[*]}"; \
		$(SUDO) tools/apt-install "$${want[@]}" || echo "setup-demo-ingress: not all of them could be installed"; \
	fi

## demo-ingress: the edge with HTTP/1.1, 2 and 3, and a browser, into a meshed pod; needs root
demo-ingress: build setup-demo-ingress
	@$(SUDO) env "PATH=$$PATH" bin/adit demo ingress --pictures bin/demo-ingress $(ARGS)

## test: everything, with the race detector; as root nothing may be skipped
test: setup
	@if (( $$(id -u) == 0 )); then export CI=true; fi; \
	$(GO) test -race -shuffle=on -timeout 9m ./...
	@$(GO) -C tools test ./...

## check: formatting, vet, staticcheck and the import rules
check: setup
	@bad=$$(gofmt -l .); \
	if [[ -n $$bad ]]; then echo "not gofmt'd:"; echo "$$bad"; exit 1; fi
	@$(GO) vet ./...
	@$(GO) -C tools vet ./...
	@$(GO) -C e2e/conformance vet ./...
	@$(STATICCHECK) ./...
	@$(GO) test -count=1 -run '^TestImports' ./e2e

## bench: the data path beside a plain TCP proxy and a raw TLS tunnel
bench: build
	@bin/adit bench tunnel $(ARGS)

# The rivals and the load generators of bench-ingress, as Debian has them.
setup-bench-ingress:
	@want=(); \
	for have in nginx:nginx-light haproxy:haproxy caddy:caddy wrk:wrk h2load:nghttp2-client; do \
		command -v $${have%%:*} >/dev/null || want+=($${have##*:}); \
	done; \
	if (( $${#want[@]} )); then \
		echo "setup-bench-ingress: installing $${want[*]}"; \
		$(SUDO) tools/apt-install "$${want[@]}"; \
	fi

## bench-ingress: the edge beside Caddy, nginx and HAProxy
bench-ingress: build setup-bench-ingress
	@bin/adit bench ingress $(ARGS)

## image: bin/adit-image.tar, for `docker load` or `ctr image import`; no daemon needed
image: build
	@$(GO) -C tools run ./image -tag $(IMAGE) -out ../bin/adit-image.tar \
		-cmd 'agent --config /etc/adit/agent.yaml' /adit=../bin/adit /adit-cni=../bin/adit-cni

## crds: deploy/crds/, the definitions of Istio's and Gateway API's kinds, out of their modules
crds: packages
	@$(GO) -C tools run ./crds -out ../deploy/crds -schemas ../ingress/file/schema/gateway-api.json

## setup-cluster: Kubernetes out of its Go modules, and what nodes run from Debian
setup-cluster: packages $(KUBERNETES)
	@want=(); \
	for have in etcd:etcd-server containerd:containerd runc:runc nft:nftables ip:iproute2; do \
		command -v $${have%%:*} >/dev/null || want+=($${have##*:}); \
	done; \
	test -e /usr/lib/cni/bridge || want+=(containernetworking-plugins); \
	if (( $${#want[@]} )); then \
		echo "setup-cluster: installing $${want[*]}"; \
		$(SUDO) tools/apt-install "$${want[@]}"; \
	fi

# A version of its own is what Kubernetes' clients compare theirs with.
KUBEVERSION  = $(shell awk '$$1 == "k8s.io/kubernetes" {print $$2}' tools/kubernetes/go.mod)
KUBELDFLAGS  = -s -w $(foreach v,gitVersion=$(KUBEVERSION) gitMajor=1 gitMinor=$(word 2,$(subst ., ,$(KUBEVERSION))),-X k8s.io/component-base/version.$(v))

# Minutes, once: the link is of everything that Kubernetes is, in one binary.
$(KUBERNETES): tools/kubernetes/go.mod tools/kubernetes/go.sum tools/kubernetes/main.go
	@echo "setup-cluster: building Kubernetes; this takes some minutes"
	@CGO_ENABLED=0 $(GO) -C tools/kubernetes build -trimpath -ldflags "$(KUBELDFLAGS)" -o ../../$@ .
	@ln -sf $(@F) $(@D)/kubectl

## cluster: Kubernetes with two nodes on this machine, with adit's image; needs root
cluster: setup-cluster
	@$(SUDO) env "PATH=$$PATH" $(GO) run ./e2e/cluster/cmd up $(ARGS)

## cluster-down: remove every trace of it, of an interrupted one too
cluster-down:
	@$(SUDO) env "PATH=$$PATH" $(GO) run ./e2e/cluster/cmd down $(ARGS)

## test-cluster: adit on clusters of the tests' own, and what it asks of API servers; needs root
test-cluster: setup-cluster
	@$(SUDO) env "PATH=$$PATH" ADIT_CLUSTER=1 CI=true $(GO) test -count=1 -p 1 -timeout 30m $(ARGS) ./e2e/cluster/... ./agent/kube ./ingress/kube ./identity/cakube

## conformance: Gateway API's own suite on a cluster, all of five profiles; writes docs/conformance/; needs root
conformance: setup-cluster crds
	@$(SUDO) env "PATH=$$PATH" ADIT_CLUSTER=1 $(GO) -C e2e/conformance test -count=1 -timeout 30m -args $(ARGS)

## bench-cluster: what adit costs on a cluster; needs root
bench-cluster: setup-cluster
	@$(SUDO) env "PATH=$$PATH" $(GO) run ./e2e/cluster/meshbench $(ARGS)

clean:
	@rm -rf bin .tools
