# `make` checks everything quick; `make demo` and `make test` set themselves up on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
PACKAGES = packages/core[timm] packages/segmentation packages/detection[faster] packages/augment packages/accel cli[demo]
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
# Processes that share the tests; each takes a core and up to 2 GB, of the slow ones up to 8.
JOBS ?= 2

.PHONY: check demo test test-slow lint types fix golden clean

check: lint types test

$(INSTALLED): constraints.txt requirements-dev.txt $(wildcard packages/*/pyproject.toml) cli/pyproject.toml
	@echo "setting up $(VENV): a few minutes and, where there is no torch yet, a few gigabytes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-dev.txt $(addprefix -e ,$(PACKAGES))
	@touch $@

demo: $(INSTALLED)
	$(BIN)/selftrain demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow -n $(JOBS) --maxschedchunk 1

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(INSTALLED)
	$(BIN)/mypy

fix: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Writes the golden numbers anew, of which the changelog says why, and the configuration reference.
golden: $(INSTALLED)
	SELFTRAIN_REGENERATE=1 $(BIN)/python -m pytest tests/segmentation/test_golden.py tests/detection/test_golden.py tests/cli/test_reference.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-run
