# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
READERS := .venv-readers
READERS_BIN := $(READERS)/bin
READERS_PIP := $(READERS_BIN)/python -m pip --disable-pip-version-check
READERS_STAMP := $(READERS)/.installed

.PHONY: setup demo test test-fast axe readers check clean

setup: $(STAMP)

# Installed once; again only when what is installed changes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v.major}.{v.minor}; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: $(STAMP)
	@rm -rf runs/demo
	$(BIN)/ntt-ray demo --output runs/demo

# Two at once, file by file, the longest first: much of a test is waiting for processes to start.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
test: $(STAMP) axe
	$(PYTEST)

# What needs neither Ray nor a browser, breaks nothing on purpose and is not marked slow.
test-fast: $(STAMP)
	NTT_RAY_FUZZ=10 $(PYTEST) -m "not ray and not slow and not faults and not browser"

# axe-core (MPL-2.0), with which the browser tests look at the pages: one file of a package that
# carries it. Where it cannot be had, these tests are skipped and say so.
AXE := .axe/axe_playwright_python-0.1.8.dist-info
axe: $(STAMP)
	@test -d $(AXE) || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .axe axe-playwright-python==0.1.8 || echo "axe-core cannot be fetched: tests that need it will be skipped"

# The tools that read merged files, each on each file: docs/outputs.md. Their environment sees the
# packages of the main one behind its own, so torch is not installed twice; eight at a time fetch
# what is left, because most of it is waiting.
readers: $(READERS_STAMP)
	$(READERS_BIN)/python -m pytest tests/readers $(TABLE)

SITE_PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(READERS_STAMP): constraints-readers.txt $(STAMP)
	rm -rf $(READERS)
	$(BIN)/python -m venv --without-pip $(READERS)
	$(BIN)/python $(SITE_PACKAGES) > "$$($(READERS_BIN)/python $(SITE_PACKAGES))/main.pth"
	grep -v '^#' constraints-readers.txt | xargs -P 8 -n 16 $(READERS_PIP) wheel --quiet --no-deps --wheel-dir $(READERS)/wheels
	$(READERS_PIP) install --quiet --no-index --no-deps --no-compile $(READERS)/wheels/*.whl
	rm -r $(READERS)/wheels
	touch $@

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

clean:
	rm -rf $(VENV) $(READERS) .axe build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
