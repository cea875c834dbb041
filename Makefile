# The commands of this checkout. `make` alone lists them. Everything is installed into .venv and nowhere else.

PYTHON ?= python3
VENV ?= .venv
DEMO_MINUTES ?= 4
# Two test processes with one thread each: torch's own threads get in one another's way. The longest tests are neighbours,
# so a process that has nothing left takes over from the other.
TEST_OPTIONS ?= -n 2 --dist worksteal
FUZZ_CASES ?= 50000
FAULTS ?= 100
SOAK_STEPS ?= 10000

BIN := $(VENV)/bin
DATA := data/blood-cells
DEMO_IMAGES := $(addprefix $(DATA)/images/BloodImage_,00007.jpg 00011.jpg 00015.jpg 00016.jpg 00018.jpg 00019.jpg)
SHIPPED := weights/blood-cells-r18.safetensors

.DEFAULT_GOAL := help
.PHONY: help demo setup test fuzz faults bench check clean
.DELETE_ON_ERROR:

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.run-time ## Install, predict with the model in weights/, train for four minutes on a CPU, score, draw
	@test ! -e demo || test -e demo/.made-by-make || \
		{ echo "demo/ exists and was not made by make; move it away" >&2; exit 1; }
	rm -rf demo && mkdir demo && touch demo/.made-by-make
	$(BIN)/detector predict $(SHIPPED) $(DEMO_IMAGES) --out demo/at-once
	$(BIN)/detector train $(DATA) --recipe small --init none --minutes $(DEMO_MINUTES) --out demo/run
	$(BIN)/detector eval demo/run/best.safetensors $(DATA) --split test --out demo/eval
	$(BIN)/detector predict demo/run/best.safetensors $(DEMO_IMAGES) --out demo/pictures
	@echo "model: demo/run/best.safetensors   scores: demo/eval   pictures: demo/pictures, of $(SHIPPED): demo/at-once"

setup: $(VENV)/.dev ## Install everything needed to work on the code

test: $(VENV)/.dev ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TEST_OPTIONS)

fuzz: $(VENV)/.dev ## Compare the two scorers on 50,000 made-up data sets
	OMP_NUM_THREADS=1 DETECTOR_FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest -m fuzz $(TEST_OPTIONS)

faults: $(VENV)/.dev ## Kill trainings 300 times, damage checkpoints, train 10,000 steps
	OMP_NUM_THREADS=1 DETECTOR_FAULTS=$(FAULTS) DETECTOR_SOAK_STEPS=$(SOAK_STEPS) $(BIN)/python -m pytest -m faults $(TEST_OPTIONS)

bench: $(VENV)/.dev ## Measure speed beside torchvision and pycocotools, rewrite docs/performance.md
	$(BIN)/python tools/benchmark.py all --docs docs --data $(DATA)

check: $(VENV)/.dev ## Lint, format, types, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

clean: ## Remove the environment, caches and the demo; runs/ stays
	@test ! -e demo/.made-by-make || rm -rf demo
	@test ! -e $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find detector tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run-time: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12")'
	@echo "installing into $(VENV); torch is large, this takes some minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable . --constraint constraints.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run-time
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@
