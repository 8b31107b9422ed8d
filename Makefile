PYTHON ?= python3
BIN := .venv/bin
# --no-compile: Python compiles what is imported; to compile all of torch takes half a minute.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE  # else every process would compile torch anew

.PHONY: train test test-lowest soak docs reference site clean

train: .venv/installed  ## train on the project's book for a minute and print a sample
	$(BIN)/charrnn train corpora/the-lamp.txt --for 60s
	@echo
	$(BIN)/charrnn sample -m runs/the-lamp --length 400 --temperature 0.7 --seed 1 </dev/null

test: .venv/tested  ## lint, types and the whole test suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	nice $(BIN)/mypy & $(BIN)/python -m pytest --numprocesses 3 --dist worksteal && \
		{ wait $$! || { echo "mypy has found errors; it says them above" >&2; exit 1; }; }

test-lowest: .venv/lowest/installed  ## the command line's tests with the oldest versions that pyproject.toml allows
	.venv/lowest/bin/python -m pytest tests/test_cli.py

soak: .venv/tested  ## kill runs, break files, unpack bombs; takes a quarter of an hour
	$(BIN)/python benchmarks/soak.py

# torch comes first and not quietly, so that pip shows how far it is.
.venv/torch: constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(INSTALL) --constraint constraints.txt $$($(BIN)/python scripts/torch_index.py) torch
	@touch $@

.venv/installed: .venv/torch pyproject.toml
	$(INSTALL) --constraint constraints.txt --quiet --editable '.[plot,write]'
	@touch $@

.venv/tested: .venv/torch pyproject.toml
	$(INSTALL) --constraint constraints.txt --quiet --editable '.[test]'
	@touch .venv/installed $@

# Lies over .venv, whose torch and test tools it uses.
.venv/lowest/installed: .venv/tested constraints-lowest.txt
	$(PYTHON) -m venv --without-pip .venv/lowest
	$(BIN)/python -c 'import site; print(f"import site; site.addsitedir({site.getsitepackages()[0]!r})")' \
		> $$(.venv/lowest/bin/python -c 'import site; print(site.getsitepackages()[0])')/over.pth
	$(BIN)/python -m pip --python .venv/lowest/bin/python install --disable-pip-version-check --quiet --ignore-installed \
		--requirement constraints-lowest.txt
	$(BIN)/python -m pip --python .venv/lowest/bin/python install --disable-pip-version-check --quiet --no-deps --editable .
	@touch $@

docs: .venv/tested  ## draw the pictures, run all commands of the README and of docs/ and write down what they print; takes minutes
	$(BIN)/python scripts/pictures.py
	$(BIN)/python scripts/pages.py

reference: .venv/installed  ## make the generated parts of docs/ anew: commands, Python, results
	$(BIN)/python scripts/reference.py

site: .venv/tested build/the-lamp/model.safetensors  ## build docs/ as a site in site/, with a model to try
	$(BIN)/python scripts/build_site.py build/the-lamp site

build/the-lamp/model.safetensors: | .venv/installed
	$(BIN)/charrnn train corpora/the-lamp.txt --for 3m --out build/the-lamp --force --quiet

clean:
	rm -rf .venv site build .pytest_cache .mypy_cache .ruff_cache
