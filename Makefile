# make train | chat | serve | check | test | test-slow | fuzz | bench | install | install-tpu | lock | lint
# The newest interpreter that runs and can make an environment: a shim may be found and only fail.
ifeq ($(PYTHON),)
override PYTHON := $(shell for python in python3.13 python3.12 python3.11; do \
  $$python -c 'import ensurepip, venv' >/dev/null 2>&1 && { echo $$python; exit; }; done; echo python3)
endif
VENV := .venv
BIN := $(VENV)/bin
RUN ?= runs/prernk

.PHONY: help install install-tpu train chat serve check test test-slow fuzz bench lint lock clean
help:
	@echo "make train      install, then train PRERNK on the State of the Union speeches (4 minutes)"
	@echo "make chat       talk to the model of make train in this terminal"
	@echo "make serve      serve it, with a page to talk to it, at http://127.0.0.1:8000"
	@echo "make check      lint, and a smoke test of each room: a minute"
	@echo "make test       install, then run the tests: ten minutes on two cores"
	@echo "make test-slow  the long tests as well (20 random kills, ...)"
	@echo "make fuzz       10,000 inputs for each reader, tokenizer, config and file of a run: two hours"
	@echo "make bench      model-FLOPs utilization of the training step"
	@echo "make install    create $(VENV) and install the locked requirements"
	@echo "make lint       ruff"
	@echo "options: PYTHON=python3.12 (else the newest of 3.13, 3.12, 3.11 that works), RUN=runs/name"

# The interpreter is part of the stamp's name: another PYTHON makes the environment anew.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
STAMP := $(VENV)/.installed-$(VERSION)

$(STAMP): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: $(PYTHON) is Python $(VERSION); 3.11 to 3.13 is needed, e.g. make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(STAMP)

# libtpu lies beside the environment, not in it: inside, every start of JAX would look for a TPU.
TPU := $(VENV)/tpu/.installed
$(TPU): $(STAMP) requirements-tpu.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps --target $(VENV)/tpu -r requirements-tpu.lock
	@touch $@

install-tpu: $(TPU)

train: install
	$(BIN)/python -m train --config=configs/prernk.py --workdir=$(RUN)

TRAINED := test -d $(RUN) || { echo "error: no run in $(RUN); make train first, or give RUN=runs/name"; exit 2; }
chat: install
	@$(TRAINED)
	$(BIN)/python -m eval.chat --workdir=$(RUN)

serve: install
	@$(TRAINED)
	$(BIN)/python -m eval.serve --workdir=$(RUN)

# One quick test of each room.
SMOKE := tests/test_architecture.py tests/ops/test_losses.py tests/ops/common/test_triangular.py \
  "tests/cells/test_conformance.py::test_registered_cells[rwkv4]" tests/data/tokenizers \
  tests/train/optim/test_build.py tests/train/test_config.py tests/eval/test_document.py
check: lint
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest $(SMOKE)

test: install install-tpu
	$(BIN)/python -m pytest

test-slow: install install-tpu
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m "slow or not slow"

fuzz: install
	$(BIN)/python -m tests.fuzz
	@if $(BIN)/python -c 'import atheris' 2>/dev/null; then $(BIN)/python -m tests.fuzz.guided; fi

bench: install
	$(BIN)/python -m eval.bench

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One file for Python 3.11 to 3.13 (environment markers), and libtpu alone, as that JAX asks for it.
COMPILE = $(BIN)/uv pip compile -q --universal --python-version 3.11 --no-header --no-annotate
lock: install
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --extra train --extra corpus --extra serve --extra text --extra test --extra dev setup.cfg -o requirements.lock
	$(COMPILE) --extra tpu -c requirements.lock setup.cfg | grep '^libtpu' > requirements-tpu.lock

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache
