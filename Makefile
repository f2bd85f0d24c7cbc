# make demo and make test work on a fresh machine with Python 3.10 or later and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test example clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	touch $@

demo: setup
	$(BIN)/wanalyze compare fixtures/base fixtures/full fixtures/lora-r8 fixtures/lora-r64 -o reports/demo
	@echo "open reports/demo/report.html"

test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --doctest-modules wanalyze tests

# The run that is kept in the repository, and its picture in the README.
example: setup
	$(BIN)/wanalyze compare fixtures/base fixtures/full fixtures/lora-r8 fixtures/lora-r64 -o reports/example

clean:
	rm -rf .venv build *.egg-info
