# make demo: install into .venv and run the whole story on the embedded model, into demo/
# make test: install into .venv with the test extra and run the tests
VENV ?= .venv
PYTHON ?= python3
SOURCES := pyproject.toml README.md LICENSE $(shell find forgetcli recipes -type f ! -name '*.pyc')

.PHONY: demo test schema completions
demo: $(VENV)/.installed
	$(VENV)/bin/forget demo

test: $(VENV)/.installed-test
	$(VENV)/bin/python -m pytest

# what is generated and committed
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
