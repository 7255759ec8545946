# Two commands matter: `make run` serves, `make test` proves. Everything they need is installed into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROTOS := $(shell find protos -name '*.proto')
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install run test soak bench demo lint format protos lock check-config migrate migrate-status migrate-create migrate-rollback maintain backup restore clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vsyncd needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(STAMP)

install: $(STAMP) ## make .venv with everything in it

run: $(STAMP) ## serve on :50051, with PostgreSQL from the wheel
	@$(BIN)/vsyncd serve --embedded $(ARGS)

test: $(STAMP) ## every test, against real servers (ARGS="-k import" narrows it)
	@$(BIN)/python scripts/run_tests.py $(ARGS)

soak: $(STAMP) ## the tests that take long or need more than Python
	@$(BIN)/python -m pytest -m "soak or resilience" --override-ini=timeout=1800 \
		--fault-report=bench/results/faults.json $(ARGS)

bench: $(STAMP) ## benchmarks: a table, and JSON in bench/results
	@$(BIN)/python -m bench $(ARGS)

demo: $(STAMP) ## a whole synchronisation day: 100,000 keys, four workers, one of them killed
	@$(BIN)/python -m scripts.demo $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, buf lint, hadolint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --config-file pyproject.toml tests bench scripts
	@$(BIN)/buf lint
	@$(BIN)/hadolint Dockerfile

format: $(STAMP) ## put the code in its form
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

protos: $(STAMP) ## make the stubs in client/vsync anew
	@$(BIN)/python scripts/make_protos.py client

lock: $(STAMP) ## pin what is tested, from pyproject.toml
	@$(BIN)/python -m pip install --quiet uv && $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

check-config: $(STAMP) ## read the settings and say what they come to
	@$(BIN)/vsyncd check-config $(ARGS)

migrate: $(STAMP) ## apply the migrations to the configured database
	@$(BIN)/vsyncd migrate up $(ARGS)

migrate-status: $(STAMP) ## which migrations the configured database has
	@$(BIN)/vsyncd migrate status $(ARGS)

migrate-create: $(STAMP) ## the files of a new migration (NAME=add_something)
	@$(BIN)/vsyncd migrate create "$(NAME)" $(ARGS)

migrate-rollback: $(STAMP) ## take back the last migration, AND THE DATA IN IT
	@$(BIN)/vsyncd migrate down $(ARGS)

maintain: $(STAMP) ## make partitions ahead, drop those past their retention
	@$(BIN)/vsyncd maintain $(ARGS)

backup: $(STAMP) ## back up the configured database into BACKUP_DIR
	@$(BIN)/vsyncd backup create $(ARGS)

restore: $(STAMP) ## restore a backup: ARGS="NAME", ARGS="latest --force", ARGS="latest --to other"
	@$(BIN)/vsyncd backup restore $(ARGS)

clean: ## remove what make made
	rm -rf $(VENV) build dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/results
