# "make" alone lists what there is. Nothing here needs root, save installing what is missing.
.DEFAULT_GOAL := help
SHELL := /bin/bash

# sudo's own path often lacks the place where Go is installed.
export PATH := $(PATH):/usr/local/go/bin

# The programs know the commit that they were built from, where git may tell.
STAMP := $(shell git rev-parse --verify -q HEAD >/dev/null 2>&1 && echo true || echo false)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: go
go:
	@deploy/dev/check-go.sh

.PHONY: build
build: go ## build bin/grove, bin/groved and bin/grove-agent
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -buildvcs=$(STAMP) -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/...
	@[ "$$(id -u)" != 0 ] || chown -R --reference=Makefile bin

.PHONY: run
run: build ## run the embedded control plane in the foreground (ARGS="--listen ... --data ...")
	bin/groved dev $(ARGS)

.PHONY: demo
demo: go ## install what is missing, and walk through the main job with a real Redis
	@deploy/dev/demo.sh

.PHONY: test
test: go ## install what is missing, and run every test with the race detector
	@deploy/dev/test.sh

.PHONY: devcloud
devcloud: ## start a small real OpenStack on loopback (DIR=.cache/devcloud); stop it with deploy/devcloud/down.sh
	@deploy/dev/install.sh openstack
	@deploy/devcloud/up.sh $${DIR:-.cache/devcloud}

.PHONY: test-openstack
test-openstack: go ## install and start a real OpenStack, and run every test that needs one
	@deploy/dev/test-openstack.sh

.PHONY: packages
packages: build ## build the Debian packages of the three programs, into dist/
	@deploy/debian/build.sh

.PHONY: test-packages
test-packages: packages ## install them in a fresh Debian 12 (root), try them, and remove them again
	@deploy/dev/install.sh packages
	@deploy/debian/test.sh

.PHONY: guest-image
guest-image: go ## build a bootable guest image as root (IMAGE=.cache/guest-image/grove-guest.qcow2), and boot it once under QEMU
	@deploy/image/build.sh $${IMAGE:-.cache/guest-image/grove-guest.qcow2}
	@deploy/image/boot-test.sh $${IMAGE:-.cache/guest-image/grove-guest.qcow2}

.PHONY: lint
lint: go ## gofmt, vet, staticcheck, and the rules of the house
	@out=$$(gofmt -l .); [ -z "$$out" ] || { echo "not formatted by gofmt:"; echo "$$out"; exit 1; }
	go vet ./...
	go run $(STATICCHECK) ./...
	go test ./internal/architecture

.PHONY: bench
bench: go ## measure, and print the tables of docs/performance.md
	@deploy/dev/bench.sh

.PHONY: bench-openstack
bench-openstack: go ## measure creates on a real OpenStack, and Grove's own share of them
	@deploy/dev/test-openstack.sh -timeout 1h -run '^$$' -bench OpenStack -benchtime 1x

.PHONY: simulate
simulate: go ## play random histories of the engine (SEEDS=100000), or show one (SEED=n)
	@deploy/dev/simulate.sh

.PHONY: crash
crash: go ## the whole crash suite: every workflow killed at every point, on both databases (hours)
	@GROVE_CRASH=full deploy/dev/test.sh -timeout 6h -run "AtEveryStep|TestClusterHeals|TestTLSCluster" ./taskmanager ./datastore/redis

.PHONY: crash-openstack
crash-openstack: go ## a taskmanager killed at every step of an instance's life on a real OpenStack
	@GROVE_CRASH=full deploy/dev/test-openstack.sh -timeout 2h -run TestKilledAtEveryStepOnOpenStack

.PHONY: soak
soak: go ## a hot standby on a starved machine for an hour (SOAK=1h), every outage of what it needs, 200 creates while all dies, roles after a recovery
	@GROVE_SOAK=$${SOAK:-1h} deploy/dev/test.sh -timeout 24h -run "TestBusyMachine|TestOutages|CreatesWhileEverythingDies|TestPausedTaskmanager|TestRestoredDatabase" ./internal/e2e

.PHONY: fuzz
fuzz: go ## run each fuzz target for a while (FUZZTIME=30s each)
	@deploy/dev/fuzz.sh

.PHONY: clean
clean: ## remove what was built here
	rm -rf bin dist .cache
