# Two targets are all a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow geometry lint types docs bench install clean

demo: $(VENV)/.installed  ## install, run five methods on the embedded model, end with a leaderboard
	$(BIN)/python -m harness -m experiment=demo

# Two processes of one thread: tiny models gain nothing from two threads. One process: make test PROCESSES=0
PROCESSES ?= 2

test: $(VENV)/.installed  ## the whole default suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not geometry" -n $(PROCESSES)

test-slow: $(VENV)/.installed  ## checks that take minutes: effects on 256 images, memory, training
	$(BIN)/python -m pytest -m slow

geometry: $(VENV)/.installed  ## every method on random-weight models of the published sizes: 24 GB, hours
	rm -f build/geometry.jsonl
	for model in sd14 sd20 sdxl if_xl sd35_medium; do $(BIN)/python -m pytest -m geometry tests/models/test_geometry.py -k $$model || exit 1; done
	$(BIN)/python -m tests.full_size

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.installed  ## the site in build/site: pages, API, notebooks, which are executed; a broken link fails
	$(BIN)/python -m mkdocs build --quiet

bench: $(VENV)/.installed  ## the figures of docs/performance.md
	$(BIN)/python tests/speed/run_all.py

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
