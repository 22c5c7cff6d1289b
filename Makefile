# `make` lists the targets. All of them but `help` use ./.venv, which `make venv` builds.

.DEFAULT_GOAL := help
BIN := .venv/bin

# The first of these that is new enough and has venv and pip; `make venv PYTHON=/usr/local/bin/python3.12` to choose.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)

# For `make run`: the data directory, and options for `twistd imserver`.
DATA ?= var
ARGS ?=

# For `make bench`: the script that compares with a yardstick, and options for it.
YARDSTICK ?=
BENCH ?=

# A test that hangs ends the run, and shows where; so many seconds for one test.
PYTEST = $(BIN)/pytest -o faulthandler_exit_on_timeout=true -o faulthandler_timeout=

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

.PHONY: venv
venv: .venv/.installed  ## Build ./.venv with the server and all that its tests need

# The stamp is younger than what says which packages are needed, or they are installed again.
.venv/.installed: setup.cfg pyproject.toml
	@for python in $(PYTHONS); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        test -x $(BIN)/python || "$$python" -m venv .venv; \
	        break; \
	    fi; \
	done; \
	if ! test -x $(BIN)/python; then \
	    echo "imserver needs Python 3.11 or newer with its venv module; none of these is: $(PYTHONS)." >&2; \
	    echo "Install one (Debian: apt-get install python3-venv) or name it: make venv PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	fi
	@echo "Installing imserver and what it needs into .venv; the first time this takes a minute or two."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

.PHONY: run
run: venv  ## Run the server in the foreground, its data in ./var (DATA=), Ctrl-C ends it
	@exec $(BIN)/twistd --nodaemon --pidfile= imserver --data '$(DATA)' $(ARGS)

.PHONY: test
test: venv  ## Run the test suite; what needs services that are not installed is skipped
	@# Those with servers of their own mostly wait for these, so they run beside the others; their report comes last.
	@end_to_end=$$(mktemp); \
	$(PYTEST)120 -m 'not soak' tests/e2e >"$$end_to_end" 2>&1 & running=$$!; \
	$(PYTEST)120 -m 'not soak' --ignore=tests/e2e; status=$$?; \
	wait $$running || status=1; \
	cat "$$end_to_end"; rm -f "$$end_to_end"; exit $$status

.PHONY: soak
soak: venv  ## Run the long tests: kills, floods, fuzzing at full length
	IMSERVER_HYPOTHESIS=soak $(PYTEST)900 -m soak

.PHONY: lint
lint: venv  ## Check style, import rules, newsfragments, and that what the documents name exists
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/towncrier build --draft --version next >/dev/null
	$(PYTEST)120 -q tests/unit/test_repository.py

.PHONY: type
type: venv  ## Check types
	$(BIN)/mypy

.PHONY: bench
bench: venv  ## Compare with a yardstick: YARDSTICK=/path/to/compare.py [BENCH='--only peer8 …']
	@if ! test -f '$(YARDSTICK)'; then \
	    echo "make bench YARDSTICK=/path/to/compare.py: a script that takes --tcp PORT --ws PORT --pid PID --tokens FILE" >&2; \
	    echo "and measures the server there beside a yardstick of its own; it is not part of this repository." >&2; \
	    echo "Without one: make run, and in a second terminal $(BIN)/imctl bench" >&2; \
	    exit 1; \
	fi
	$(BIN)/python bench/with_server.py -- $(BIN)/python '$(YARDSTICK)' \
	    --tcp '{tcp}' --ws '{websocket}' --pid '{pid}' --tokens '{tokens}' $(BENCH)

.PHONY: release-check
release-check: venv  ## Install the wheel, a checkout and an editable install where nothing else is, and start each
	.ci/release-check "$$PWD/$(BIN)/python"
