# Every check of the project, by one command each. They need python3 (3.11 or later) with venv, make and a C compiler,
# and install all else into virtual environments of this folder.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test test-all lint typecheck test-peers test-cuda gpu bench bench-record bench-html clean

PYTHON ?= python3
VENV ?= .venv
PEERS_VENV := .venv-peers
CUDA_VENV := .venv-cuda
BIN := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
IN_VENV = $(VENV)/$(BIN)/python

# Tests of compiled code that are quick uncompiled too. Threads and products of matrices have stand-ins there.
KERNEL_TESTS := tests/formulas tests/test_buffers.py tests/test_kernels.py tests/test_memory.py \
	$(patsubst %,tests/optimizers/test_%.py,adam adaptive base family lion row_adam settings sgd) \
	$(patsubst %,tests/cpu/test_%.py,arrays dropout element gradients layers losses matmul minifloat network pointers \
	rows step stepper storage update vector_math views)

help:
	@echo "make demo          train on real data, and draw the figures"
	@echo "make test          the tests in minutes: cases chosen of each kind; and the kernels as plain Python"
	@echo "make test-all      every case of every test; the kernels as plain Python, with coverage, and with bounds checks"
	@echo "make test-peers    the tests against PyTorch, JAX and Optax, in $(PEERS_VENV)"
	@echo "make test-cuda     the CUDA kernels without a GPU: simulated, and compiled; in $(CUDA_VENV)"
	@echo "make gpu NAME=name    on a GPU: its tests and its benchmark, recorded in bench/results for git"
	@echo "make lint          ruff"
	@echo "make typecheck     mypy"
	@echo "make bench         every benchmark on the working tree; results of machine \"unnamed\", which git ignores"
	@echo "make bench-record MACHINE=name   the benchmarks of the last commit, recorded in bench/results for git"
	@echo "make bench-html    the recorded results as web pages"
	@echo "make clean         remove all that these made"

# A virtual environment gets one stamp for each extra it holds. An edit of pyproject.toml makes them all stale.
define install
test -x $(@D)/$(BIN)/python || $(PYTHON) -m venv $(@D)
$(@D)/$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
touch $@
endef

$(VENV)/.installed-%: pyproject.toml
	$(install)

$(PEERS_VENV)/.installed-%: pyproject.toml
	$(install)

$(CUDA_VENV)/.installed-%: pyproject.toml
	$(install)

demo: $(VENV)/.installed-demo
	$(IN_VENV) examples/demo.py

# Compiled first, then the kernels as plain Python, whose errors name a line.
test: $(VENV)/.installed-test
	$(IN_VENV) -m pytest
	NUMBA_DISABLE_JIT=1 $(IN_VENV) -m pytest $(KERNEL_TESTS)

# The second passage counts the lines of the kernels, which compiled code hides; pyproject.toml says how many must run. The
# third has a cache of its own, since kernels compiled with bounds checks are other kernels.
test-all: $(VENV)/.installed-test
	$(IN_VENV) -m pytest --full
	NUMBA_DISABLE_JIT=1 NUMBA_ENABLE_CUDASIM=1 $(IN_VENV) -m coverage run -m pytest --full $(KERNEL_TESTS) -m "not slow"
	$(IN_VENV) -m coverage report
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/cache-boundscheck \
		$(IN_VENV) -m pytest --full $(KERNEL_TESTS) -m "not slow"

# Without the imports, a peer that failed to install would only skip its tests.
test-peers: $(PEERS_VENV)/.installed-test $(PEERS_VENV)/.installed-peers
	$(PEERS_VENV)/$(BIN)/python -c "import jax, optax, torch"
	$(PEERS_VENV)/$(BIN)/python -m pytest --full -m peers

# The simulator replaces the compiler for a whole process, so each has one of its own.
CUDA_IN_VENV := $(CUDA_VENV)/.installed-cuda $(CUDA_VENV)/.installed-cuda-test

test-cuda: $(CUDA_IN_VENV)
	NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1 $(CUDA_VENV)/$(BIN)/python -m pytest --full tests/cuda
	NUMBA_ENABLE_CUDASIM=1 $(CUDA_VENV)/$(BIN)/python -m pytest --full tests/project/test_docstrings.py -k cuda
	$(CUDA_VENV)/$(BIN)/python -m pytest --full tests/cuda --capture=no

# The tests of a real GPU, and its benchmark of ten minutes, which runs whatever the tests find: make gpu NAME=h100
gpu: $(CUDA_IN_VENV) $(CUDA_VENV)/.installed-gpu
	@test -n "$(NAME)" || { echo "name the GPU: make gpu NAME=h100"; exit 1; }
	$(CUDA_VENV)/$(BIN)/python -c "from fastadam.cuda.jit import require_device; require_device()"
	$(CUDA_VENV)/$(BIN)/python -m pytest --full tests/cuda/test_device.py; tested=$$?; \
	$(CUDA_VENV)/$(BIN)/python -m bench.gpu $(NAME) && exit $$tested

lint: $(VENV)/.installed-dev
	$(IN_VENV) -m ruff check
	$(IN_VENV) -m ruff format --check
	$(VENV)/$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

typecheck: $(VENV)/.installed-dev
	$(IN_VENV) -m mypy

# `make bench VENV=.venv-peers`, after `make test-peers`, measures against PyTorch and JAX as well.
bench: $(VENV)/.installed-bench
	$(IN_VENV) -m asv machine --yes --machine unnamed
	$(IN_VENV) -m asv check --python=same
	$(IN_VENV) -m asv run --python=same --machine unnamed --quick --show-stderr \
		--set-commit-hash $$(git rev-parse HEAD)

# Of the commit, not of the working tree: asv builds it and installs it beside the peers that asv.conf.json pins.
bench-record: $(VENV)/.installed-bench
	@test -n "$(MACHINE)" || { echo "name the machine: make bench-record MACHINE=name"; exit 1; }
	$(IN_VENV) -m asv machine --yes --machine "$(MACHINE)"
	$(IN_VENV) -m asv run --machine "$(MACHINE)" --show-stderr "HEAD^!"

bench-html: $(VENV)/.installed-bench
	$(IN_VENV) -m asv publish

clean:
	rm -rf $(VENV) $(PEERS_VENV) $(CUDA_VENV) .asv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage build dist figures
