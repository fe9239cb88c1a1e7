# Each target does its own set-up: the first call builds .venv, later calls reuse it.
#
#   make demo         search on the embedded model and write a report
#   make test         run the tests
#   make test-matrix  run the engine's tests on old and new transformers, each in an environment of its own
#   make coverage     run them and say which lines they run; under 90 % fails
#   make soak         for hours: kill searches, fuzz readers, break the product on purpose
#   make docs         build the documentation site in site/
#   make lint         style, types and the floors of the house
#   make clean        remove environments, build products and caches; runs/ stays

# The first interpreter that starts, is new enough and can build a virtual environment.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
BIN := .venv/bin
READY := .venv/.ready

# The oldest version of transformers that pyproject.toml allows, one from the middle, and the tested one. For a single
# one: make test-matrix TRANSFORMERS=5.4.0
NEWEST := $(shell sed -n 's/^transformers==//p' constraints.txt)
TRANSFORMERS := 5.4.0 5.16.1 $(NEWEST)
MATRIX_TESTS := tests/engine tests/testing tests/evaluation tests/selectors

# Threads that wait for work sleep instead of spinning: on shared cores spinning costs more than waking up.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test coverage test-matrix soak docs lint clean

# The demo starts from nothing: the runs/demo of an earlier call is removed, because a search does not write into a
# finished run. Other runs are not touched.
demo: $(READY)
	rm -rf runs/demo
	$(BIN)/vispco search experiment=demo
	@test -s runs/demo/report.html && echo "Report: $(CURDIR)/runs/demo/report.html"

# Tests never reach for the network, and many tiny kernels run faster on one thread; cores are for several tests.
test coverage test-matrix: export HF_HUB_OFFLINE = 1
test coverage test-matrix: export TRANSFORMERS_OFFLINE = 1
test coverage test-matrix: export WANDB_MODE = offline
test coverage test-matrix: export OMP_NUM_THREADS = 1
PYTEST = $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
test: $(READY)
	$(PYTEST)

# Counting lines takes a third more time than the tests alone.
coverage: $(READY)
	$(PYTEST) --cov

# One line per version, every version even if one fails; the whole log only of those that fail.
test-matrix: $(TRANSFORMERS:%=.venv-%/.ready)
	@status=0; for version in $(TRANSFORMERS); do \
		log=.venv-$$version/tests.log; \
		.venv-$$version/bin/python -m pytest --quiet $(MATRIX_TESTS) >$$log 2>&1 || { status=1; cat $$log; }; \
		echo "transformers $$version: $$(tail -n 1 $$log)"; \
	done; exit $$status

# Searches killed at random moments and steps of writing, a million damaged inputs, faults that tests have to notice.
soak: export OMP_NUM_THREADS = 1
soak: $(READY)
	$(BIN)/python tests/killing.py --kills 200
	$(BIN)/python tests/fuzzing.py --inputs 1000000
	$(BIN)/python tests/redden.py
	$(BIN)/python tests/mutation.py schedule cost lagrangian frontier engine

# A link that leads nowhere or a page without a place in the navigation fails. The variable silences an advertisement.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "Site: $(CURDIR)/site/index.html"

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .venv-* build dist site .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find vispco tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

define create-environment
	@test -n "$(PYTHON)" || \
		{ echo "No Python >= 3.11 with venv found; install one, or name it: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(@D)
endef
PIP_INSTALL = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check

$(READY): pyproject.toml constraints.txt
	$(create-environment)
	$(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@

# Another transformers asks for another hub and tokenizers than the tested one; everything else stays the tested set.
.venv-%/.ready: pyproject.toml constraints.txt
	$(create-environment)
	sed -E '$(if $(filter-out $(NEWEST),$*),/^(transformers|huggingface_hub|tokenizers)==/d)' constraints.txt \
		>$(@D)/constraints.txt
	$(PIP_INSTALL) -c $(@D)/constraints.txt 'transformers==$*' -e '.[test]'
	@touch $@
