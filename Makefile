# Two commands for a fresh machine: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin
# Three processes on two cores: tests that wait for servers, timeouts and starting processes leave room for a third.
QUICK := -m "not slow" -n 3 --dist loadgroup --no-loadscope-reorder
# Where bytecode is not kept, as many containers have it, each of the hundreds of processes compiles all modules anew.
export PYTHONDONTWRITEBYTECODE =
NEWEST := "ray[data,default,train]" torch torchvision pillow pyarrow s3fs

.PHONY: help demo test test-slow newest lint format docs structure default-captioner benchmark clean
help:           ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 20

demo: .venv/.installed   ## set up, then caption drawn scenes with the embedded captioner; names a page to open
	@$(BIN)/captionkit demo --output demo

test: lint               ## set up, then lint, types, layers and every quick test
	$(BIN)/python -m pytest $(QUICK)

test-slow: .venv/.installed-dev   ## every test, the slow ones too
	$(BIN)/python -m pytest

newest:                  ## a second environment with the newest ray, torch, pillow, pyarrow and s3fs, whatever pyproject.toml allows, and the quick tests in it
	@$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --upgrade $(NEWEST)
	@.venv-newest/bin/python -m pip list --disable-pip-version-check | grep -iE '^(ray|torch|torchvision|pillow|pyarrow|s3fs|fsspec) '
	.venv-newest/bin/python -m pytest $(QUICK)

lint: .venv/.installed-dev   ## style, types, and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

default-captioner: .venv/.installed   ## train the embedded captioner anew and print how true it speaks (two to three hours on one core)
	$(BIN)/python -m captionkit.training.embedded --output captionkit/assets/default

benchmark: .venv/.installed   ## the caption job against a DataLoader loop and a naive Ray Data job
	$(BIN)/python benchmarks/pipeline.py

docs: .venv/.installed-dev   ## the documentation as a site, in site/; a broken link or name is an error
	$(BIN)/zensical build --strict --clean

structure: .venv/.installed-dev   ## files, lines and imports of each package, import circles, the longest files and functions
	$(BIN)/python benchmarks/structure.py

clean:
	rm -rf .venv .venv-newest demo site

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "captionkit needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.12 demo" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "Python's venv module is missing (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }

.venv/.installed: pyproject.toml .venv/bin/python
	@echo "Installing captionkit and what it needs into .venv (several GB with torch: a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/.installed-dev: pyproject.toml .venv/bin/python
	@echo "Installing captionkit with its tests' packages into .venv (several GB with torch: a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch .venv/.installed $@
