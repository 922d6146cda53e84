# Every target sets itself up: a virtual environment in .venv from the locked requirements, with uv if it is installed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN_STAMP := $(VENV)/.runtime
# one more than the two cores of CI, because many tests wait for a process or a lease
PYTEST_WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo serve graphiql test test-busy coverage lint histories faults bench lock docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 11

demo: $(RUN_STAMP) ## run the flights pipeline on real data and print the result
	@$(BIN)/flexiroaster demo

serve: $(STAMP) ## serve the APIs with the flights pipeline, and GraphiQL at http://127.0.0.1:8000/graphql
	@$(BIN)/python -m graphql_api.graphiql || true
	@DEBUG=true LOG_FORMAT=text $(BIN)/flexiroaster serve --demo $(SERVE_ARGS)

graphiql: $(STAMP) ## download GraphiQL's files into the cache folder; needs npm
	@$(BIN)/python -m graphql_api.graphiql

# A test process has at most one core, so more OpenMP threads would only wait for each other. Tests start many processes;
# with bytecode allowed, these do not compile our modules each time, even if the environment forbids writing it.
TEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest --dist worksteal

test: $(STAMP) ## run the tests on SQLite and PostgreSQL, with a few trials of each fault
	$(TEST) -n $(PYTEST_WORKERS) $(PYTEST_ARGS)

test-busy: $(STAMP) ## run the tests next to six busy loops, three times, and report the time of each run
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m tests.busy -- \
	  $(BIN)/pytest --dist worksteal -n $(PYTEST_WORKERS) -q $(PYTEST_ARGS)

coverage: $(STAMP) ## run the tests with branch coverage
	$(TEST) -n $(PYTEST_WORKERS) --ignore=tests/faults --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: $(STAMP) ## check format, style, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

histories: $(STAMP) ## test the safety engine on all of ../shared/data; takes some minutes
	SAFETY_HISTORIES=whole OMP_NUM_THREADS=1 $(BIN)/pytest tests/acceptance/test_safety_histories.py $(PYTEST_ARGS)

faults: $(STAMP) ## run all trials of the fault tests and write docs/promises.md; takes half an hour
	$(BIN)/python -m tests.faults $(PYTEST_ARGS)

bench: $(STAMP) ## run the benchmarks and write docs/performance.md
	$(BIN)/python -m tests.bench

lock: $(STAMP) ## compile requirements/*.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip compile -q --universal --no-emit-index-url --no-annotate --no-header --upgrade \
	  --extra demo pyproject.toml -o requirements/demo.txt
	$(BIN)/uv pip compile -q --universal --no-emit-index-url --no-annotate --no-header --upgrade \
	  --extra test pyproject.toml -o requirements/test.txt

docs: $(STAMP) ## generate the references: operators, GraphQL schema and permissions
	$(BIN)/python -m flexiroaster.operators.document > docs/operators.md.new
	mv docs/operators.md.new docs/operators.md
	$(BIN)/python -m graphql_api.sdl print > graphql_api/schema.graphql.new && mv graphql_api/schema.graphql.new graphql_api/schema.graphql
	$(BIN)/python -m graphql_api.sdl permissions > docs/graphql-permissions.md.new && mv docs/graphql-permissions.md.new docs/graphql-permissions.md

clean: ## remove everything that make created
	rm -rf $(VENV) .flexiroaster .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks \
	  .coverage .coverage.* htmlcov dist build
	find . -name __pycache__ -prune -exec rm -rf {} +

# --- setup --------------------------------------------------------------------------------------------------------

define install
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is required; select one with: make PYTHON=/path/to/python3"; exit 1; }
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
