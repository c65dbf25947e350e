# make demo: install into .venv and run the whole story on the embedded model, into demo/
# make test: install into .venv with the test extra and run the tests
# make test-lowest: a part of the tests with the lowest versions that pyproject.toml allows
# make fuzz: hostile files for every reader, FUZZ of each, and every fault of the disk
# make interop: build stable-diffusion.cpp and let it load what forget exports (9 GB, half an hour)
# make lint: style, types and the order of the packages
# make docs: build the documentation into build/site
VENV ?= .venv
PYTHON ?= python3
JOBS ?= auto
LOWEST ?= .venv-lowest
INTEROP ?= .venv-interop
FUZZ ?= 20000
SOURCES := pyproject.toml README.md LICENSE $(shell find forgetcli recipes -type f ! -name '*.pyc')

.PHONY: demo test test-lowest fuzz interop lint docs reference schema completions
demo: $(VENV)/.installed
	$(VENV)/bin/forget demo

# One thread in each of several processes: many threads in each would wait for one another. The tests of a
# file stay together, because they share what takes long to make.
test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile

# The download is large: that torch has no build of its own for processors alone on PyPI.
test-lowest: $(LOWEST)/.installed
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n $(JOBS) \
		tests/storage tests/linalg tests/checkpoint tests/recipe tests/models tests/cli/test_cli.py

# Inputs that fail are kept in build/fuzz; put them into tests/fuzz/corpus.
fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 FORGET_FUZZ=$(FUZZ) $(VENV)/bin/python -m pytest -n $(JOBS) \
		tests/fuzz tests/cli/test_faults_of_writers.py tests/verification/test_mutations.py \
		tests/artifact/test_hostile_folders.py

interop: $(VENV)/.installed-test $(INTEROP)/.installed
	INTEROP_PYTHON=$(abspath $(INTEROP))/bin/python $(VENV)/bin/python -m pytest -m interop -rs tests/interop

# No wheel is published for every machine: this compiles with cmake and a C++ compiler. In an
# environment of its own, since only its Python binding is called.
$(INTEROP)/.installed:
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install --quiet --disable-pip-version-check stable-diffusion-cpp-python==0.4.7
	touch $@

# The first line finds conflicts of a merge that were committed; outside Python nothing else would.
lint: $(VENV)/.installed-lint
	! git grep -nE '^(<{7}|>{7}) '
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/mypy

# Run from the checkout: mkdocstrings reads the docstrings there.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --quiet

# what is generated and committed
reference: $(VENV)/.installed-test
	$(VENV)/bin/python scripts/docs_reference.py

schema: $(VENV)/.installed-test
	$(VENV)/bin/python -m forgetcli recipe schema > recipes/recipe.schema.json

completions: $(VENV)/.installed-test
	$(VENV)/bin/python scripts/completions.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The interpreter is there or not; its date says nothing, so it is an order-only prerequisite.
$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check .
	touch $@

# open-clip-torch for CLIP's vocabulary, which is a file in it. Its dependencies would replace parts
# of an installed torch.
$(VENV)/.installed-test: $(SOURCES) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check '.[test]'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps open-clip-torch==3.3.0
	touch $@ $(VENV)/.installed

$(LOWEST)/.installed: pyproject.toml tests/lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c tests/lowest.txt \
		. pytest pytest-xdist hypothesis mpmath peft
	touch $@

# Dependency groups need pip 25.1; a new virtual environment can have an older one.
$(VENV)/.installed-lint: $(VENV)/.installed-test
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --group lint
	touch $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@
