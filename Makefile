# make demo: install into .venv and run the whole story on the embedded model, into demo/
# make test: install into .venv with the test extra and run the tests
# make docs: build the documentation into build/site
VENV ?= .venv
PYTHON ?= python3
SOURCES := pyproject.toml README.md LICENSE $(shell find forgetcli recipes -type f ! -name '*.pyc')

.PHONY: demo test docs schema reference completions
demo: $(VENV)/.installed
	$(VENV)/bin/forget demo

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest

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

$(VENV)/.installed-test: $(SOURCES) | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check '.[test]'
	touch $@ $(VENV)/.installed

# Dependency groups need pip 25.1; a new virtual environment can have an older one.
$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --group docs
	touch $@
