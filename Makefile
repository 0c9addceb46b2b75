# Needs Python 3.11 or newer, git and make; everything else goes into .venv.
# `make demo ARGS=--once` passes arguments on; PYTHON=/path/to/python chooses the interpreter.

.DEFAULT_GOAL := test
.PHONY: test lint types unit soak bench coverage demo lock clean

PYTHON ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

test: lint types unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

unit: $(STAMP)
	$(PYTEST) $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m pytest -m soak --timeout 3600 $(ARGS)

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ARGS)

coverage: $(STAMP)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadgroup $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

demo: $(STAMP)
	$(BIN)/python examples/demo $(ARGS)

# Newest versions for every Python and platform we support, in a file that names no place to get them from.
lock: $(STAMP)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade --target $(VENV)/lock uv
	$(VENV)/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
		--all-extras --group dev --annotation-style line --custom-compile-command "make lock" \
		--output-file requirements-dev.txt pyproject.toml
	$(MAKE) --no-print-directory $(STAMP)

clean:
	rm -rf $(VENV) dist build htmlcov .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's python3 comes without venv; virtualenv does as well.
$(STAMP): requirements-dev.txt pyproject.toml
	@set -eu; \
	recent='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$recent" 2>/dev/null || ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
		python=; \
		for candidate in $(or $(PYTHON),python3 python3.14 python3.13 python3.12 python3.11); do \
			if "$$candidate" -c "$$recent" 2>/dev/null; then \
				python=$$("$$candidate" -c 'import sys; print(sys.executable)'); break; \
			fi; \
		done; \
		if [ -z "$$python" ]; then \
			echo 'usagekit needs Python 3.11 or newer: install it, or name it with make PYTHON=...' >&2; exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$python" --version)"; \
		rm -rf $(VENV); \
		if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null || ! "$$python" -m venv $(VENV); then \
			rm -rf $(VENV); \
			if "$$python" -m virtualenv --version >/dev/null 2>&1; then "$$python" -m virtualenv --quiet $(VENV); \
			elif command -v virtualenv >/dev/null; then virtualenv --quiet --python "$$python" $(VENV); \
			else echo 'This Python has no venv module. On Debian or Ubuntu: apt-get install python3-venv' >&2; exit 1; \
			fi; \
		fi; \
	fi
	@echo 'Installing what requirements-dev.txt names into $(VENV)'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-dev.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@
