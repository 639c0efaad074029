# Everything from a bare clone, with Python and make alone:
#
#   make test    the tests, but for long runs    make demo    demo-report.html from real photographs
#   make long    the long runs                    make chaos  what may befall a cluster, long
#   make lint    style, types, layers            make check   lint, then test
#   make bench   the measured numbers            make clean   remove what the others made
#   make gpu     the tests that need a GPU    make bench-gpu   its rates, roofline and peers
#   make bench-quick   ratios to scikit-learn at four points, in a minute
#
# PYTHON=python3.13 chooses the interpreter, VENV=... the environment, ARGS="-k storage" what to run.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
CUDA   ?= cuda12

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# Most of what is installed is never imported: what is gets compiled then, at half the cost.
INSTALL := $(PIP) install --no-compile
# Extras that others hold: they are installed with them.
HELD_BY_dev := test demo
HELD_BY_test := demo

.DEFAULT_GOAL := help
.PHONY: help demo test long chaos lint check gpu bench bench-gpu bench-quick clean

help:
	@sed -n '1,/^$$/ s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.installed-demo
	$(BIN)/dgmm demo $(ARGS)

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m 'not slow' $(ARGS)

long: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m slow $(ARGS)

# As root, the parts that mount a small disk and cut a network run as well.
chaos: $(VENV)/.installed-test
	$(BIN)/python -m tests.chaos $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

gpu: $(VENV)/.installed-test $(VENV)/.installed-$(CUDA)
	$(BIN)/python -m pytest -m gpu tests/gpu tests/numerics $(ARGS)

bench-gpu: $(VENV)/.installed-test $(VENV)/.installed-$(CUDA)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks $(ARGS)

# A report of ratios, never a reason to fail.
bench-quick: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks.guard

clean:
	rm -f demo-report.html demo-report.safetensors
	rm -rf $(VENV) .venv-newest .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp for each extra: the second call installs nothing, a changed pyproject.toml installs again.
$(VENV)/.installed-%: pyproject.toml dgmm/__init__.py | $(BIN)/python
	@echo "installing dgmm[$*] into $(VENV)"
	@$(INSTALL) --editable '.[$*]'
	@touch $@ $(HELD_BY_$*:%=$(VENV)/.installed-%)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"dgmm needs Python 3.11 or newer; {sys.executable} is {v[0]}.{v[1]} (make PYTHON=python3.13 ...)")'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)
