# `make demo` and `make test` do everything on a fresh machine: a virtual environment, a pinned install, the run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread: the models are small, and on a busy machine torch's thread pools wait for each other.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint torture install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/nextmem demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: install lint
	$(BIN)/pytest -n auto

# 200 times kill -9, 100 in each layout; half an hour. Writes benchmarks/torture.md.
torture: install
	$(BIN)/python benchmarks/torture.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
