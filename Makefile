# Each target does its own set-up: the first call builds .venv, later calls reuse it.
#
#   make demo    search on the embedded model and write a report
#   make test    run the tests
#   make lint    style, types and the floors of the house
#   make clean   remove .venv, build products and caches; runs/ stays

# The first interpreter that starts, is new enough and can build a virtual environment.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; \
	done)
BIN := .venv/bin
READY := .venv/.ready

# Threads that wait for work sleep instead of spinning: on shared cores spinning costs more than waking up.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint clean

# The demo starts from nothing: the runs/demo of an earlier call is removed, because a search does not write into a
# finished run. Other runs are not touched.
demo: $(READY)
	rm -rf runs/demo
	$(BIN)/vispco search experiment=demo
	@test -s runs/demo/report.html && echo "Report: $(CURDIR)/runs/demo/report.html"

# Tests never reach for the network, and many tiny kernels run faster on one thread.
test: export HF_HUB_OFFLINE = 1
test: export TRANSFORMERS_OFFLINE = 1
test: export WANDB_MODE = offline
test: export OMP_NUM_THREADS = 1
test: $(READY)
	$(BIN)/python -m pytest --cov

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv build dist .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find vispco tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || \
		{ echo "No Python >= 3.11 with venv found; install one, or name it: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
