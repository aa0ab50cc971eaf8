# Two commands do everything: `make demo` and `make test`. What they need and this machine lacks they install first.

SHELL := /bin/bash
export CARGO_TERM_PROGRESS_WHEN ?= auto
development := deploy/development
cargo := . $(development)/cargo.sh && cargo

.PHONY: setup build demo demo-kind test test-kind test-full kind-up kind-down lint bench figures figures-kind soak fuzz chaos mutants

## What building needs: Debian packages and the linker for kernel programs.
setup:
	@$(development)/setup.sh

build: setup
	@$(cargo) build --locked --workspace --bins

## Two clusters, connected: a minute that shows what this is. KEEP=1 leaves the lab up.
demo: build
	@e2e/demo.sh

## Two kind clusters with real kubelets and pods, installed and connected (docs/kind.md). KEEP=1 leaves them up.
demo-kind: build
	@e2e/kubernetes/demo.sh

## Everything that must be true before a change is merged.
test: build
	@$(development)/setup.sh cargo-deny
	@e2e/test.sh

## Scenarios on kind clusters, with real kubelets and pods (docs/kind.md). The clusters are removed afterwards, unless KEEP=1.
test-kind: build
	@e2e/kubernetes/test.sh

## Everything, and the suites of etcd, watches and chaos on each etcd of docs/etcd.md, and scenarios on kind clusters.
test-full: test
	@e2e/etcd/test.sh
	@e2e/kubernetes/test.sh

## Kind clusters on this machine: a (two nodes), b and c, or those of CLUSTERS="a b". What is broken of earlier ones is made anew.
kind-up:
	@e2e/kubernetes/kind/up.sh

## Removes them, and the dockerd that they ran on. What was built for them stays in the user's cache.
kind-down:
	@e2e/kubernetes/kind/down.sh

lint: setup
	@$(development)/setup.sh cargo-deny
	@$(development)/lint.sh

## Every benchmark once.
bench: setup
	@$(cargo) build --locked --release --workspace --bins
	@PATH="$$PWD/target/release:$$PATH" clustermesh bench all

## The figures of docs/performance.md, with spread: every benchmark RUNS (5) times, the long ones LONG_RUNS (2) times. Over an hour, also with RUNS=3.
figures: setup
	@$(cargo) build --locked --release --workspace --bins
	@INTO=docs/performance.md e2e/figures.sh

## The figures of docs/performance.md on kind clusters. The clusters are removed afterwards, unless KEEP=1.
figures-kind: build
	@$(cargo) build --locked --release --workspace --bins
	@PROFILE=release INTO=docs/performance.md e2e/kubernetes/figures.sh

## RESTARTS (200) restarts of an agent under load, and meshes of up to 250 clusters: half an hour. `make test` does 10 of each.
soak: build
	@e2e/soak.sh

## Every fuzz target for SECONDS_EACH (60), with coverage guiding it. `make test` runs the same bodies without.
fuzz: setup
	@$(development)/setup.sh cargo-fuzz
	@e2e/fuzz.sh

## FAULTS (200) random faults from SEED (1), under load: none may make a difference. `make test` does 8 of two seeds.
chaos: build
	@target/debug/clustermesh lab chaos --seed $${SEED:-1} --faults $${FAULTS:-200}

## Breaks promises in a copy of this tree, one after another: tests must notice each.
mutants: setup
	@e2e/mutants.sh
