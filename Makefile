PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test soak docs site clean

train: .venv/installed  ## learn the project's book for a minute and print what was learned
	$(BIN)/charrnn train corpora/the-lamp.txt --for 60s
	@echo
	$(BIN)/charrnn sample -m runs/the-lamp --length 400 --temperature 0.7 --seed 1 </dev/null

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

docs: .venv/tested  ## run all commands of the README and of docs/ and write down what they print; takes minutes
	$(BIN)/python scripts/pages.py

site: .venv/tested  ## build docs/ as a site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache
