# Two commands: `make quickstart` trains on real digits, `make test` checks everything.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ENGINE ?= auto

.PHONY: quickstart test docs clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[text,vit,test]'
	touch $@

quickstart: $(VENV)/.ready
	$(BIN)/python -m pyjuice_bridge run experiments/quickstart.yaml --engine $(ENGINE)

test: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[text,docs]'
	$(BIN)/python docs/render.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site docs/gallery *.egg-info
