# Two commands do all on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
MODEL ?= own
MINUTES ?= 6
BIN := .venv/bin

.PHONY: quickstart scaling test check bench clean

quickstart: .venv/.ready
	$(BIN)/luban quickstart --model $(MODEL) --minutes $(MINUTES)

GRID := runs/scaling
scaling: runs/quickstart/documents/run.json
	$(BIN)/luban tokenizer train --data runs/quickstart/documents --vocab 1024 --out $(GRID)/tokenizer
	$(BIN)/luban data shards --data runs/quickstart/documents --tokenizer $(GRID)/tokenizer --out $(GRID)/shards
	$(BIN)/luban data shards --data runs/quickstart/documents --tokenizer $(GRID)/tokenizer --holdout true --out $(GRID)/held-out
	$(BIN)/luban scaling --data $(GRID)/shards --tokenizer $(GRID)/tokenizer --validation $(GRID)/held-out --out $(GRID)/grid

runs/quickstart/documents/run.json:
	$(MAKE) quickstart

test: .venv/.ready-dev
	./check --all

check: .venv/.ready-dev
	./check

bench: .venv/.ready-dev
	$(BIN)/python benchmarks/pretrain.py
	$(BIN)/python benchmarks/decode.py

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
	@$(HAS_BROWSER) || $(GET_BROWSER) || echo "no Chromium here: pages will not be tested in a browser" >&2
	touch $@

# Pages are tested in a real browser: the one that is here, or Debian's where this user may install packages.
HAS_BROWSER = command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null
GET_BROWSER = { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && echo "installing Chromium for the tests" \
  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; }
