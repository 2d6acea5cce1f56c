# make demo   set up and show the main job, without a key
# make test   set up and run every test
# make check  what CI runs before a merge: lint, format, types, import graph, sizes, tests
# make page   build the page of the server from its sources in page/ (needs Node)
# make screenshots  draw docs/assets/page-*.png from a real run on the page (needs Chromium)
# make record draw docs/assets/demo.svg from a real run of the demo
# make chaos  kill workers, readers and servers, and check every log and reader (ARGS="redis --kills 100 --seed 1")
# make soak   2,000 runs with random faults, cancels and readers in one process (ARGS="--runs 100 --seed 1")
# make bench  measure runstream beside its peers (each in an environment of its own)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check lint types install bench chaos soak page screenshots record clean

demo: install
	@$(BIN)/runstream demo $(ARGS)

test: install
	$(BIN)/python -m pytest -n 2 $(ARGS)

check: install lint types
	$(BIN)/python -m pytest -n 2 $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/sizes.py

types: install
	$(BIN)/basedpyright

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

chaos: install
	PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

soak: install
	PYTHONPATH=tests $(BIN)/python -W error::ResourceWarning -m soak $(ARGS)

page: install
	cd page && node build.mjs

screenshots: page
	$(BIN)/python tools/screenshots.py

record: install
	$(BIN)/python tools/record_demo.py

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml tests/clients/package-lock.json
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setting up $(VENV) ..."
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "runstream needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable '.[all]' --group dev
	@$(BIN)/python tests/redis_server.py
	@$(BIN)/python tests/nginx_server.py
	@$(BIN)/python tests/node_tools.py
	@$(BIN)/python tests/page_tools.py
	@$(BIN)/python tests/chromium.py
	@touch $@

clean:
	rm -rf $(VENV) .venvs .pytest_cache .ruff_cache dist build
