# make quickstart, make test, make extra, make check, make chaos, make bench. Each builds .venv first if it is missing or setup.py has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

quickstart: $(VENV)/installed
	$(BIN)/igpt train digits --workdir runs/digits

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal

# what compares with PyTorch, compiles for other machines or runs launch scripts
extra: $(VENV)/installed-test
	$(BIN)/python -m pytest -n 2 --dist worksteal -m extra

# kills, signals and damage by the hundred, and slow kernels; about twenty minutes
chaos: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "chaos or slow or extra"

check: $(VENV)/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/pyright --pythonpath $(BIN)/python

# beside Hugging Face's ImageGPT in PyTorch, in turns; about a quarter of an hour on two cores, with nothing else running
bench: $(VENV)/installed-test
	$(BIN)/python experiments/peers/compare.py
	$(BIN)/python experiments/peers/table.py --write

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[plot]'
	touch $@

$(VENV)/installed-test: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[test,parity]'
	touch $@ $(VENV)/installed

$(VENV)/installed-dev: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[test,dev]'
	touch $@ $(VENV)/installed

.PHONY: quickstart test extra chaos check bench
