# Everything starts here: `make help`. Needs python3 (3.11 to 3.14) with its venv module, and nothing else.
#
# Packages come from the lock files, each checked against its hash, into .venv. A stamp file in .venv says which lock
# was installed; it is done again when the lock or pyproject.toml changes.

PYTHON ?= python3
BIN := .venv/bin
export CONFIG PORT DURATION

LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links
PROTOC := $(BIN)/python -m grpc_tools.protoc -Iprotos

.PHONY: help run test check bench fuzz fuzz-api soak ops-run reconcile eval-cache simulate eval-routing schema protos diagram lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## /\1\t/p' Makefile | expand -t 16

run: .venv/run.stamp  ## serve; CONFIG=gateway.yaml and PORT=8080 are optional
	@exec $(BIN)/gateway up --with-parent $${CONFIG:+--config "$$CONFIG"} $${PORT:+--port "$$PORT"}

# Byte code is kept, whatever the environment says: without, each of pytest's processes takes five seconds more to read
# the tests, and each of the gateways' a tenth of one more to start.
test: .venv/dev.stamp  ## run the tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest

check: .venv/dev.stamp  ## formatting, lint, types; generated files and locks up to date
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@mkdir -p .venv/check && cp requirements.lock requirements-dev.lock .venv/check
	$(PROTOC) --python_out=.venv/check --pyi_out=.venv/check protos/*.proto
	@for file in protos/gen/*_pb2.py protos/gen/*_pb2.pyi; do \
		cmp "$$file" ".venv/check/$${file##*/}" || { echo "run: make protos" >&2; exit 1; }; done
	@$(BIN)/python -m docs.diagram --check || { echo "run: make diagram" >&2; exit 1; }
	@$(BIN)/python -m helm.schema --check || { echo "run: make schema" >&2; exit 1; }
	$(call lock,.venv/check)
	@for file in requirements.lock requirements-dev.lock; do \
		cmp "$$file" ".venv/check/$$file" || { echo "run: make lock" >&2; exit 1; }; done

bench: .venv/dev.stamp  ## measure what the gateway adds; prints a table, writes bench/results
	$(BIN)/python -m bench
	$(BIN)/python -m bench.lag

eval-cache: .venv/dev.stamp  ## what the semantic cache hits, and hits wrongly; writes bench/results/cache.*
	$(BIN)/python -m bench.cache

simulate: .venv/dev.stamp  ## over-reservation and false refusals on the Azure LLM traces of 2023; DATA=folder
	$(BIN)/python -m bench.reservation $(DATA)

fuzz: .venv/dev.stamp  ## play any bytes to the transport, for DURATION=600 seconds
	$(BIN)/python -m tests.transport.fuzz $${DURATION:-600}

fuzz-api: .venv/dev.stamp  ## send any requests to the API through Envoy, for DURATION=600 seconds
	$(BIN)/python -m tests.envoy.fuzz_api $${DURATION:-600}

soak: .venv/dev.stamp  ## the gateway under mixed load for DURATION=86400 seconds: no error, no growth
	$(BIN)/python -m bench.soak --seconds $${DURATION:-86400}

reconcile: .venv/dev.stamp  ## REQUESTS=50000 mixed requests: rows, metrics, ledger, providers and traces must agree
	REQUESTS=$${REQUESTS:-50000} $(BIN)/pytest -n 0 --timeout 3600 tests/envoy/test_reconciliation.py

ops-run: .venv/dev.stamp  ## reloads, rolling restarts, a key rotation under load for DURATION=600 seconds: nothing lost
	$(BIN)/python -m bench.ops_run --seconds $${DURATION:-600}

eval-routing: .venv/dev.stamp  ## measure the classifier of `auto` on the routing data; DATA=folder
	$(BIN)/python -m bench.eval_routing $(DATA)

schema: .venv/dev.stamp  ## make helm/values.schema.json of the types of gateway.yaml
	$(BIN)/python -m helm.schema

protos: .venv/dev.stamp  ## generate protos/gen
	$(PROTOC) --python_out=protos/gen --pyi_out=protos/gen protos/*.proto

diagram: .venv/dev.stamp  ## draw the states of an exchange into ARCHITECTURE.md
	$(BIN)/python -m docs.diagram

lock: .venv/dev.stamp  ## resolve pyproject.toml into the lock files; versions already locked are kept
	$(call lock,.)

# Run-time packages and what links our own (hatchling, which needs editables for it); then, agreeing with that, the
# development group too.
define lock
	@echo "locking into $(1)"
	@{ sed -nE 's/^requires = \["(.*)"\]/\1/p' pyproject.toml; echo editables; } \
		| $(LOCK) pyproject.toml - --output-file $(1)/requirements.lock >/dev/null
	@echo editables | $(LOCK) pyproject.toml - --group dev --constraint $(1)/requirements.lock \
		--output-file $(1)/requirements-dev.lock >/dev/null
endef

clean:  ## remove what make made, but not .gateway, the gateway's data
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/run.stamp: requirements.lock pyproject.toml | .venv/bin/pip
	$(call install,requirements.lock)
	@touch $@

.venv/dev.stamp: requirements-dev.lock pyproject.toml | .venv/bin/pip
	$(call install,requirements-dev.lock)
	@touch .venv/run.stamp $@

# --no-deps: the lock is the whole list. Our own package is linked, not copied.
define install
	@echo "installing $(1)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(1)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endef

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 15) or sys.exit("Python 3.11 to 3.14 is needed; \
	this is %s. Try: make PYTHON=python3.12 ..." % sys.version.split()[0])'
	@$(PYTHON) -m venv .venv
