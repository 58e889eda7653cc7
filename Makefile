# Two commands do everything: `make demo` and `make test`. The rest is for developers.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One pinned thread beats two contended ones (docs/benchmarks.md).
QUIET := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo test lint types docs docs-version bench wheel clean fuzz

demo: .venv/installed
	$(BIN)/babelscope demo --out runs/demo --overwrite

test: .venv/installed-dev
	$(QUIET) $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: .venv/installed-dev
	$(BIN)/pyright

docs: .venv/installed-dev
	$(PIP) -e '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

# This release's pages beside those of earlier ones (docs/version.py).
docs-version: .venv/installed-dev
	$(PIP) -e '.[docs]'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/version.py site

bench: .venv/installed-dev
	$(QUIET) $(BIN)/python -m benchmarks

bench-gate: .venv/installed-dev
	$(QUIET) $(BIN)/python -m benchmarks --gate --quick

fuzz: .venv/installed-dev
	$(BIN)/python -m tests.fuzz --seconds 600

wheel: .venv/installed-dev
	$(PIP) build
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf .venv dist build site

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing babelscope into .venv (once)"
	$(PIP) -e .
	@touch $@

.venv/installed-dev: .venv/installed pyproject.toml constraints.txt
	@echo "installing what the tests need into .venv (once)"
	$(PIP) -e '.[dev,eval,ray,app,browser]'
	@touch $@
