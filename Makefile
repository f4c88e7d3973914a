# `make demo` and `make test` set everything up on a fresh machine: Python 3.11 or newer and make are all they need.
.DEFAULT_GOAL := help
.PHONY: help parity demo test test-slow test-vla record-slow check fix bench chaos results results-demo table docs lock venv

PYTHON ?= python3
WORKERS ?= 2
SEEDS ?= 0 1 2 3 4
BENCHMARKS ?= metaworld scene_evidence metaworld50 metaworld_shifted metaworld_no_hurry metaworld_shifted_no_hurry scene_no_hurry scene_unshifted
CHAOS_SEED ?= 0
BIN := .venv/bin
READY := .venv/.ready

# One thread per process: two single-threaded processes beat one two-threaded process (XLA, BLAS and MuJoCo alike).
# State observations need no renderer, so no GL library either. Cameras are drawn by EGL or OSMesa whatever MUJOCO_GL says here
# (apt-get install libegl1 libgl1-mesa-dri); their tests are skipped, with that reason, where neither is installed.
export OMP_NUM_THREADS ?= 1
export MUJOCO_GL ?= disabled
export JAX_PLATFORMS ?= cpu
# A crashed worker is replaced at most twice: its tests run again, and a test that always crashes must not do so for ever.
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 2

help:  ## print this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(READY)  ## a simulated fleet that learns: collect, SFT, LWD offline, LWD online, report (16 minutes on two cores that do nothing else)
	$(BIN)/lwd demo

test: $(READY)  ## all tests but the slow tier
	$(PYTEST)

test-slow: $(READY)  ## the slow tier: what is learned is what was recorded (minutes; the limit is ten)
	$(BIN)/pytest -m slow tests/slow/test_regression_gate.py

test-vla: $(READY)  ## the VLA at dummy size learns from pictures through the whole loop (three quarters of an hour on one core)
	$(BIN)/pytest -m slow tests/slow/test_vla_learns.py

record-slow: $(READY)  ## record the slow tier's curves anew; the change belongs into CHANGELOG.md under "Numbers"
	$(BIN)/python -m tests.slow.record

check: $(READY)  ## what must hold before a commit: format, lint, types, imports, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(PYTEST)

fix: $(READY)  ## format, mend what ruff can mend, regenerate the paper map
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.paper_map

bench: $(READY)  ## write benchmarks/results/*.json and print them against the last committed ones
	$(BIN)/python -m benchmarks

chaos: $(READY)  ## sixteen robots, a hundred faults: is every episode counted once? Writes benchmarks/results/chaos.json (about 20 minutes)
	$(BIN)/python -m benchmarks.chaos --seed $(CHAOS_SEED)

results: $(READY)  ## run what is missing of the evidence (a day on two cores in all; goes on where it was cut), then `make table`
	for benchmark in $(BENCHMARKS); do $(BIN)/lwd results run --benchmark $$benchmark --jobs $(WORKERS) || exit 1; done
	$(MAKE) table

results-demo: $(READY)  ## run the demo once per seed (hours), keep each summary.json, then `make table`
	for seed in $(SEEDS); do \
	  $(BIN)/lwd demo --seed $$seed --out runs/demo/seed_$$seed && \
	  mkdir -p results/demo/seed_$$seed && \
	  cp runs/demo/seed_$$seed/summary.json results/demo/seed_$$seed/summary.json || exit 1; \
	done
	$(MAKE) table

table: $(READY)  ## write the measured tables and figures (README, docs/reference/results.md, results/summary.json) from the committed runs
	$(BIN)/python -m tools.make_table
	$(BIN)/lwd results figures
	$(BIN)/lwd results table
	$(BIN)/python -m lwd.results.ogbench table

docs: $(READY)  ## build the documentation site into site/, warnings are errors
	$(BIN)/python -m tools.paper_map
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lock:  ## compile pyproject.toml into the two requirements files (needs uv and the network)
	uv pip compile pyproject.toml --extra dev $(LOCK) -o requirements.txt >/dev/null
	uv pip compile pyproject.toml $(LOCK) -c requirements.txt -o requirements-base.txt >/dev/null

LOCK := --python-version 3.11 --universal --fork-strategy fewest --generate-hashes --no-emit-index-url --no-header --quiet

venv: $(READY)  ## only set up .venv

parity: $(READY)  ## add PyTorch and transformers, which the parity tests of the VLA compare with (tests are skipped without)
	$(BIN)/python -m pip install --quiet torch==$$(sed -n 's/^torch==//p' requirements-parity.txt)
	$(BIN)/python -m pip install --quiet -r requirements-parity.txt

# Built once, and again when the lock or the package's metadata changes.
$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "lwd needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
