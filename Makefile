# The one door to everything. Each target makes its own virtual environment first, and needs only Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run test test-ops test-faults fuzz check format monitoring bench lock sbom dist clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

run: $(VENV)/run.stamp ## Serve the API on 127.0.0.1:8080, on the SQLite file of `taskctl task`
	$(BIN)/taskctl serve || test $$? -eq 130 # ctrl-C is how it is meant to end

test: $(VENV)/dev.stamp $(VENV)/tools.stamp ## Run the test suite
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 3 --dist worksteal # not to compile all tests in every worker and run

test-ops: $(VENV)/dev.stamp ## Run what is shown and watched on a real Prometheus, PostgreSQL and Redis; docs/monitoring.md says what it needs
	$(BIN)/python -m pytest -m ops

test-faults: $(VENV)/dev.stamp ## Run the slow tests that kill and stop real processes
	$(BIN)/python -m pytest -m faults

fuzz: $(VENV)/dev.stamp $(VENV)/tools.stamp ## Run the property tests with many more examples
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -m hypothesis --timeout 3600

check: $(VENV)/dev.stamp ## Lint, check formats and types, who imports whom, and for known vulnerabilities
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive taskctl
	$(BIN)/python -m tests.advisories

format: $(VENV)/dev.stamp ## Put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

monitoring: $(VENV)/dev.stamp ## Write the dashboards and rules in contrib/ anew, from taskctl/monitoring
	$(BIN)/taskctl metrics dashboards --force --out contrib/grafana/dashboards
	$(BIN)/taskctl metrics rules --force --out contrib/prometheus/rules

bench: $(VENV)/dev.stamp ## Run the benchmarks; docs/benchmarks.md explains them
	$(BIN)/python -m benchmarks.cli
	$(BIN)/python -m benchmarks.storage
	$(BIN)/python -m benchmarks.postgres

LOCK := contrib/docker/requirements.txt
BUILD_LOCK := contrib/docker/requirements-build.txt
PIN := $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --no-header --no-emit-index-url --no-emit-trusted-host \
	--no-emit-find-links --no-emit-options --allow-unsafe
UPGRADE ?= # --upgrade takes newer versions of everything

lock: $(VENV)/dev.stamp ## Pin what the release image installs, with hashes; UPGRADE=--upgrade takes newer versions
	$(PIN) $(UPGRADE) --extra otel --output-file $(LOCK) pyproject.toml
	printf 'hatchling\nsetuptools\nwheel\n' | $(PIN) $(UPGRADE) --output-file $(BUILD_LOCK) -
	sed -i '1i # What the release image installs, on Linux and CPython 3.11, each file by its hash. Made by `make lock`.' $(LOCK)
	sed -i '1i # What it is built with. Made by `make lock`.' $(BUILD_LOCK)

sbom: $(VENV)/dev.stamp ## Write what a release is made of into dist/taskctl.cdx.json (CycloneDX)
	mkdir -p dist
	version=$$($(BIN)/python -c 'import taskctl; print(taskctl.__version__)') && \
		sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > dist/pyproject.toml
	$(BIN)/cyclonedx-py requirements $(LOCK) --pyproject dist/pyproject.toml --output-reproducible --output-file dist/taskctl.cdx.json
	rm dist/pyproject.toml

dist: $(VENV)/dev.stamp ## Build the wheel and the source archive into dist/, and try the wheel in an empty environment
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m pytest -m wheel tests/test_wheel.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) dist

$(VENV)/run.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/dev.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/run.stamp

$(VENV)/tools.stamp: tests/tools.txt $(VENV)/dev.stamp
	$(PYTHON) -m venv $(VENV)/tools
	$(VENV)/tools/bin/pip install --quiet --requirement tests/tools.txt
	touch $@
