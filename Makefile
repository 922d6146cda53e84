# Every target does its own set-up: a virtual environment in .venv, from the lock, with uv where it is installed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_STAMP := $(VENV)/.runtime
# one more than the two cores that CI has: many a test waits, for a process or a lease
PYTEST_WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo serve graphiql test test-busy coverage lint histories faults bench lock docs clean

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 11

demo: $(RUN_STAMP) ## run the flights pipeline on real data and show its answer
	@$(BIN)/flexiroaster demo

serve: $(STAMP) ## serve the API and the flights pipeline, with GraphiQL at http://127.0.0.1:8000/graphql
	@$(BIN)/python -m graphql_api.graphiql || true
	@DEBUG=true LOG_FORMAT=text $(BIN)/flexiroaster serve --demo $(SERVE_ARGS)

graphiql: $(STAMP) ## fetch GraphiQL's files into the cache folder; needs npm
	@$(BIN)/python -m graphql_api.graphiql

# Each test process has a core to itself at best: more threads of OpenMP only wait for each other there. And the many
# processes that tests start need not compile our modules each time, where the environment says to write no byte code.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --dist worksteal

test: $(STAMP) ## the tests, on SQLite and PostgreSQL, with a few trials of each fault
	$(TEST) -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

test-busy: $(STAMP) ## the tests beside six busy loops, three times, with the time of each run
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m tests.busy -- \
	  $(BIN)/pytest --dist worksteal -n $(PYTEST_WORKERS) -q $(PYTEST_ARGS)

coverage: $(STAMP) ## the tests again, with what they cover, branches included
	$(TEST) -n $(PYTEST_WORKERS) --ignore=tests/faults --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: $(STAMP) ## style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

histories: $(STAMP) ## what the safety engine must show on the whole of ../shared/data; takes some minutes
	SAFETY_HISTORIES=whole OMP_NUM_THREADS=1 $(BIN)/pytest tests/acceptance/test_safety_histories.py $(PYTEST_ARGS)

faults: $(STAMP) ## the fault suite with all its trials, and the figures into docs/promises.md; takes half an hour
	$(BIN)/python -m tests.faults $(PYTEST_ARGS)

bench: $(STAMP) ## measure, and write docs/performance.md
	$(BIN)/python -m tests.bench

lock: $(STAMP) ## compile requirements/*.txt anew
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --universal --no-emit-index-url --no-annotate --no-header --upgrade \
	  --extra demo pyproject.toml -o requirements/demo.txt
	$(BIN)/uv pip compile -q --universal --no-emit-index-url --no-annotate --no-header --upgrade \
	  --extra test pyproject.toml -o requirements/test.txt

docs: $(STAMP) ## write the generated parts of docs anew: operators, GraphQL schema and permissions
	$(BIN)/python -m flexiroaster.operators.document > docs/operators.md.new
	mv docs/operators.md.new docs/operators.md
	$(BIN)/python -m graphql_api.sdl print > graphql_api/schema.graphql.new && mv graphql_api/schema.graphql.new graphql_api/schema.graphql
	$(BIN)/python -m graphql_api.sdl permissions > docs/graphql-permissions.md.new && mv docs/graphql-permissions.md.new docs/graphql-permissions.md

clean: ## remove what was made
	rm -rf $(VENV) .flexiroaster .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks \
	  .coverage .coverage.* htmlcov dist build
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- set-up -------------------------------------------------------------------------------------------------------

define install
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; say which with: make PYTHON=/path/to/python3"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@if command -v uv >/dev/null; then \
	  VIRTUAL_ENV=$(VENV) uv pip install -q --compile-bytecode -r $(1) && \
	  VIRTUAL_ENV=$(VENV) uv pip install -q --no-deps -e .; \
	else \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -r $(1) && \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -e .; \
	fi
endef

$(STAMP): pyproject.toml requirements/test.txt
	$(call install,requirements/test.txt)
	@touch $(STAMP) $(RUN_STAMP)

$(RUN_STAMP): pyproject.toml requirements/demo.txt
	$(call install,requirements/demo.txt)
	@touch $(RUN_STAMP)
