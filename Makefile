# Holdfast's commands. `make help` lists them; README.md says when to use which.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

# Executions of each fuzz target in `make test` and in `make test-long`.
FUZZ := 20000
FUZZ_LONG := 2000000
# Which seeds `make sim` runs: SEEDS of them from SEED on. One alone is printed whole.
SEED := 1
SEEDS := 1
# Which benchmarks `make bench` runs: a name or the start of one; empty for all.
BENCH :=
# Where our Go files are; not asked of git, which an unpacked release lacks.
GO_DIRS := $(wildcard api bench cmd deploy internal test)

.PHONY: help build run stop test test-long test-vm test-kube test-kube-e2e bench sim generate lint unit race fuzz shell planted clean

help: ## list these commands
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

build: ## bin/holdfast, one static binary
	@scripts/deps build
	CGO_ENABLED=0 go build -trimpath -o bin/holdfast ./cmd/holdfast

run: build ## see it work: a cluster of three nodes in ./run, and what it does when one dies
	@scripts/deps run
	@scripts/demo start

stop: ## take down what `make run` left, and its data
	@scripts/demo stop

test: ## everything that CI runs
	@scripts/deps test
	@$(MAKE) build lint shell fuzz race unit planted

test-long: ## the same with long fuzzing and the race detector everywhere
	@scripts/deps test-long
	@$(MAKE) build lint shell fuzz unit FUZZ=$(FUZZ_LONG)
	HOLDFAST_TEST_KILLS=300 go test -race -count=1 -timeout 120m ./...
	HOLDFAST_LONG=1 go test -count=1 -p 1 -timeout 240m ./test/e2e ./internal/store ./internal/sim

test-vm: ## what needs a kernel with ublk and nbd, in an emulated machine (minutes)
	@scripts/deps test-vm
	@mkdir -p bin
	CGO_ENABLED=0 go test -tags vm -c -o bin/ublk.test ./internal/attach/ublk
	CGO_ENABLED=0 go test -tags vm -c -o bin/nbdclient.test ./internal/attach/nbdclient
	CGO_ENABLED=0 go test -c -o bin/mount.test ./internal/attach/mount
	CGO_ENABLED=0 go test -tags vm -c -o bin/vm.test ./test/vm
	scripts/vm bin/mount.test bin/ublk.test bin/nbdclient.test bin/vm.test

test-kube: ## a real Kubernetes of three nodes on this machine (minutes; 20 the first time)
	go test -tags kube -count=1 -timeout 60m -v ./test/kube

test-kube-e2e: ## Kubernetes' own suite for storage drivers, in such a cluster
	test/kube/e2e

bench: ## [BENCH=store] measure against a baseline, into bench/results.json
	@scripts/deps bench
	@go run ./bench -run '$(BENCH)'

sim: ## [SEED=n] [SEEDS=count] run clusters in the simulator; one seed prints its run
	SIM_SEED=$(SEED) SIM_SEEDS=$(SEEDS) SIM_TRACE=$(if $(filter 1,$(SEEDS)),1) go test -count=1 -timeout 0 -run TestReplay -v ./internal/sim

generate: ## write the generated files anew
	@scripts/deps generate
	scripts/generate

lint: ## gofmt, go vet, staticcheck, shellcheck
	@scripts/deps lint
	@unformatted=$$(gofmt -l $(GO_DIRS)); \
	if [ -n "$$unformatted" ]; then echo "not formatted; run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	go vet -tags vm ./internal/attach/... ./test/vm
	go vet -tags kube ./test/kube
	go tool staticcheck ./...
	shellcheck .ci/run scripts/*

# The parts of `make test`, for running one alone.
unit:
	go test -count=1 -timeout 15m ./...

# The simulator must find the bugs that are planted for it.
planted:
	go test -count=1 -timeout 15m -tags planted -run TestPlanted ./internal/sim

# Only where goroutines are started can the race detector find anything. What attach and
# the tests of whole clusters start is mostly processes: they are in unit, and under the
# detector in test-long.
race:
	packages=$$(grep -rlE --include='*.go' '^\s+go (func\b|[A-Za-z_.]+\()' $(GO_DIRS) | xargs -n1 dirname | sort -u | grep -vE '^(internal/attach|test)(/|$$)' | sed 's|^|./|'); \
	go test -race -short -count=1 -timeout 15m $$packages

fuzz:
	@scripts/fuzz $(FUZZ) $(GO_DIRS)

shell: build
	@scripts/demo try
	@scripts/demo-store try

clean: stop ## remove what was built
	rm -rf bin
