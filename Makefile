# The commands that people type. `make demo` and `make test` set up what they need, in the versions that CI tests with
# (constraints.txt).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt --editable

.PHONY: demo test test-all test-thorough test-random lint docs bench constraints clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed  ## fetch Adult and run the built-in scenario adult-race
	$(BIN)/fedtoll run adult-race

test: $(VENV)/.developer  ## the quick tests
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

test-all: $(VENV)/.developer  ## the slow tests, too
	$(BIN)/pytest -n auto --dist worksteal -m "not thorough"

test-thorough: $(VENV)/.developer  ## checks of the suite again, over more seeds, models, draws, inputs and grids
	$(BIN)/pytest -n auto --dist worksteal -m thorough

test-random: $(VENV)/.developer  ## the quick tests in random order; SEED=... repeats one
	$(BIN)/pytest -n auto --dist worksteal -m "not slow" --shuffle $(or $(SEED),$(shell date +%s))

lint: $(VENV)/.developer  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.developer  ## build the pages of docs/ into build/docs; a broken link or reference is an error
	$(BIN)/sphinx-build -W --keep-going -n -q -E docs build/docs

bench: $(VENV)/.developer  ## measure speed side by side and write benchmarks/*.md
	$(BIN)/python -m benchmarks

constraints:  ## write constraints.txt anew: the newest versions that pyproject.toml allows
	rm -rf build/constraints
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet --editable '.[dev,docs]'
	{ grep '^#' constraints.txt; build/constraints/bin/pip freeze --all --exclude-editable --exclude pip \
		| grep -vE '^(nvidia|cuda|triton)' | sed 's/+.*//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:  ## remove what the commands above made, but not your results
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.developer: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '.[dev,docs]'
	touch $@ $(VENV)/.installed
