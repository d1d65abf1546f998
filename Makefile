# `make` lists what it can do. ARGS are passed on: make run ARGS='--node-id 2'

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help run test check fix bench bench-kafka bench-protocols cluster sim sim-bugs chaos fuzz miri loom compat acceptance ci setup clean

# C and C++ are compiled once, wherever they are built; a compiler that the environment names is left alone.
ifneq ($(shell command -v ccache 2>/dev/null),)
ifeq ($(origin CC),default)
export CC := ccache cc
endif
ifeq ($(origin CXX),default)
export CXX := ccache c++
endif
endif

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Of the storage engine: what needs neither a disk nor long.
MIRI_TESTS := segment::entries segment::header index::key index::digest index::transaction index::schema marker:: read::recent
DLOG := $(TARGET_DIR)/release/dlog

help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup ## build and run one node, its data in ./dlog-data
	cargo run --release -p dlog -- $(ARGS)

test: setup ## run all tests
	cargo test --workspace $(ARGS)

check: setup ## check format and lints; changes nothing
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

fix: setup ## format, and mend what the lints can mend
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

bench: setup ## measure appends and reads on one node, as in: make bench ARGS='--seconds 30'
	cargo build --release -p dlog
	scripts/bench $(DLOG) $(ARGS)

bench-protocols: setup ## measure what the Kafka gateway costs over the native client, as in: make bench-protocols ARGS='--nodes 3'
	cargo build --release -p dlog
	scripts/bench-protocols $(DLOG) $(ARGS)

bench-kafka: setup ## measure three nodes against three of Apache Kafka with Kafka's tools, as in: make bench-kafka ARGS='--rounds 5'
	cargo build --release -p dlog
	scripts/bench-kafka $(DLOG) $(ARGS)

cluster: setup ## run three nodes on this machine, their data in ./data1 to ./data3
	cargo build --release -p dlog
	scripts/cluster $(DLOG)

sim: setup ## run the simulator, as in: make sim ARGS='--help'
	cargo run --release -p dlog-sim -- $(ARGS)

sim-bugs: setup ## see the simulator catch every bug that is put in on purpose; ARGS=--quick: from the seeds on that are known to
	cargo run --release -p dlog-sim --features bugs -- --bugs --jobs $$(nproc) $(ARGS)

chaos: setup ## get real nodes into trouble and judge what clients saw, as in: make chaos ARGS='failover --kills 100'
	cargo build --release -p dlog
	cargo run --release -p dlog-chaos -- $(or $(ARGS),run) --dlog $(DLOG)

fuzz: setup ## feed decoders with damaged bytes, as in: make fuzz SECONDS_EACH=60
	rustup toolchain install nightly --profile minimal
	@command -v cargo-fuzz > /dev/null || cargo install --locked cargo-fuzz
	for target in fuzz/fuzz_targets/*.rs; do \
	  cargo +nightly fuzz run $$(basename $$target .rs) -- -max_total_time=$(or $(SECONDS_EACH),60) || exit 1; \
	done

miri: setup ## look for undefined behaviour in what of the storage engine Miri can run
	rustup toolchain install nightly --profile minimal --component miri,rust-src
	PROPTEST_CASES=4 MIRIFLAGS=-Zmiri-disable-isolation CARGO_TARGET_DIR=$(TARGET_DIR)/miri \
	  cargo +nightly miri test -p dlog-storage-node --no-default-features --lib -- $(MIRI_TESTS)

loom: setup ## try all orders in which threads of the storage engine can hand over without locks
	cargo test -p dlog-storage-node --no-default-features --features loom --lib loom_tests

compat: setup ## run the Kafka clients that this machine has against a node
	cargo build --release -p dlog
	scripts/compat $(DLOG) $(ARGS)

acceptance: setup ## build, and use the result as a user would
	cargo build --release -p dlog
	tests/acceptance.sh $(DLOG)

ci: ## everything that must pass before a change lands
	.ci/run

setup: ## install what is missing to build (the others do it too)
	@scripts/setup

clean: ## remove what was built; data stays
	cargo clean
