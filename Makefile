# `make demo` installs what the command needs, `make test` what the tests need besides. A second call
# installs nothing.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed-command
TESTS_INSTALLED := .venv/.installed-tests
# Asks PyPI what is known of the installed versions; where the network does not let it, it fails nothing.
AUDIT := $(BIN)/pip-audit --skip-editable --progress-spinner off --timeout 10

# Libraries that read our exports, which need other versions than the project.
READERS := .venv/readers/.installed

.PHONY: demo readers installed compiled test test-fast faults lint style types audit bench clean

demo: $(INSTALLED)
	$(BIN)/maskformer demo

# A file of tests at a time for each process, in the order of tests/conftest.py: the longest first.
# A process more than there are cores is no faster: what tests start needs the cores too. One that
# dies ends the run, whose last tests would otherwise wait for it.
SHARED_OUT := -n logical --maxprocesses 4 --max-worker-restart 0 --dist loadfile \
	--no-loadscope-reorder --durations=40

readers: $(READERS)

# Both environments; with `make --jobs=2` at once, since pip uses one core.
installed: $(TESTS_INSTALLED) $(READERS)

# Jobs of tests start hundreds of processes, each of which would compile what is not compiled yet
# where PYTHONDONTWRITEBYTECODE keeps it from being stored.
compiled: $(TESTS_INSTALLED)
	$(BIN)/python -m compileall -q maskformer pipeline jobs

test: installed compiled
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(SHARED_OUT)

# The data side, metrics and losses: no cluster and no large model, three minutes on two cores.
FAST := tests/pipeline/corpora tests/pipeline/data_sets tests/pipeline/storage tests/pipeline/table \
	tests/pipeline/planning tests/pipeline/runtime tests/pipeline/maintenance tests/pipeline/test_imports.py \
	tests/maskformer/run_lengths tests/maskformer/metrics \
	tests/maskformer/test_loss.py

test-fast: compiled
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest $(SHARED_OUT) $(FAST)

# What takes long to go wrong. Writes tests/faults/MEASURED.md.
faults: $(TESTS_INSTALLED)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m faults $(SHARED_OUT) --figures tests/faults/MEASURED.md

lint: style types audit

# Caches lie in .venv, since jobs of tests pack the checkout meanwhile.
style: $(TESTS_INSTALLED)
	$(BIN)/ruff check --cache-dir .venv/.ruff_cache .
	$(BIN)/ruff format --cache-dir .venv/.ruff_cache --check .

types: $(TESTS_INSTALLED)
	$(BIN)/mypy --cache-dir .venv/.mypy_cache

audit: $(TESTS_INSTALLED)
	@$(AUDIT) > .venv/audit.txt 2>&1 || ! grep "known vulnerabilit" .venv/audit.txt || (cat .venv/audit.txt; false)

# One at a time: each measures both sides on all cores. Writes tests/benchmarks/MEASURED.md.
bench: $(TESTS_INSTALLED)
	$(BIN)/python tests/benchmarks/run_all.py

INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable

# pip would compile one file after another. This uses all cores and leaves out what nobody imports;
# packages hold files for other versions of Python, over which it fails.
COMPILE := -m compileall -qq -j 0 \
	-x '/tests/|/ray/rllib/|/transformers/models/(?!auto|detr|maskformer|resnet|swin)'

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) .
	$(BIN)/python $(COMPILE) .venv/lib || true
	touch $@

$(TESTS_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[test]'
	$(BIN)/python $(COMPILE) .venv/lib || true
	touch $(INSTALLED) $@

# The list is complete, so that pip has nothing to resolve.
$(READERS): tests/readers/requirements.txt
	$(PYTHON) -m venv .venv/readers
	.venv/readers/bin/python -m pip install --quiet --no-compile --no-deps --requirement $<
	.venv/readers/bin/python $(COMPILE) .venv/readers/lib || true
	touch $@

clean:
	rm -rf .venv demo
