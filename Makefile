# Two commands do all on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
MODEL ?= own
MINUTES ?= 6
BIN := .venv/bin

.PHONY: quickstart test check bench clean

quickstart: .venv/.ready
	$(BIN)/luban quickstart --model $(MODEL) --minutes $(MINUTES)

test: .venv/.ready-dev
	./check --all

check: .venv/.ready-dev
	./check

bench: .venv/.ready-dev
	$(BIN)/python benchmarks/first.py

clean:
	rm -rf .venv runs dist build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/.ready: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[data,hub]'
	touch $@

.venv/.ready-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@
