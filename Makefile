# The only door: people and .ci/run use the same targets. `make help` lists them.

CARGO ?= cargo
# Programs that people run are built as they are shipped; tests use the quick profile.
RELEASE_PACKAGES = -p weft-proxy -p weft-control -p weft
# What is measured, and what measures it.
BENCH_PACKAGES = -p weft-proxy -p weft-control -p weft-benches
BENCH = $${CARGO_TARGET_DIR:-target}/release/weft-bench

.DEFAULT_GOAL := help
.PHONY: help build demo test test-peers lint bench bench-micro bench-readme instructions instructions-record image fuzz fuzz-seeds

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the three programs into target/release
	$(CARGO) build --locked --release $(RELEASE_PACKAGES)

demo: ## Show a small mesh at work on this machine (no privileges needed)
	$(CARGO) build --locked $(RELEASE_PACKAGES)
	@$${CARGO_TARGET_DIR:-target}/debug/weft demo $(DEMO_ARGUMENTS)

test: ## Run all tests that need Rust alone
	$(CARGO) test --locked --workspace

test-peers: ## Run the tests against foreign clients (tests/peers/install.sh puts them in place)
	$(CARGO) test --locked -p weft-tests --features peers --test peers_clients --test peers_pods --test peers_databases --test netns_rules

lint: ## Check formatting and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features weft-tests/peers -- -D warnings

bench: ## Measure everything against peers (benches/install-peers.sh puts them in place); BENCH_ARGUMENTS="--only pairs"
	$(CARGO) build --locked --release $(BENCH_PACKAGES)
	$(BENCH) suite $(BENCH_ARGUMENTS)

bench-micro: ## Measure each function on a request's way by itself (counts instructions with valgrind)
	$(CARGO) build --locked --release $(BENCH_PACKAGES)
	$(BENCH) micro --instructions

bench-readme: ## Measure everything and put its tables into benches/README.md
	$(CARGO) build --locked --release $(BENCH_PACKAGES)
	benches/readme.sh $(BENCH)

instructions: ## Compare the instructions of a fixed mix of requests with their record (needs valgrind)
	$(CARGO) build --locked --release $(BENCH_PACKAGES)
	$(BENCH) instructions --check benches/instructions.txt

instructions-record: ## Write that record anew
	$(CARGO) build --locked --release $(BENCH_PACKAGES)
	$(BENCH) instructions --record benches/instructions.txt

image: ## Build the container image
	docker build --tag weft:latest .

fuzz: ## Run every fuzz target for FUZZ_SECONDS (needs cargo-fuzz and a C++ compiler)
	fuzz/run $(or $(FUZZ_SECONDS),60)

fuzz-seeds: ## Write the fuzz targets' seeds that are made, not written, anew
	WEFT_FUZZ_SEEDS=$(CURDIR)/fuzz/seeds $(CARGO) test --locked -p weft-config --test properties resources_
	WEFT_FUZZ_SEEDS=$(CURDIR)/fuzz/seeds $(CARGO) test --locked -p weft-tests --test tree_fuzz_checks
