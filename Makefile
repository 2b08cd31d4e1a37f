# Everything one does with this project. Options for the demo: make demo DEMO_ARGS="--quick --json out.json"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

CARGO ?= cargo
DEMO_ARGS ?=
BENCH_ARGS ?=
SOAK_ARGS ?=
TARGET := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)

.PHONY: help
help: ## Say what there is
	@echo "mtxfleet: make WHAT, where WHAT is one of"
	grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | awk -F '\t' '{ printf "  %-8s %s\n", $$1, $$2 }'

.PHONY: setup
setup: ## Install the Debian packages that demo and tests need, if missing
	@tests/setup/install-missing.sh

.PHONY: build
build: ## Build the agent, the stand-in and the demo
	@$(CARGO) build --locked -p mtxfleet -p mtxfleet-tests --bins

.PHONY: demo
demo: setup build ## A fleet on this machine: a drain, then a day in three minutes
	@$(TARGET)/debug/mtxfleet-demo $(DEMO_ARGS)

.PHONY: lint
lint: ## Formatting, clippy, docs, licences and dependencies
	@$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --locked --workspace --no-deps --document-private-items --quiet
	tests/setup/cargo-deny.sh

.PHONY: wheel
wheel: ## Build the Python wheel, optimised, into target/wheel
	@tests/setup/install-missing.sh python3-venv
	tests/setup/wheel.sh "$(abspath $(TARGET))/wheel" --release

# The end-to-end tests start a whole fleet each, so test binaries run one after the other (as cargo does), and the
# tests of the lab one at a time (they wait for each other). What was skipped is collected and shown at the end.
.PHONY: test
test: setup ## Everything that must hold before a change is merged
	@export MTXFLEET_TEST_NOTES="$$(mktemp)"
	trap 'rm -f "$$MTXFLEET_TEST_NOTES"' EXIT
	$(MAKE) --no-print-directory lint
	$(MAKE) --no-print-directory build
	tests/setup/install-missing.sh python3-venv gstreamer1.0-tools:gst-launch-1.0 gstreamer1.0-plugins-good
	if wheel="$$(tests/setup/wheel.sh "$(abspath $(TARGET))/wheel-dev" --profile dev)"; then
		export MTXFLEET_WHEEL="$$wheel"
	elif [ $$? -ne 3 ]; then
		exit 1
	fi
	# Looked for once, and not by each test: downloading may take long to fail.
	if server="$$($(TARGET)/debug/mtxfleet-find-server)"; then
		export MEDIAMTX_BIN="$$server"
	elif [ $$? -eq 1 ]; then
		export MTXFLEET_NO_DOWNLOAD=1
	else
		exit 1
	fi
	# A merge is no place for a seed that nobody has tried: `make soak` is.
	export PROPTEST_RNG_SEED="$${PROPTEST_RNG_SEED:-1}"
	$(CARGO) test --locked --workspace --no-fail-fast
	echo
	echo "All checks passed. What ran, and what did not:"
	sort -u "$$MTXFLEET_TEST_NOTES" | sed 's/^/  /'

.PHONY: soak
soak: ## Property tests and simulations with fresh seeds and many cases (long)
	@CARGO=$(CARGO) tests/setup/soak.sh $(SOAK_ARGS)

.PHONY: bench
bench: ## Every figure with its peer, into target/bench.json (long)
	@tests/setup/install-missing.sh prometheus-node-exporter python3-venv
	$(CARGO) build --locked --release -p mtxfleet -p mtxfleet-tests -p mtxfleet-benches --bins
	if wheel="$$(tests/setup/wheel.sh "$(abspath $(TARGET))/wheel" --release)"; then
		export MTXFLEET_WHEEL="$$wheel"
	elif [ $$? -ne 3 ]; then
		exit 1
	fi
	tests/setup/bench.sh "$(TARGET)" $(BENCH_ARGS)
