# `make demo` and `make test` need nothing but Python 3.11 or newer: they make their own .venv.
PYTHON ?= python3.11
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

RUNS ?= runs

.PHONY: demo test lint types bench weights clean

demo: .make/installed  ## render scenes, train, evaluate, report: about ten minutes on two cores
	$(BIN)/python examples/demo.py $(ARGS)

test: .make/installed-dev  ## the test suite
	$(BIN)/python -m pytest $(ARGS)

lint: .make/installed-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .make/installed-dev  ## pyright
	$(BIN)/pyright

bench: .make/installed-dev  ## all benchmarks; each prints its table
	$(BIN)/python benchmarks/ari.py
	$(BIN)/python benchmarks/scenes.py
	$(BIN)/python benchmarks/loader.py
	$(BIN)/python benchmarks/training.py scenes-32 scenes-64 scenes-64-latents scenes-64-diffusion
	$(BIN)/python benchmarks/denoiser.py
	$(BIN)/python benchmarks/studio.py

weights: .make/installed  ## the trained models in the package, of the runs $(RUNS)/NAME: docs/weights.md
	for name in scenes-64 scenes-64-diffusion; do \
		$(BIN)/slotlab publish $(RUNS)/$$name --to src/slotlab/weights/$$name || exit 1; \
	done

clean:  ## remove what this file made
	rm -rf .venv .make runs/demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.make/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable .
	@mkdir -p .make && touch $@

.make/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@mkdir -p .make && touch $@ .make/installed
