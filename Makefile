# The commands that everybody uses; `make help` lists them.
CLUSTER ?= buildpools
export CLUSTER

.PHONY: help demo test check bench faults mutants cluster cluster-down kubeconfig install e2e churn scale generate tools

help: ## this list
	@awk -F': .*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## from a fresh checkout to an image that was built in a pool, pushed, pulled and run
	@bash e2e/scripts/demo

test: ## every test: unit, real buildkitd, end to end on a real cluster
	@bash e2e/scripts/test

check: ## the fast part: format, lints, unit tests, generated files in step
	@bash e2e/scripts/check

bench: ## the benchmarks, one JSON object per line (ONLY=name for one figure)
	@bash e2e/scripts/bench

faults: ## the fault harness: all of it, or what ARGS='…' says (ARGS=--help)
	@bash e2e/scripts/faults $(ARGS)

mutants: ## whether the fault harness notices faults that are put in on purpose
	@bash e2e/scripts/mutants $(T)

cluster: ## starts the one-node test cluster (CLUSTER=name for another one beside it)
	@bash e2e/scripts/cluster

cluster-down: ## stops the test cluster and removes all of it
	@bash e2e/scripts/cluster-down

kubeconfig: ## prints the path of the test cluster's kubeconfig
	@bash e2e/scripts/kubeconfig

install: ## builds buildpools and installs it into the test cluster
	@bash e2e/scripts/install

e2e: ## the end-to-end tests of the file T in e2e/tests, or whose name contains T
	@bash e2e/scripts/e2e $(T)

churn: ## JOBS jobs (2000) while operators, runners, daemons and pods are killed; no cluster is needed
	@bash faults/scripts/churn

scale: ## what the operator needs for 1,000 pools and 10,000 jobs; no cluster is needed
	@bash faults/scripts/scale

generate: ## writes the CRDs from the Rust types
	@bash e2e/scripts/generate

tools: ## builds the cluster's programs into the cache
	@bash e2e/tools/build
