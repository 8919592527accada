# `make demo` and `make test` need nothing but Python 3.11 or newer: they make their own .venv.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name))))
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

RUNS ?= runs
MINUTES ?= 60
WORKERS ?= 2

.PHONY: demo test lint types docs bench bench-long weights clean

demo: .make/installed  ## render scenes, train, evaluate, report: some six minutes on two cores
	$(BIN)/python examples/demo.py $(ARGS)

# One file of tests stays in one worker, because its tests share models and runs.
test: .make/installed-dev  ## the test suite and the examples in docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

docs: .make/installed-dev  ## the documentation, in ./site; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: .make/installed-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .make/installed-dev  ## pyright
	$(BIN)/pyright

# No code of others is part of this project. A clone takes part in the benchmarks if it is there:
#   git clone https://github.com/evelinehong/slot-attention-pytorch $(PEER) && git -C $(PEER) checkout 1518c23
PEER ?= ../slot-attention-pytorch
WITH_PEER = $(if $(wildcard $(PEER)/model.py),--peer $(PEER))
MEASURE := $(BIN)/python benchmarks
RESULTS := benchmarks/results

bench: .make/installed-dev  ## speed on this CPU; rewrites the tables of docs/speed.md
	$(MEASURE)/reference.py $(WITH_PEER) --rounds 2 --csv $(RESULTS)/reference.csv
	$(MEASURE)/scenes.py --threads 2 --batch 64 --rounds 3 --csv $(RESULTS)/scenes.csv
	$(MEASURE)/loader.py --csv $(RESULTS)/loader.csv
	$(MEASURE)/ari.py --csv $(RESULTS)/ari.csv
	$(MEASURE)/kmeans.py --csv $(RESULTS)/kmeans.csv
	$(MEASURE)/training.py scenes-32 scenes-64 scenes-64-latents scenes-64-diffusion --csv $(RESULTS)/training.csv
	$(MEASURE)/gradient.py --threads 1 --csv $(RESULTS)/gradient.csv
	$(MEASURE)/denoiser.py --rounds 5 --csv $(RESULTS)/denoiser.csv
	$(MEASURE)/sampling.py scenes-64-diffusion --speed --csv $(RESULTS)/sampler-speed.csv
	$(MEASURE)/startup.py --rounds 3 --csv $(RESULTS)/startup.csv
	$(MEASURE)/segment.py --images 1000 --csv $(RESULTS)/segment.csv
	$(MEASURE)/studio.py --repeats 3 --csv $(RESULTS)/studio.csv
	$(MEASURE)/tables.py

bench-long: .make/installed-dev  ## hours: each speed-up switched off, 10,000 images, loss curves, time to objects
	$(MEASURE)/reference.py $(WITH_PEER) --ablation --rounds 2 --csv $(RESULTS)/ablation.csv
	$(MEASURE)/segment.py --images 10000 --csv $(RESULTS)/segment-10000.csv
	$(MEASURE)/loss_curves.py
	$(MEASURE)/loss_curves.py --full --steps 20
	$(MEASURE)/time_to_objects.py $(WITH_PEER) --minutes $(MINUTES)
	$(MEASURE)/tables.py

weights: .make/installed  ## the bundled models, from the runs $(RUNS)/NAME: docs/weights.md
	for name in scenes-64 scenes-64-diffusion textured-64; do \
		$(BIN)/slotlab publish $(RUNS)/$$name --to src/slotlab/weights/$$name || exit 1; \
	done

clean:  ## remove what this file made
	rm -rf .venv .make runs/demo site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.make/installed: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[vision]'
	@mkdir -p .make && touch $@

.make/installed-dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[dev]'
	@mkdir -p .make && touch $@ .make/installed
