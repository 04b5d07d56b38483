# make install   .venv with everything: all formats, tests, linters (pinned in requirements.lock)
# make demo      inspect, merge and verify the shipped model; sets up a light environment of its own where there is no .venv
# make test      sets up .venv, then lints, types, layers, tests and the documentation: what CI runs
# make lint      the first three of these
# make docs      the documentation alone, in site/ (checked: a broken link or reference is an error)
# make notebooks pictures   what the documentation shows, run and drawn again
# make package   wheel and source distribution in dist/, each installed into an empty environment and run there

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
LIGHT := .venv-demo
BIN := $(VENV)/bin
JOBS ?= 2
# Nothing here needs the network but pip; frameworks stay quiet and within the machine's cores.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TF_CPP_MIN_LOG_LEVEL := 3

.PHONY: install demo test lint docs notebooks pictures package clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -r requirements.lock
	$(BIN)/pip install -q --no-deps --no-build-isolation -e .
	touch $@

$(LIGHT)/.installed: requirements-demo.lock pyproject.toml
	test -x $(LIGHT)/bin/python || $(PYTHON) -m venv $(LIGHT)
	$(LIGHT)/bin/pip install -q -r requirements-demo.lock
	$(LIGHT)/bin/pip install -q --no-deps --no-build-isolation -e .
	touch $@

# The full environment where it is there, else the light one.
DEMO := $(if $(wildcard $(VENV)/.installed),$(VENV),$(LIGHT))

demo: $(DEMO)/.installed
	$(DEMO)/bin/python examples/demo.py

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

# Two processes of one thread each: a file's tests stay together, since they share what they built.
test: lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: $(VENV)/.installed
	$(BIN)/python docs/run_notebooks.py

pictures: $(VENV)/.installed
	$(BIN)/python docs/pictures.py

package: $(VENV)/.installed
	$(BIN)/python scripts/package.py

clean:
	rm -rf $(VENV) $(LIGHT) demo-out build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache src/*.egg-info
