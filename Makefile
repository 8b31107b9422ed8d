PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test soak readme clean

train: .venv/installed  ## learn the project's book for a minute and print what was learned
	$(BIN)/charrnn train corpora/the-lamp.txt --for 60s
	@echo
	$(BIN)/charrnn sample --length 600 --temperature 0.7 --seed 1 </dev/null

test: .venv/tested  ## lint, types and the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

soak: .venv/tested  ## kill 200 runs and break 20,000 files; takes minutes
	$(BIN)/python benchmarks/soak.py

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/tested: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

readme: .venv/installed  ## bring the README's flags up to date
	$(BIN)/python scripts/readme.py

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
