# Everything that runs redgrid. `make` alone tells what there is.
#
# ARGS is handed on:   make run ARGS=--once      make test-erl ARGS=machinery_SUITE
# What each target needs and where it caches: docs/testing.md.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Each step uses all cores by itself, and the output of two at once is of no use to a reader.
.NOTPARALLEL:

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
LIBRARY := $(abspath rebar_fixture/_build/default/lib/redgrid/ebin)
ARGS :=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# ------------------------------------------------------------------ run

.PHONY: run build install
run: build ## a whole mesh on this machine: Redis, one Rust node, two Erlang nodes (ARGS=--once)
	@REDGRID_EBIN="$(LIBRARY)" "$(TARGET)/release/redgrid" demo $(ARGS)

build: install ## the release binary and the Erlang library
	@cargo build --release
	@tests/tools/library compile

install: ## what is missing on this machine: redis-server, Erlang/OTP, rebar3
	@tests/tools/install

# ------------------------------------------------------------------ test

.PHONY: test lint fmt test-rust test-lib test-erl test-otp
test: lint test-rust test-lib test-erl ## every check but the other OTP releases
	@echo "make test: all passed"

lint: install ## formatting, clippy and rustdoc, warnings being errors
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps

fmt: install ## format the Rust sources
	cargo fmt

test-rust: install ## unit, property and doc tests; integration tests with a real erl and Redis
	cargo test $(ARGS)

test-lib: install ## the Erlang library by itself: eunit, dialyzer
	tests/tools/library eunit
	tests/tools/library dialyzer

test-erl: install ## the Common Test suites of erlang_tests/ (ARGS="a_SUITE b_SUITE": only those)
	cargo build
	REDGRID_BIN="$(TARGET)/debug/redgrid" tests/tools/ct $(ARGS)

# NOT_RUN=ok forgives a root that cannot be built (no network, no rights); it is told all the same.
test-otp: install ## the same suites on OTP 25, 27 and 29, each in a small Debian root
	cargo build
	REDGRID_BIN="$(TARGET)/debug/redgrid" tests/tools/test-otp $(if $(filter ok,$(NOT_RUN)),--forgive-not-run) $(ARGS)

# It says what it lacks: a nightly toolchain, which nothing else here needs and it does not install.
.PHONY: fuzz
fuzz: ## look for bytes that break something, a minute a target (ARGS="term -- -max_total_time=600")
	tests/tools/fuzz $(ARGS)

# ------------------------------------------------------------------ measure

.PHONY: bench-smoke bench-dist
bench-smoke: install ## start to pong, idle memory, 10,000 calls beside erl to erl
	cargo bench --bench smoke

bench-dist: install ## the distribution beside erl and the crates (ARGS="calls --rounds 1 --ms 500"; ARGS=--help)
	cargo bench --bench dist -- $(ARGS)
