# `make demo` and `make test` set up everything they need (a virtual environment in .venv) and then run.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format clean

help:
	@echo 'make demo      render a corpus, prepare it, train, score and rank a small model (no data, no account)'
	@echo 'make test      the tests, a process for each folder of them'
	@echo 'make test-all  the slow tests too'
	@echo 'make lint      ruff, ruff format --check, mypy --strict on src'
	@echo 'make format    let ruff rewrite what it can'
	@echo 'make clean     remove the virtual environment and caches'

# Again whenever what is to be installed has changed.
$(READY): pyproject.toml constraints.txt
	@test -n '$(PYTHON)' || { echo 'lipbench needs Python 3.11, 3.12 or 3.13; found: '"$$(python3 --version 2>&1)" \
	  '. Install one, or name it: make PYTHON=/path/to/python3.12 ...' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-compile -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/lipbench demo

test: $(READY)
	$(BIN)/python tests/parallel.py

test-all: $(READY)
	$(BIN)/python tests/parallel.py -m ''

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist src/*.egg-info
