# `make demo` and `make test` work as the first command of a fresh clone: each sets up what it needs in .venv.
# A PYTHON named on the command line that is not the one of .venv has an environment of its own beside it.
PYTHON ?= python3
VENV := .venv
ifneq ($(origin PYTHON),file)
  VERSION := import sys; print("%d.%d" % sys.version_info[:2])
  WANTED := $(shell $(PYTHON) -c '$(VERSION)' 2>/dev/null)
  ifneq ($(WANTED),$(or $(shell .venv/bin/python -c '$(VERSION)' 2>/dev/null),$(WANTED)))
    VENV := .venv-$(WANTED)
  endif
endif
BIN := $(VENV)/bin
PEERS := .venv-peers
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST ?= -n 3 --dist worksteal -m "not soak and not inspector and not conformance and not clients and not peers"

.DEFAULT_GOAL := help
.PHONY: help demo test check format lock chaos soak property bench inspector conformance clients peers mcpb docs picture clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made requirements.lock pyproject.toml
	@test -e $(VENV)/.dev || { echo "Setting up $(VENV) (once; about a minute) ..."; $(PIP) install --require-hashes -r requirements.lock; }
	@touch $@

$(VENV)/.dev: $(VENV)/.made requirements-dev.lock pyproject.toml
	@echo "Setting up $(VENV) with the development tools (once; a minute or two) ..."
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/.run ## see it work, without any key or network
	@$(BIN)/python -m server demo

test: $(VENV)/.dev ## every test but the long ones (PYTHON=python3.13: on that one)
	@$(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/.dev ## lint, formatting, types, import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## put every file in the one format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(VENV)/.dev ## resolve the dependencies anew
	@for file in requirements requirements-dev; do \
	  dev=$$([ $$file = requirements-dev ] && echo "--group dev --extra fast"); \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" $$dev --output-file $$file.lock pyproject.toml || exit 1; done
	@for group in v1 v2; do \
	  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" --output-file tests/clients/$$group.lock tests/clients/$$group.in || exit 1; done
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file tests/peers/requirements.lock tests/peers/requirements.in

chaos: $(VENV)/.dev ## hundreds of kill -9, with figures
	@$(BIN)/python -m tests.chaos

soak: $(VENV)/.dev ## the long tests
	@$(BIN)/python -m pytest -m soak --timeout 1800

property: $(VENV)/.dev ## the property tests, with TIMES (10) times their examples
	@TIMES=$(or $(TIMES),10) $(BIN)/python -m pytest -m "not soak" --timeout 3600 tests/property

bench: $(VENV)/.dev ## speed, as ratios to floors in the same run
	@$(BIN)/python -m benchmarks

inspector: $(VENV)/.dev ## every tool through the MCP Inspector (needs Node 20 or newer)
	@$(BIN)/python -m pytest -m inspector

conformance: $(VENV)/.dev ## the official MCP conformance suite (needs npm)
	@$(BIN)/python -m tests.conformance

clients: $(VENV)/.dev ## clients nobody here wrote, from PyPI and (with Node 20 or newer) npm, over every transport
	@$(BIN)/python -m pytest -m clients

peers: $(VENV)/.dev $(PEERS)/.made ## LiteLLM's proxy as an endpoint, and answers as the SDKs read them
	@$(BIN)/python -m pytest -m peers --timeout 300 tests/peers

$(PEERS)/.made: $(VENV)/.dev tests/peers/requirements.lock
	@echo "Setting up $(PEERS) with LiteLLM and the SDKs (once; a minute or two) ..."
	@$(PYTHON) -m venv --without-pip $(PEERS)
	@$(BIN)/uv pip install --quiet --python $(PEERS)/bin/python --require-hashes -r tests/peers/requirements.lock
	@touch $@

mcpb: $(VENV)/.dev ## the one-click bundle for Claude Desktop
	@$(BIN)/python packaging/build_mcpb.py

docs: $(VENV)/.dev ## write the generated pages anew
	@$(BIN)/python -m server.commands.docs

picture: $(VENV)/.dev ## draw docs/demo.svg from a run of the demo
	@$(BIN)/python packaging/draw_demo.py

clean: ## remove everything made here
	rm -rf .venv .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
