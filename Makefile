# `make test` and `make demo` do all of their own set-up in .venv; PYTHON chooses the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_DATA := $(VENV)/.demo-data
DEMO_OUT := demo

.PHONY: help test demo lint clean

help:
	@echo "make test   install into $(VENV) and run all checks and tests"
	@echo "make demo   install into $(VENV) and find the trees in a GeoTIFF"
	@echo "make lint   formatting, style, types and the direction of imports"
	@echo "make clean  remove $(VENV) and $(DEMO_OUT)"

# pip understands dependency groups from 25.1 on.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --editable ".[mm,pretrain,timm,torchgeo,stac,bench,ray]" --group dev
	@touch $@

# Only the sample imagery inside this wheel is used, so it comes without its dependencies.
$(DEMO_DATA): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --no-deps deepforest==2.1.0
	@touch $@

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile

demo: $(DEMO_DATA)
	$(BIN)/dynamicvis predict $(VENV)/lib/python3*/site-packages/deepforest/data/OSBS_029.tif -o $(DEMO_OUT) --overwrite

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) $(DEMO_OUT)
