# The two commands for newcomers: `make demo` and `make test`. Each creates .venv when it is missing.
# Overridable: PYTHON (the interpreter that makes .venv), VENV (where), PYTEST_ARGS.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Progress bars are unreadable in logs; pip's own lines stay, so that one sees what is slow.
INSTALL := $(PIP) install --progress-bar off --constraint constraints.txt
RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
# What benchmarks compare with has an environment of its own: its dependencies are not ours.
BENCH := $(VENV)/bench
BENCH_STAMP := $(BENCH)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help bench demo test test-slow lint types format reference docs-check wheel env clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(RUN_STAMP) ## Build the bundled example in fp32, fp16 and int8
	$(BIN)/orchestrate -m precision=fp32,fp16,int8

test: $(DEV_STAMP) ## Run the tests but the slow ones
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(DEV_STAMP) ## Run the slow tests
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(DEV_STAMP) ## Check style, docstrings, security rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV_STAMP) ## Check the annotations (mypy strict)
	$(BIN)/mypy

format: $(DEV_STAMP) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

reference: $(DEV_STAMP) ## Write docs/reference and docs/schema again from the schema
	$(BIN)/python -m orchestrator.config.reference docs/reference/config.md
	$(BIN)/orchestrate schema --to docs/schema

bench: $(BENCH_STAMP) ## Measure what builds cost, beside doit, snakemake and Hydra (half an hour)
	$(BIN)/python -m benchmarks.unchanged
	$(BIN)/python -m benchmarks.unchanged_sweep --tools $(BENCH)/bin/python
	$(BIN)/python -m benchmarks.unchanged_sweep --tools $(BENCH)/bin/python --variants 1000 --rounds 3 --without snakemake "empty Hydra multirun"
	$(BIN)/python -m benchmarks.unchanged_sweep --tools $(BENCH)/bin/python --checkpoint-gb 2 --without snakemake "empty Hydra multirun"
	$(BIN)/python -m benchmarks.cold
	$(BIN)/python -m benchmarks.overhead

docs-check: $(DEV_STAMP) ## Check that links between the documents lead somewhere
	$(BIN)/python .ci/check_links.py

wheel: $(DEV_STAMP) ## Build the wheel into dist/
	rm -rf dist build
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

env: $(DEV_STAMP) ## Create .venv with everything that developing needs

clean: ## Remove .venv, build outputs and tool caches (outputs/ and the store stay)
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: '$(PYTHON)' is not on the PATH. Install Python 3.11 or newer, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: Python 3.11 or newer is needed, '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
	    "Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@echo "==> Creating $(VENV) with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "error: $(PYTHON) cannot make virtual environments. On Debian: apt install python3-venv" >&2; exit 1; }

# torch comes first and by itself: pip then takes exactly the build that constraints.txt names, and the
# packages that need "some torch" find it there. See CONTRIBUTING.md about CPU and CUDA builds.
$(RUN_STAMP): constraints.txt pyproject.toml | $(BIN)/python
	@echo "==> Installing PyTorch (about 200 MB for the CPU build; one to three minutes)"
	$(INSTALL) torch
	@echo "==> Installing orchestrate and what it needs to run (about 150 MB; one to two minutes)"
	$(INSTALL) hatchling editables setuptools
	$(INSTALL) --no-build-isolation --editable '.[cpu]'
	@touch $@

$(BENCH_STAMP): $(RUN_STAMP)
	$(BIN)/python -m venv $(BENCH)
	$(BENCH)/bin/python -m pip --disable-pip-version-check install --progress-bar off doit==0.37.0 snakemake==9.27.1
	@touch $@

$(DEV_STAMP): $(RUN_STAMP)
	@echo "==> Installing the development tools and the test models (about 250 MB; one to two minutes)"
	$(INSTALL) --no-build-isolation --editable '.[cpu,dev]'
	@touch $@
