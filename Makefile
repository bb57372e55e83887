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

.PHONY: setup packages build demo test check bench image clean

## setup: install what the other targets need and the machine lacks
setup: packages $(STATICCHECK) $(H2SPEC)

# All that building and the demo need.
packages:
	@command -v $(GO) >/dev/null || { echo "make: $(GO) not found; install Go 1.26 or later from https://go.dev/dl" >&2; exit 1; }
	@want=(); \
	command -v gcc >/dev/null && test -e /usr/include/stdlib.h || want+=(gcc libc6-dev); \
	test -e /etc/ssl/certs/ca-certificates.crt || want+=(ca-certificates); \
	if (( $${#want[@]} )); then \
		echo "setup: installing $${want[*]}"; \
		$(SUDO) apt-get -qq update; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$${want[@]}" >/dev/null; \
	fi

# What checks adit is pinned in a module of its own.
$(STATICCHECK): PKG := honnef.co/go/tools/cmd/staticcheck
$(H2SPEC): PKG := github.com/summerwind/h2spec/cmd/h2spec
$(STATICCHECK) $(H2SPEC): tools/go.mod tools/go.sum
	@echo "setup: building $(@F)"
	@$(GO) -C tools build -o ../$@ $(PKG)

## build: bin/adit
build: packages
	@$(BUILD) -o bin/adit ./cmd/adit

## demo: two nodes, four pods, and evidence for every claim; needs root
demo: build
	@$(SUDO) bin/adit demo $(ARGS)

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
	@$(STATICCHECK) ./...
	@$(GO) test -count=1 -run '^TestImports' ./e2e

## bench: the data path beside a plain TCP proxy and a raw TLS tunnel
bench: build
	@bin/adit bench tunnel $(ARGS)

## image: bin/adit-image.tar, for `docker load` or `ctr image import`; no daemon needed
image: build
	@$(GO) -C tools run ./image -binary ../bin/adit -tag $(IMAGE) -out ../bin/adit-image.tar

clean:
	@rm -rf bin .tools
