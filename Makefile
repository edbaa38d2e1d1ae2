# Everything that is claimed of pyrox is run from here. The virtual environment is made
# when it is first needed; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin
PIP    := $(RUN)/python -m pip --disable-pip-version-check --quiet

# The threads of OpenBLAS get in each other's way on small matrices (README, limits).
export OPENBLAS_NUM_THREADS ?= 1

PYTEST := $(RUN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder $(COV)

.PHONY: help demo test test-exhaustive test-all fuzz lint types wheel notebooks bench clean

help:
	@echo "make demo       sample posterior functions of the motorcycle data; writes pyrox-demo.png"
	@echo "make test       whether pyrox works, in minutes"
	@echo "make test-all   every test: also long statistics, all kernels under all transforms, notebooks"
	@echo "make fuzz       random problems against dense references, N=1000 in both float widths"
	@echo "make lint       ruff: style and format"
	@echo "make types      basedpyright over the package and the tests"
	@echo "make wheel      build the wheel and use it in an empty environment"
	@echo "make notebooks  execute the notebooks in place"
	@echo "make bench      time everything against GPJax, BoTorch and PyMC, compare accuracy; writes benchmarks/*"
	@echo "make clean      remove the virtual environment and all that was built"

$(RUN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "pyrox needs Python 3.11 or newer. Got $$($(PYTHON) --version). Run: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Making the virtual environment $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Could not make it. On Debian and Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/.package: pyproject.toml | $(RUN)/python
	@echo "Installing pyrox and what it needs (JAX, NumPyro, ...): about a minute ..."
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.package
	@echo "Installing the tools of the tests ..."
	@$(PIP) install --editable '.[test]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.test
	@echo "Installing the tools of development ..."
	@$(PIP) install --editable '.[dev]'
	@touch $@

demo: $(VENV)/.package
	@$(RUN)/python -m pyrox

test: $(VENV)/.test
	@echo "Running the tests: a few minutes ..."
	@$(PYTEST) -m "not exhaustive"

# What `make test` leaves out.
test-exhaustive: $(VENV)/.test
	@$(PYTEST) -m exhaustive

# Both, and the lines that they reach; to count these takes a seventh longer.
test-all: $(VENV)/.test
	@$(MAKE) --no-print-directory test COV="--cov=pyrox --cov-report="
	@$(MAKE) --no-print-directory test-exhaustive COV="--cov=pyrox --cov-append --cov-report=term-missing:skip-covered --cov-fail-under=98"

N ?= 1000
fuzz: $(VENV)/.test
	$(RUN)/python tests/fuzz/run.py $(N)

lint: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/.dev
	$(RUN)/basedpyright

wheel: | $(RUN)/python
	rm -rf build
	$(PIP) wheel --no-deps --wheel-dir build .
	$(PYTHON) -m venv build/empty
	build/empty/bin/python -m pip --disable-pip-version-check --quiet install build/*.whl
	cd build && empty/bin/python -m pyrox --samples 50 --warmup 50 --paths 40 --out demo.png

notebooks: $(VENV)/.test
	$(RUN)/python tests/test_notebooks.py

# torch first and by itself, so that pip takes the CPU build where an index offers one.
$(VENV)/.bench: pyproject.toml | $(VENV)/.package
	@echo "Installing the libraries to compare with ..."
	@$(PIP) install torch==2.13.0
	@$(PIP) install --editable '.[bench]'
	@touch $@

bench: $(VENV)/.bench
	$(RUN)/python -m benchmarks --sweeps --out benchmarks
	$(RUN)/python -m benchmarks.gram --out benchmarks
	$(RUN)/python -m benchmarks.accuracy --out benchmarks
	$(RUN)/python -m benchmarks.gradients
	$(RUN)/python -m benchmarks.gradients --pymc
	$(RUN)/python -m benchmarks.fit --out benchmarks
	$(RUN)/python -m benchmarks.thompson paths --keep build/thompson --out benchmarks
	$(RUN)/python -m benchmarks.thompson regret --keep build/thompson --out benchmarks
	$(RUN)/python -m benchmarks.thompson rounds --out benchmarks
	$(RUN)/python -m benchmarks.thompson many --out benchmarks
	$(RUN)/python -m benchmarks.thompson batches --out benchmarks
	$(RUN)/python -m benchmarks.likelihoods optimum
	$(RUN)/python -m benchmarks.likelihoods time
	$(RUN)/python -m benchmarks.likelihoods minibatch

clean:
	rm -rf $(VENV) build dist
