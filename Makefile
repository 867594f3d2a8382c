# Everything a developer or CI runs.  On Debian, run as root, each target installs the packages that it lacks.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
NATIVE := $(wildcard native/*.[ch] native/shim/*.[ch]) native/build.py
PYTEST_ARGS ?=
# Tests wait for other processes a good part of the time.
WORKERS ?= $(shell expr $$(nproc) + 1)
FUZZ_SECONDS ?= 60
CELLS ?= all
# Of `make mutate`: samples, changes in each, and how many are tried at the same time.
SEEDS ?= 1
COUNT ?= 150
JOBS ?= $(shell nproc)
MUTATE_ARGS ?=
PYTHON_TARGETS := worker serve derivation realisation machines config request greeting

.PHONY: all demo shells test unit faults chaos bench fuzz mutate sanitize lint native-check clean

all: $(VENV)/ready

# The virtual environment holds an editable install, so Python changes need no rebuild and C changes need one.
$(VENV)/ready: pyproject.toml setup.py $(NATIVE)
	PYTHON=$(PYTHON) .ci/packages $(PYTHON)=python3 gcc=gcc /usr/include/openssl/evp.h=libssl-dev \
	    /usr/include/stdio.h=libc6-dev python:ensurepip=python3-venv header:Python.h=python3-dev
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	@# What setuptools has to say about editable installs is worth reading only if it failed.
	$(RUN)/python -m pip install --quiet --upgrade pip 2>$(VENV)/log || { cat $(VENV)/log; exit 1; }
	$(RUN)/python -m pip install --quiet --editable '.[test]' >$(VENV)/log 2>&1 || { cat $(VENV)/log; exit 1; }
	touch $@

demo: $(VENV)/ready
	$(RUN)/python -m tests.lab.demo

# What completions are tested in.
shells:
	.ci/packages bash=bash fish=fish zsh=zsh

test: $(VENV)/ready shells lint native-check
	$(RUN)/python -m tests.lab.setup
	$(RUN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal --hook ferry --hook standalone $(PYTEST_ARGS)

# All of them have to reach the floor in pyproject.toml; a choice of them is not measured.
unit: $(VENV)/ready shells
	.ci/packages nix-store=nix-bin ssh=openssh-client ssh-keygen=openssh-client
	@mkdir -p build/coverage
	$(RUN)/python -m pytest --numprocesses $(WORKERS) \
	    $(if $(PYTEST_ARGS),-m 'not lab' $(PYTEST_ARGS),-m 'not lab and not no_cover' --cov --cov-report=term)
	$(if $(PYTEST_ARGS),,$(RUN)/python -m pytest -m 'not lab and no_cover')

# Every fault at every step of a session, in every way (or, with CELLS=once, in one way); `make test` runs one in four.
faults: $(VENV)/ready
	$(RUN)/python -m tests.lab.setup
	$(RUN)/python -m pytest --numprocesses $(WORKERS) --cells $(CELLS) tests/faults $(PYTEST_ARGS); \
	    status=$$?; $(RUN)/python -m tests.faults.report; exit $$status

# Ten minutes of random kills, where `make test` takes ten seconds.
chaos: $(VENV)/ready
	$(RUN)/python -m tests.lab.setup
	$(RUN)/python -m pytest -s --timeout 1500 --chaos 600x500 tests/lab/test_chaos.py $(PYTEST_ARGS)

# To be run when a command, its help or a key of ferry.toml has changed.
man: $(VENV)/ready
	$(RUN)/python -m man.make

native-check:
	$(MAKE) -C native check

bench: $(VENV)/ready
	$(RUN)/python -m tests.lab.setup
	$(RUN)/python -m pytest bench --benchmark-columns=min,median,iqr,rounds $(PYTEST_ARGS)
	$(RUN)/python -m bench.chart

# Guided by coverage, first what is in C, then what is in Python; finds of the latter stay in build/fuzz.
fuzz: $(VENV)/ready
	.ci/packages clang=clang
	$(MAKE) -C native fuzz SECONDS_EACH=$(FUZZ_SECONDS)
	$(RUN)/python -m pip install --quiet atheris
	@for target in $(PYTHON_TARGETS); do \
	    echo "fuzzing $$target"; mkdir -p build/fuzz/$$target; \
	    $(RUN)/python -m tests.fuzz $$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -artifact_prefix=build/fuzz/ \
	        build/fuzz/$$target || exit 1; \
	done

# Whether tests notice small changes to what matters most, each made in a copy; half an hour to an hour for each seed.
mutate: $(VENV)/ready
	.ci/packages nix-store=nix-bin ssh=openssh-client ssh-keygen=openssh-client
	$(RUN)/python -m pip install --quiet cosmic-ray universalmutator 'setuptools>=77'
	$(RUN)/python -m tests.mutate $(SEEDS:%=--seed %) --count $(COUNT) --jobs $(JOBS) $(MUTATE_ARGS)

# What CI has no time for: the Python tests on a module with sanitizers, and the C tests under valgrind.
sanitize: native-check shells
	.ci/packages valgrind=valgrind nix-store=nix-bin ssh=openssh-client ssh-keygen=openssh-client
	$(MAKE) -C native valgrind
	.ci/sanitize -q --numprocesses $(WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/python -m pytest bench --collect-only -qq

clean:
	rm -rf $(VENV) build dist *.egg-info hook/*.so native/_native.c
	$(MAKE) -C native clean
