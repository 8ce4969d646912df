# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
READERS := .venv-readers
READERS_BIN := $(READERS)/bin
READERS_PIP := $(READERS_BIN)/python -m pip --disable-pip-version-check
READERS_STAMP := $(READERS)/.installed
TOOLS := .venv-tools
TOOLS_BIN := $(TOOLS)/bin
TOOLS_STAMP := $(TOOLS)/.installed
OLDEST := .venv-oldest
OLDEST_BIN := $(OLDEST)/bin
OLDEST_STAMP := $(OLDEST)/.installed

.PHONY: setup demo test test-fast axe readers check docs dist oldest pythons clean

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

# The documentation site, in build/site; a link or a heading that is not there fails.
docs: $(TOOLS_STAMP)
	$(TOOLS_BIN)/python -m tests.support.site_pages
	$(TOOLS_BIN)/zensical build --strict --clean

# What a release is: built, checked, installed where nothing else is, and its example run. Minutes.
dist: $(TOOLS_STAMP)
	$(TOOLS_BIN)/python .ci/release.py

$(TOOLS_STAMP): constraints-tools.txt
	rm -rf $(TOOLS)
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS_BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-tools.txt
	touch $@

# The lower bounds of pyproject.toml: the method against the paper's code, and the job from end to
# end, with the oldest versions that they allow. Installs torch a second time.
oldest: $(OLDEST_STAMP)
	$(OLDEST_BIN)/python -m pytest -p no:cacheprovider tests/method/test_golden.py tests/run/test_job.py

$(OLDEST_STAMP): pyproject.toml constraints-oldest.txt
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST_BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-oldest.txt --editable ".[dev]"
	touch $@

# The fast tests on every Python that is allowed and is here; each has an environment of its own.
PYTHONS := 3.11 3.12 3.13
pythons:
	@for version in $(PYTHONS); do \
		if python$$version --version >/dev/null 2>&1; then \
			$(MAKE) --no-print-directory test-fast PYTHON=python$$version VENV=.venv-$$version || exit 1; \
		else echo "python$$version is not here: left out"; fi; \
	done

clean:
	rm -rf $(VENV) $(READERS) $(TOOLS) $(OLDEST) $(PYTHONS:%=.venv-%) .axe build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
