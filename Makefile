# Needs Python 3.11 or newer, git and make; everything else goes into .venv.
# `make demo ARGS=--once` passes arguments on; PYTHON=/path/to/python chooses the interpreter.

.DEFAULT_GOAL := test
.PHONY: test test-sdks test-newest-sdks test-litellm test-clickhouse matrix lint types unit programs soak bench coverage demo examples screenshots lock clean

PYTHON ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
EXAMPLES := $(filter-out demo,$(patsubst examples/%/__main__.py,%,$(wildcard examples/*/__main__.py)))
WORKER := integrations/cloudflare-worker
WORKERD := $(WORKER)/node_modules/.stamp
SDKS := .venv-sdks
LITELLM := .venv-litellm
PEERS := .venv-bench
UV := .venv-uv/bin/uv
PIP := -m pip --disable-pip-version-check
# Three on two cores: a third of the time tests wait for disks, clocks and other processes.
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadgroup

# Without compiled files each process that a test starts compiles usagekit again.
unexport PYTHONDONTWRITEBYTECODE

# mypy keeps one core busy, and the tests leave some of theirs.
test: lint
	@$(MAKE) --no-print-directory -j 2 types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP) $(WORKERD) programs
	$(PYTEST) $(ARGS)

# Programs that tests need and no registry of Python packages has, by their names in Debian. Where one cannot be
# installed, the tests that need it skip themselves and say what to do.
programs: $(STAMP)
	@set -eu; missing=; \
	$(BIN)/python -m tests.browser.chromium || missing="$$missing chromium"; \
	command -v prometheus >/dev/null || missing="$$missing prometheus"; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		{ apt-get -qq update && apt-get -qq install --yes --no-install-recommends $$missing >/dev/null; } \
			|| echo "apt-get could not install$$missing; going on without" >&2; \
	fi

# Every SDK of docs/sdks.md. LiteLLM holds openai back, so both majors of it are tested; it brings aiohttp, so google-genai
# is tested with it and without.
test-sdks: $(SDKS)/.stamp $(LITELLM)/.stamp
	@$(MAKE) --no-print-directory -j 2 test-newest-sdks test-litellm

test-newest-sdks: $(SDKS)/.stamp
	USAGEKIT_SDKS='anthropic boto3 cohere google-genai groq langchain-anthropic langchain-openai mistralai ollama \
		openai opentelemetry-instrumentation-anthropic opentelemetry-instrumentation-genai-anthropic \
		opentelemetry-instrumentation-genai-openai opentelemetry-instrumentation-openai pydantic-ai-slim' \
		$(SDKS)/bin/python -m pytest tests/sdks $(ARGS)

test-litellm: $(LITELLM)/.stamp
	USAGEKIT_SDKS='google-genai litellm openai' $(LITELLM)/bin/python -m pytest tests/sdks $(ARGS)

# What is written down of ClickHouse's answers, beside embedded ClickHouse: 180 MB, so only here.
test-clickhouse: $(STAMP)
	$(BIN)/python $(PIP) install -qq --no-deps chdb-core
	$(BIN)/python -m pytest tests/backends/analytics_engine/test_corpus.py $(ARGS)

# The tables of docs/frameworks.md and docs/sdks.md, as the tests claim their cells.
matrix: $(STAMP)
	$(BIN)/python -m pytest --collect-only --quiet --write-matrix >/dev/null

soak: $(STAMP) $(WORKERD)
	$(BIN)/python -m pytest -m soak -rP --timeout 1800 $(ARGS)

# Compared with libraries that patch others when they are imported, so not in $(VENV).
bench: $(PEERS)/.stamp $(WORKERD)
	$(PEERS)/bin/python -m benchmarks $(ARGS)

coverage: $(STAMP) $(WORKERD)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 3 --dist loadgroup $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

demo: $(STAMP)
	$(BIN)/python examples/demo $(ARGS)

# Each for a moment, with a line of figures.
examples: $(STAMP)
	@for name in $(EXAMPLES); do $(BIN)/python -m examples.$$name --once || exit 1; done

# docs/images, in the machine's own Chromium.
screenshots: $(STAMP) programs
	$(BIN)/python -m tests.browser.screenshots

# Newest versions for every Python and platform we support, in files that name no place to get them from; docs/sdks.md
# says which.
lock: $(STAMP)
	$(BIN)/python $(PIP) install -qq --upgrade --target $(UV:/bin/uv=) uv
	$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 \
		--all-extras --group dev --annotation-style line --custom-compile-command "make lock" \
		--output-file requirements-dev.txt pyproject.toml
	for group in sdks litellm bench; do \
		$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 \
			--extra prices --group $$group --annotation-style line --custom-compile-command "make lock" \
			--output-file requirements-$$group.txt pyproject.toml; \
	done
	$(MAKE) --no-print-directory matrix

clean:
	rm -rf $(WORKER)/node_modules $(VENV) $(SDKS) $(LITELLM) $(PEERS) $(UV:/bin/uv=) dist build src/*.egg-info src/usagekit/*.so htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Cloudflare's runtime, by the npm of the virtual environment. Where there is no npm registry, its tests skip themselves.
$(WORKERD): $(WORKER)/package.json | $(STAMP)
	@echo 'Installing workerd, which runs the ingest Worker, into $(@D)'
	@if PATH="$(CURDIR)/$(BIN):$$PATH" npm install --prefix $(WORKER) --ignore-scripts --no-audit --no-fund --loglevel=error \
		>/dev/null; then touch $@; else echo 'npm could not install it: the tests that need it will not run' >&2; fi

# Debian's python3 comes without venv; virtualenv does as well. uv takes seconds where pip takes minutes; where its own way
# to an index is barred, pip's may be open.
BUILD := pyproject.toml setup.py src/usagekit/_speedups.c
$(STAMP): requirements-dev.txt $(BUILD)
$(SDKS)/.stamp: requirements-sdks.txt $(BUILD)
$(LITELLM)/.stamp: requirements-litellm.txt $(BUILD)
$(PEERS)/.stamp: requirements-bench.txt $(BUILD)
$(STAMP) $(SDKS)/.stamp $(LITELLM)/.stamp $(PEERS)/.stamp:
	@set -eu; \
	recent='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(@D)/bin/python -c "$$recent" 2>/dev/null || ! $(@D)/bin/python -c 'import pip' 2>/dev/null; then \
		python=; \
		for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
			if "$$candidate" -c "$$recent" 2>/dev/null; then \
				python=$$("$$candidate" -c 'import sys; print(sys.executable)'); break; \
			fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo 'usagekit needs Python 3.11 or newer: install it, or name it with make PYTHON=...' >&2; exit 1; \
		fi; \
		echo "Making $(@D) with $$("$$python" --version)"; \
		rm -rf $(@D); \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null || ! "$$python" -m venv $(@D); then \
			rm -rf $(@D); \
			if "$$python" -m virtualenv --version >/dev/null 2>&1; then "$$python" -m virtualenv --quiet $(@D); \
			elif command -v virtualenv >/dev/null; then virtualenv --quiet --python "$$python" $(@D); \
			else echo 'This Python has no venv module. On Debian or Ubuntu: apt-get install python3-venv' >&2; exit 1; \
			fi; \
		fi; \
	fi
	@echo 'Installing what $< names into $(@D)'
	@test -x $(UV) || $(@D)/bin/python $(PIP) install -qq --target $(UV:/bin/uv=) uv \
		|| echo 'uv could not be installed; going on with pip, which takes longer' >&2
	@set -eu; \
	install() { \
		{ test -x $(UV) && $(UV) pip install --quiet --python $(@D)/bin/python "$$@"; } \
			|| $(@D)/bin/python $(PIP) install -qq --no-compile "$$@"; \
	}; \
	install -r $<; \
	rm -f src/usagekit/*.so; \
	install --no-build-isolation --no-deps --editable .
	@touch $@
