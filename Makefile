# `make tune` and `make test` are all the set-up there is: both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: tune test slow check fix browser postgresql record

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

tune: $(READY)  ## tune this machine's device for a few lengths, print and write the report
	$(BIN)/autotune tune --effort quick --budget 6m
	$(BIN)/autotune report --output report.md

test: $(READY)  ## everything that is quick
	$(BIN)/pytest -m "not slow"

slow: $(READY) browser postgresql  ## what `make test` leaves out
	$(BIN)/pytest -m slow

check: $(READY)  ## style, types, doctests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p autotune
	$(BIN)/pytest --doctest-modules --ignore-glob='*/migrations/*' autotune

browser:  ## the Chromium in which tests open the HTML report; where there is none they are skipped, and say so
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	( [ "$$(id -u)" = 0 ] && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium ) || \
	echo "No Chromium, and it could not be installed here; as root: apt-get install -y chromium"

postgresql:  ## the server that tests share a database on; where there is none they are skipped, and say so
	@command -v initdb || ls /usr/lib/postgresql/*/bin/initdb 2>/dev/null || \
	( [ "$$(id -u)" = 0 ] && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql ) || \
	echo "No PostgreSQL, and it could not be installed here; as root: apt-get install -y postgresql"

record: $(READY)  ## measure again what the tests of the search replay: ten minutes on a quiet CPU
	$(BIN)/python tests/autotune/make_record.py build/record.db
	$(BIN)/autotune replay tests/data/search_record.json

fix: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
