# `make train` and `make test` are all the set-up there is: both make the environment first, once.
CONFIG ?= configs/digits.yaml
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: train test test-slow faults lint requirements clean

train: $(READY)  ## fit and test CONFIG
	$(BIN)/python main.py fit --config $(CONFIG)
	$(BIN)/python main.py test --ckpt_path best.ckpt

test: $(READY)  ## the quick suite
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)  ## the tests that take more than 15 s each
	$(BIN)/python -m pytest -m slow

faults: $(READY)  ## injures real runs, resumes them, and writes the table of docs/reliability.md
	$(BIN)/python benchmarks/faults.py --write docs/reliability.md

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Made once, and again when the requirements change.
$(READY): requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	touch $@

# Pins everything in pyproject.toml for every platform and Python version.
requirements: $(READY)
	$(BIN)/python -m pip install --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade pyproject.toml --group dev \
		--custom-compile-command "make requirements" -o requirements.txt

clean:
	rm -rf .venv
