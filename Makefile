# The commands that people type. `make demo` and `make test` set up what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all test-random lint docs bench clean
.DEFAULT_GOAL := demo

demo: $(VENV)/.installed  ## fetch Adult and run the built-in scenario adult-race
	$(BIN)/fedtoll run adult-race

test: $(VENV)/.developer  ## the quick tests
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

test-all: $(VENV)/.developer  ## every test
	$(BIN)/pytest -n auto --dist worksteal

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

clean:  ## remove what the commands above made, but not your results
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.developer: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev,docs]'
	touch $@ $(VENV)/.installed
