# Two commands do everything: `make demo` and `make test`. The rest is for developers.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# One pinned thread beats two contended ones (docs/benchmarks.md).
QUIET := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: notebooks demo test test-nightly test-fast test-kernels test-shapes coverage calibration mutants lint types docs docs-version bench wheel clean fuzz faults audit \
  test-oldest test-newest test-pythons

demo: .venv/installed
	$(BIN)/babelscope demo --out runs/demo --overwrite

test: .venv/installed-dev
	$(QUIET) $(BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder -m "not nightly"

# nightly: tests that repeat by another family or seed what a test of the day shows, and those that start a cluster
test-nightly: .venv/installed-dev
	$(QUIET) $(BIN)/python -m pytest -q -n 2 --dist loadfile -m nightly

# the inner loop: formulas, readers, files, the command line; no training, no browser, no Ray
FAST := tests/test_statistics_spec.py tests/test_regions_similarity.py tests/test_regions_localisation.py \
  tests/test_languages.py tests/test_results.py tests/test_findings.py tests/test_surface.py tests/test_steps.py
test-fast: .venv/installed-dev
	$(QUIET) $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not browser and not ray" $(FAST)

# the numeric tests as a processor without AVX runs them
KERNELS := tests/test_regions_recording.py tests/test_circuits_ablation.py tests/test_circuits_patching.py \
  tests/test_regions_deactivation.py tests/test_models.py
test-kernels: .venv/installed-dev
	ATEN_CPU_CAPABILITY=default $(QUIET) $(BIN)/python -m pytest -q -n 2 --dist loadfile $(KERNELS)

# nightly: the tests with types and shapes checked at every call (tests/shapes.py); in commands that run in processes of
# their own nothing is checked
test-shapes: .venv/installed-dev
	$(QUIET) $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not nightly and not browser and not ray" \
	  --jaxtyping-packages=babelscope,tests.shapes.checked

# nightly: which lines no test runs
coverage: .venv/installed-dev
	$(PIP) 'coverage>=7.6'
	$(QUIET) $(BIN)/coverage run --source src/babelscope --branch -m pytest -q -m "not browser and not ray"
	$(BIN)/coverage report --skip-covered --sort cover

# nightly: wrong numbers on purpose. Named ones, each with its test; then, drawn at random, EACH of every package
EACH ?= 60
mutants: .venv/installed-dev
	$(PIP) -e '.[mutants]'
	$(QUIET) $(BIN)/python -m tests.mutants
	$(QUIET) $(BIN)/python -m tests.mutation --each $(EACH)

lint: .venv/installed-dev
	$(BIN)/ruff check src tests benchmarks pocket_factory
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/python .ci/names src tests benchmarks docs pocket_factory
	PYTHONPATH=src $(BIN)/lint-imports
	$(BIN)/deptry src

types: .venv/installed-dev
	$(BIN)/pyright

docs: .venv/installed-dev
	$(PIP) -e '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

# nightly: the six notebooks from top to bottom, held against the outputs that are committed
notebooks: .venv/installed-dev
	$(PIP) -e '.[notebooks]'
	$(QUIET) $(BIN)/python docs/make_notebooks.py --check

# This release's pages beside those of earlier ones (docs/version.py).
docs-version: .venv/installed-dev
	$(PIP) -e '.[docs]'
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/version.py site

bench: .venv/installed-dev
	$(QUIET) $(BIN)/python -m benchmarks

bench-gate: .venv/installed-dev
	$(QUIET) $(BIN)/python -m benchmarks --gate --quick

# nightly: ten minutes for each reader, guided by coverage where atheris can be installed
fuzz: .venv/installed-dev
	-$(PIP) -e '.[fuzz]'
	$(QUIET) $(BIN)/python -m tests.fuzz --seconds 600 --jobs 2

# nightly: every command that writes, killed at forty of its own moments, by name and by the clock
faults: .venv/installed-dev
	$(QUIET) BABELSCOPE_FAULTS=40 $(BIN)/python -m pytest -q tests/test_faults_*.py --timeout 7200

# nightly: how often every kind of interval holds the truth, a thousand runs each, and false calls of a circuits study
calibration: .venv/installed-dev
	$(QUIET) $(BIN)/python -m benchmarks.coverage
	$(QUIET) $(BIN)/python -m benchmarks.circuit_calls

audit:
	$(PYTHON) .ci/audit constraints.txt

# the lower bounds of pyproject.toml, and whatever the registry offers today
test-oldest:
	bash .ci/versions oldest

test-newest:
	bash .ci/versions newest

# the exact versions under every other Python that is here (pyenv's, or the system's)
test-pythons:
	for python in $(wildcard $(HOME)/.pyenv/versions/3.1[23].*/bin/python3) ; do bash .ci/versions exact $$python || exit 1 ; done

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
