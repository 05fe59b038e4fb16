# Two commands on a fresh machine with Python 3.11 and make: `make run` and `make test`. The rest is for developers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# Tests wait more than they compute: three at a time keep two cores busy.
JOBS ?= 3
export UV_PYTHON_DOWNLOADS := never

.PHONY: run test faults fuzz check format openapi readme chart clean provision

run: $(VENV)/.synced  ## an embedded Valkey, a simulated VideoSDK and the gateway on 127.0.0.1:8080
	@$(BIN)/gateway sandbox

test: $(VENV)/.synced provision  ## every test; ARGS="-k name" to choose
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered

faults: $(VENV)/.synced provision  ## break everything that can break under real processes, and check the history
	$(BIN)/python -m tests.blackbox.faults $(ARGS)

fuzz: $(VENV)/.synced  ## send 10,000 made-up requests (FUZZ_CASES) to a live gateway: every answer as documented
	$(BIN)/python -m tests.fuzz.run $(ARGS)

check: $(VENV)/.synced  ## every static check
	$(UV) lock --check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.synced
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

openapi: $(VENV)/.synced  ## write the contract anew after a change of the API
	$(BIN)/gateway openapi > openapi/gateway.yaml

provision:  # what tests need from the system: installs it as root on Debian, else says what will be skipped
	@sh tests/provision.sh

readme: $(VENV)/.synced  ## write the README's table of settings anew
	$(BIN)/python -m tests.readme

chart: $(VENV)/.synced  ## write the chart's settings and their schema anew after a change of the settings
	$(BIN)/python -m tests.chart.written

clean:
	rm -rf $(VENV) .coverage* .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

$(VENV)/.synced: pyproject.toml uv.lock $(VENV)/bin/uv
	$(UV) sync --quiet --frozen --all-extras --python $(BIN)/python
	@touch $@
