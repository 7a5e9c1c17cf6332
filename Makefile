.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 4
# Some machines forbid it, and each of the thousands of processes of a test run would compile all that it imports.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-kernel check check-newer lint bench clean compiled

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed ## Bring a lab up, send real traffic through the proxy, show the flows, take it down
	$(BIN)/python examples/demo.py

compiled: $(VENV)/.installed ## Write bytecode, for users of labs who may not write here
	@$(BIN)/python -m compileall -q -j 0 proxy oxyctl

test: compiled ## Run every test, in parallel
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-kernel: compiled ## Test tunnels and queues of a real kernel: of this one, or of one in a machine of its own
	OXYCTL_TEST_KERNEL=1 $(BIN)/python -m tools.kernelvm --timeout 1500 auto -- \
	  $(BIN)/python -m pytest tests/kernel -m kernel -p no:cacheprovider --timeout 600 --durations 10

check: $(VENV)/.installed lint ## Format, lint, types and the unit tests: before each commit
	$(BIN)/python -m pytest -q -n $(WORKERS) -m 'not netns and not slow'

check-newer: $(VENV)/.installed ## The unit tests on every newer Python that this machine has, each in .venvs/
	$(BIN)/python -m tools.newer -n $(WORKERS) -m 'not netns and not slow'

lint: $(VENV)/.installed ## Format, lint and types only
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.installed ## Measure, beside the references: prints tables, writes JSON to bench/results/
	$(BIN)/python -m bench

clean: ## Remove the virtual environment and everything that was generated
	rm -rf $(VENV) .venvs build dist *.egg-info bench/results bench/peers .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
