PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help install train test test-slow test-all check bench format clean

help: ## what there is to make
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(VENV)/installed ## make .venv with the pinned dependencies and this package

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "iwin needs Python 3.11 to 3.13; choose one with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

train: install ## train iwin_micro on the digits that come with the package
	$(BIN)/python train.py

test: install ## the default tests, on all cores, under 6 minutes on 2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test-slow: install ## the long ones, which train with several processes, one after the other
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'slow and not gpu'

test-all: test test-slow ## all tests that need no GPU

check: install ## lint, format, types, Dockerfiles
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint docker/Dockerfile docker/Dockerfile.cpu

bench: install ## images a second of the data pipeline, beside others
	$(BIN)/iwin bench data

format: install ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build outputs; runs, data and .venv stay
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
