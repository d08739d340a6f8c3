# `make demo` and `make test` do everything on a fresh machine: a virtual environment, a pinned install, the run.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := runs/lowest
# One thread: the models are small, and on a busy machine torch's thread pools wait for each other.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test lint test-lowest test-python docs wheel torture install clean

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

# The adapters, the codec and the payload on the lowest versions that pyproject.toml declares; old packages' warnings
# are not ours. Downloads about a gigabyte the first time.
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -W default -n auto tests/langchain_nextmem tests/llama_index_nextmem tests/codec \
	    tests/quantization

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q -c constraints-lowest.txt -e '.[encryption,langchain,llama-index,train,eval]' \
	    hypothesis langchain-tests pytest pytest-asyncio pytest-socket pytest-timeout pytest-xdist
	touch $@

# The documents, offline, into runs/site; a warning is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Wheel and source distribution into dist/, then the wheel in an environment of its own that prints what README says.
wheel: install
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/python -m pytest -q tests/test_wheel.py

# The tests on another Python, in an environment of its own: `make test-python PYTHON=python3.12`.
OTHER = runs/$(notdir $(PYTHON))
test-python:
	test -x $(OTHER)/bin/python || $(PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/python -m pip install -q torch==2.13.0 -e '.[encryption,langchain,llama-index,train,eval]' hypothesis \
	    langchain-tests pytest pytest-asyncio pytest-socket pytest-timeout pytest-xdist
	$(OTHER)/bin/python -m pytest -n auto tests

# 200 times kill -9, 100 in each layout; an hour or more. Writes benchmarks/torture.md.
torture: install
	$(BIN)/python benchmarks/torture.py

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
