# Everything a new machine needs is Python 3.11 or later: each target makes .venv and installs from the hashed locks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run usable test test-quick check bench chaos lock clean
.DELETE_ON_ERROR:

run: usable $(VENV)/.runtime  ## embedded Postgres and Redis, a first account and key, and the gateway
	@exec $(BIN)/metergate up

usable:  # an environment that another user made may stand on a Python that this one may not run
	@[ ! -h $(BIN)/python ] || $(BIN)/python -c '' 2>/dev/null || { echo "This user can't run $(CURDIR)/$(BIN)/python:" \
	  "the one in $$(sed -n 's/^home = //p' $(VENV)/pyvenv.cfg) that it leads to is gone, or closed to this user." \
	  "Remove $(CURDIR)/$(VENV), or copy the checkout without it, and run make again;" \
	  "PYTHON=/usr/bin/python3 make run names a Python that everybody may run." >&2; exit 1; }

test: $(VENV)/.dev  ## every test, on real Postgres and Redis
	@$(BIN)/python -m pytest $(ARGS)

test-quick: $(VENV)/.dev  ## what is not marked slow, for every day
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

check: $(VENV)/.dev  ## style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.dev  ## every figure beside a bare aiohttp pass-through (ARGS=--quick, --full, growth, profile)
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/.dev  ## every fault, thirty times each, under load: nothing lost, doubled, overspent or leaked
	@$(BIN)/python -m tests.chaos $(ARGS)

lock: $(VENV)/.dev  ## resolve the locks anew (needs uv)
	@for extra in "runtime.lock --extra build" "dev.lock --extra build --extra dev"; do set -- $$extra; file=$$1; shift; \
	  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	    --no-header $$@ pyproject.toml -o requirements/$$file || exit 1; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Metergate needs Python 3.11 or later; PYTHON=python3.12 make run names another one." >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/runtime.lock pyproject.toml | $(BIN)/python
	@echo "Installing what Metergate needs (once, about a minute) ..."
	@$(PIP) install -q --progress-bar on --require-hashes -r requirements/runtime.lock
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.runtime
	@echo "Installing what the tests and checks need (once) ..."
	@$(PIP) install -q --progress-bar on --require-hashes -r requirements/dev.lock
	@touch $@

clean:  ## the virtual environment and caches; your data folder stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
