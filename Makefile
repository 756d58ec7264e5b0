# `make train` and `make test` are all the set-up there is: both make the environment first, once.
CONFIG ?= configs/digits.yaml
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
DEV := .venv/ready-dev
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.PHONY: train test test-slow test-gpu lint docs schema bench faults rename requirements clean

train: $(READY)  ## fit and test CONFIG
	$(BIN)/python main.py fit --config $(CONFIG)
	$(BIN)/python main.py test --ckpt_path best.ckpt

test: $(DEV)  ## the quick suite
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

test-slow: $(DEV)  ## the tests that take more than 15 s each
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-gpu: $(DEV)  ## the tests that need a GPU
	LITCNN_TEST_GPU=1 $(BIN)/python -m pytest -m gpu

lint: $(DEV)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(DEV)  ## the pages of docs/ as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

schema: $(DEV)  ## what editors complete and check configs by
	$(BIN)/python scripts/schema.py configs/schema.json

bench: $(DEV)  ## measures this project against what one would use in its place: the tables of docs/benchmarks.md
	$(BIN)/python benchmarks/startup.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/data_path.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/training.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/predict.py --write docs/benchmarks.md
	$(BIN)/python benchmarks/scale.py --write docs/scale.md --plot docs/images/scale.png

faults: $(DEV)  ## injures real runs, resumes them, and writes the table of docs/reliability.md
	$(BIN)/python benchmarks/faults.py --write docs/reliability.md

rename: $(DEV)  ## make rename NAME=my_project: gives package and command a name of your own
	$(BIN)/python scripts/rename.py $(NAME)
	$(BIN)/python -m pip uninstall --quiet --yes litcnn

# What a training needs: made once, and again when the requirements or pyproject.toml change.
$(READY): requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(INSTALL) -r requirements.txt
	$(INSTALL) --no-deps -e .
	touch $@

# And what export, demo, tests and benchmarks need.
$(DEV): $(READY) requirements-dev.txt
	$(INSTALL) -r requirements-dev.txt
	touch $@

# Pins everything in pyproject.toml for every platform and Python version.
PIN = $(BIN)/uv pip compile --quiet --no-annotate --universal --python-version 3.10 --custom-compile-command "make requirements"
requirements: $(READY)
	$(INSTALL) uv
	$(PIN) --upgrade pyproject.toml --all-extras --group dev -o requirements-dev.txt
	$(PIN) pyproject.toml -c requirements-dev.txt -o requirements.txt

clean:
	rm -rf .venv
