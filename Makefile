# Everything runs in a virtual environment that is made here; nothing is installed by hand.
#   make demo    the main job on the bundled sample, without a display; leaves demo-output/
#   make test    the whole suite, in WORKERS processes on virtual screens
#   make test-full  the same, and every combination of parameters that it tries in pairs only
#   make coverage  the whole suite, a fifth slower, and which lines it did not reach
#   make lint    format, types, layers and manifest
#   make build   wheel and sdist into dist/
# pip's own settings (PIP_INDEX_URL, PIP_FIND_LINKS, ...) are honoured.

PYTHON ?= python3
VENV ?= .venv
DEMO_OUTPUT ?= demo-output
PYTEST_ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# The tests of a module stay together, since they share what is slow to make.
IN_PARALLEL = --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder
# What an installation depends on. The package is installed in place and follows its source, all but
# the version, which is read from __init__.py when it is installed.
INPUTS := pyproject.toml constraints.txt src/napari_microdl/__init__.py $(VENV)/.made

# Compiled modules are kept: every process that a test starts would compile them again.
unexport PYTHONDONTWRITEBYTECODE
.DELETE_ON_ERROR:
.PHONY: demo test test-full coverage lint build check-wheel system-deps clean

demo: $(VENV)/.base
	$(BIN)/napari-microdl demo --headless --overwrite --out $(DEMO_OUTPUT)

test: system-deps $(VENV)/.test
	scripts/with-display $(BIN)/python -m pytest $(IN_PARALLEL) $(FULL) $(PYTEST_ARGS)

test-full: FULL := --full
test-full: test

coverage: PYTEST_ARGS += --cov --cov-report=term
coverage: test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/npe2 validate napari_microdl

build: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

check-wheel: build
	scripts/check-wheel $(BIN)/python dist/*.whl

# First in line for the tests, so that who may not install system packages hears of it at once.
system-deps:
	scripts/system-deps

clean:
	rm -rf $(VENV) dist $(DEMO_OUTPUT)

$(VENV)/.made:
	scripts/make-venv "$(PYTHON)" $(VENV)
	@touch $@

$(VENV)/.base: $(INPUTS)
	@echo "Installing napari-microdl into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(INPUTS)
	@echo "Installing napari-microdl and what its tests need into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.base

$(VENV)/.dev: $(INPUTS)
	@echo "Installing napari-microdl and its development tools into $(VENV)"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.test $(VENV)/.base
