# `make` alone lists what people type: the targets with `##`. Each installs what it needs.
# The targets without `##`, at the end, are for CI and for who has what they need; they work by name.
# What is measured is not here: `python -m benchmarks` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PAGE := tests/e2e/test_page.py
UNITS := $(addprefix tests/,shared server tuner benchmarks)
# Tests start hundreds of programs: modules are compiled once, not by each of them; a worker has a core.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

.PHONY: install
install: $(INSTALLED)  ## make a virtual environment with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[server,tuner,dev]'
	touch $(INSTALLED)

.PHONY: demo
demo: install  ## the main job: start a model server, run CraFT against it over HTTP, show what it gained and cost
	$(BIN)/craft-tuner demo

.PHONY: test
test: install  ## tests with coverage, all but the long ones: ten minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal -m 'not long' --ignore $(PAGE) --cov --cov-report= tests
	$(BIN)/coverage report --include='shared/*' --fail-under=100
	$(BIN)/coverage report --include='server/*,tuner/*' --fail-under=90

.PHONY: test-fast
test-fast: install  ## unit tests alone, under a minute
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -p no:schemathesis -m 'not slow and not long' $(UNITS)

.PHONY: lint
lint: install  ## ruff (rules and format) and the dependency rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: type
type: install  ## mypy --strict
	$(BIN)/mypy
	MYPYPATH=. $(BIN)/mypy -p scripts -p benchmarks

.PHONY: docs
docs: install  ## write docs/reference/ (settings, commands, OpenAPI) and .env.example anew from the code
	$(BIN)/python -m scripts.write_reference docs/reference
	$(BIN)/python -m scripts.write_env .env.example
	$(BIN)/python -m scripts.write_architecture docs/architecture.md

.PHONY: bench
bench: install  ## time and memory on this machine, about ten minutes; figures in bench/*.json
	$(BIN)/python -m benchmarks speed

.PHONY: check
check: test lint type demo test-long  ## what CI runs
	$(BIN)/python -m benchmarks demo-seeds
	$(MAKE) gpu-check FLAGS='--device cpu --small'
	$(BIN)/python -m benchmarks soak --minutes 1
	$(BIN)/python -m benchmarks faults --rounds 10

.PHONY: clean
clean:  ## remove the virtual environment, caches and runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* runs var bench fuzz gpu-wheels

# --- what needs more than a machine with Python -------------------------------------------------

.PHONY: test-long
test-long: install  # whole programs that are killed, frozen or flooded, and go on: ten minutes
	$(BIN)/pytest -n 2 -m long tests

.PHONY: ray
ray: install  # installs Ray
	$(PIP) -e '.[ray]'

.PHONY: ray-test
ray-test: ray  # server and bench on Ray: two replicas, and a bench, on a Ray of this machine
	$(BIN)/pytest tests/e2e/test_ray.py tests/e2e/test_bench_ray.py

.PHONY: chromium
chromium: install  # installs Chromium by apt where there is none
	$(BIN)/python -c 'import sys; from tests.support import chromium; sys.exit(chromium.find_chromium() is None)' || \
	  { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install --yes --no-install-recommends chromium; } || \
	  { echo "page-test needs Chromium: apt-get install chromium" >&2; exit 1; }

.PHONY: page-test
page-test: chromium  # looks at the page of runs in a headless Chromium
	$(BIN)/pytest $(PAGE)

.PHONY: docker-test
docker-test: install  # builds both images and runs what docs/docker.md promises on a real engine
	$(BIN)/python -m scripts.docker_test $(DOCKER_FLAGS)

.PHONY: gpu-wheels
gpu-wheels: install  # collects into gpu-wheels/ what a bare GPU machine lacks: 50 MiB at most
	$(BIN)/python -m benchmarks.gpu.wheels

.PHONY: gpu-check
gpu-check: install  # measures the CUDA path in eight minutes; FLAGS='--device cpu --small' rehearses it
	$(BIN)/python -m benchmarks gpu $(FLAGS)
