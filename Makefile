# Every target installs what it needs. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MINUTES ?= 30
SECONDS ?= 60
ROUNDS ?= 100
STEPS ?= 10000
KILLS ?= 20
DATA ?= ../shared/data
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

.PHONY: install
install: $(INSTALLED)  ## make a virtual environment with everything in it

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server,tuner,dev]'
	touch $(INSTALLED)

.PHONY: demo
demo: install  ## the main job: start a model server, run CraFT against it over HTTP, show what it gained and cost
	$(BIN)/craft-tuner demo

.PHONY: test
test: install  ## all tests, with coverage
	$(BIN)/pytest -n 2 --cov --cov-report= tests
	$(BIN)/coverage report --include='shared/*' --fail-under=100
	$(BIN)/coverage report --include='server/*,tuner/*' --fail-under=90

.PHONY: ray
ray: install  ## install Ray
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'

.PHONY: ray-test
ray-test: ray  ## test server and bench on Ray: two replicas, and a bench, on a Ray of this machine
	$(BIN)/pytest tests/e2e/test_ray.py tests/e2e/test_bench_ray.py

.PHONY: chromium
chromium: install  ## install Chromium by apt where there is none
	$(BIN)/python -c 'import sys; from tests.support import chromium; sys.exit(chromium.find_chromium() is None)' || \
	  { [ "$$(id -u)" = 0 ] && apt-get update && apt-get install --yes --no-install-recommends chromium; } || \
	  { echo "page-test needs Chromium: apt-get install chromium" >&2; exit 1; }

.PHONY: page-test
page-test: chromium  ## look at the page of runs in a headless Chromium
	$(BIN)/pytest tests/e2e/test_page.py

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
bench: install  ## all measurements on this machine, about ten minutes; figures in bench/*.json
	mkdir -p bench
	$(BIN)/python -m benchmarks.speed.overhead --json bench/overhead.json
	$(BIN)/python -m benchmarks.speed.memory --json bench/memory.json
	$(BIN)/python -m benchmarks.speed.images --json bench/images.json
	$(BIN)/python -m benchmarks.speed.fit --json bench/fit.json
	$(BIN)/python -m benchmarks.speed.fit --model RN50 --generations 5 --repeats 1 --json bench/fit-rn50.json
	$(BIN)/python -m benchmarks.speed.tuners --json bench/tuners.json
	$(BIN)/python -m benchmarks.speed.replicas --json bench/replicas.json
	$(BIN)/python -m benchmarks.speed.text --growth --json bench/growth.json
	$(BIN)/python -m benchmarks.speed.text --json bench/text.json

.PHONY: yardstick
yardstick: install  ## CraFT over HTTP against CoOp by gradients on the same model and shots, ten minutes
	mkdir -p bench
	$(BIN)/python -m benchmarks.accuracy.yardstick --json bench/yardstick.json

.PHONY: imagenet-shape
imagenet-shape: install  ## a fit and a prediction of 1,000 classes and 82,000 images: the tuner within 2 GB
	mkdir -p bench
	$(BIN)/python -m benchmarks.speed.imagenet_shape --json bench/imagenet-shape.json

.PHONY: soak
soak: install  ## mixed clients against a real server for MINUTES: no failure, no drift, exact books
	mkdir -p bench
	$(BIN)/python -m benchmarks.reliability.soak --minutes $(MINUTES) --json bench/soak.json

.PHONY: bombs
bombs: install  ## hostile requests against a real server: what answers, when, at what memory
	mkdir -p bench
	$(BIN)/python -m benchmarks.reliability.bombs --json bench/bombs.json

.PHONY: fuzz
fuzz: install  ## attack the readers of untrusted bytes with atheris, SECONDS for each
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	$(BIN)/python -m scripts.fuzz --seconds $(SECONDS)

.PHONY: faults
faults: install  ## kill, cut, fill and drain for ROUNDS rounds a store; STEPS of the model; a fit killed KILLS times
	mkdir -p bench
	$(BIN)/python -m benchmarks.reliability.faults --rounds $(ROUNDS) --json bench/faults.json
	$(BIN)/python -m tests.server.metering.test_meter_machine $(STEPS)
	$(BIN)/python -m benchmarks.reliability.tuner --kills $(KILLS) --json bench/fault-tuner.json

.PHONY: docker-test
docker-test: install  ## build both images and run what docs/docker.md promises on a real engine
	$(BIN)/python -m scripts.docker_test $(DOCKER_FLAGS)

.PHONY: bench-demo
bench-demo: install  ## the demo with seeds 1, 2 and 3, and their mean
	$(BIN)/python -m benchmarks.accuracy.accuracy

.PHONY: bench-accuracy
bench-accuracy: install  ## every method by shots and budget, on digits and on DATA: an hour and more, resumable
	$(BIN)/python -m benchmarks.accuracy.study --data $(DATA)

.PHONY: bench-real
bench-real: install  ## real CLIP features through the protocol, and domain shift; what DATA lacks is left out
	mkdir -p bench
	$(BIN)/python -m benchmarks.accuracy.real_features --data $(DATA) --json bench/real.json
	$(BIN)/python -m benchmarks.accuracy.domain_shift --data $(DATA) --json bench/domain-shift.json

.PHONY: told
told: install  ## what auto and craft_plus make of keys that are told less, twenty minutes
	mkdir -p bench
	$(BIN)/python -m benchmarks.accuracy.told --json bench/told.json

.PHONY: ablation
ablation: install  ## what earns its place in craft_plus, bank and their heads, half an hour
	mkdir -p bench
	$(BIN)/python -m benchmarks.accuracy.ablation --json bench/ablation.json
	$(BIN)/python -m benchmarks.accuracy.ablation_heads --data $(DATA) --json bench/ablation-heads.json

.PHONY: check
check: test lint type demo bench-demo  ## what CI runs
	$(MAKE) soak MINUTES=1
	$(MAKE) faults ROUNDS=10 STEPS=0 KILLS=0

.PHONY: clean
clean:  ## remove the virtual environment, caches and runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* runs var bench fuzz
