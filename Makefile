# make run    run the embedded default program            make build  compile in place, for iterating
# make test   lint, types, tests compiled and interpreted  make wheel  dist/*.whl and the source archive
# make docs   the documentation, build/docs/index.html
# make studies     measure again what the documentation's pages of studies show
# make programs    build anew what is committed as built: the default program (needs gcc for x86)
# make clean  remove all that make made

PYTHON ?= python3
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal
SOURCES := $(shell find src -name '*.py' -o -name '*.pxd')
CONSTANTS := $(patsubst %.py,%.pxd,$(wildcard src/shadowmmu/*/bits.py src/shadowmmu/x86/vmx.py))
MODULES = $(words $(filter-out $(CONSTANTS) %/types.pxd,$(filter %.pxd,$(SOURCES))))

# what one process has compiled to bytecode, others need not: the tests start many
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test lint build docs wheel clean programs studies

run: $(VENV)/.installed
	@echo "running the tour: a guest kernel that tries each mechanism in every paging mode"
	@$(BIN)/shadowmmu run

test:
	@$(MAKE) --no-print-directory --jobs=2 build docs lint
	SHADOWMMU_REQUIRE_NATIVE=1 $(PYTEST)
	SHADOWMMU_INTERPRETED=1 $(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src

build: $(VENV)/.compiled

docs: $(VENV)/.dev
	$(BIN)/python -m sphinx -q -W -b html -d build/doctrees docs build/docs
	$(BIN)/python docs/check_links.py build/docs

wheel: $(VENV)/.dev
	SHADOWMMU_REQUIRE_NATIVE=1 $(BIN)/python -m build

studies: $(VENV)/.compiled
	$(BIN)/python docs/_ext/stored_studies.py $(NAMES)

programs:
	$(MAKE) -C src/shadowmmu/guest/pc/programs/tour
	$(MAKE) -C tests/guest/pc/guests
	$(MAKE) -C tests/guest/linux/guests

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src -name '*.so' -delete
	rm -f $(CONSTANTS)

# The install is editable: the modules are compiled beside their sources, which the interpreted mode reads.
$(VENV)/.installed: $(SOURCES) $(CONSTANTS) pyproject.toml setup.py | $(VENV)/.created
	@if $(has_compiler); then echo "installing, and compiling $(MODULES) modules: about a minute"; else \
	    echo "warning: $(needs_compiler); without one all runs interpreted (once it is there: make clean)" >&2; \
	    echo "installing"; fi
	@$(PIP) install --editable . || { echo "$(needs_network)" >&2; exit 1; }
	@touch $@

$(VENV)/.dev: pyproject.toml setup.py | $(VENV)/.created
	@$(has_compiler) || { echo "$(needs_compiler)" >&2; exit 1; }
	@echo "installing the development tools"
	@SHADOWMMU_INTERPRETED=1 $(PIP) install --editable '.[dev]' || { echo "$(needs_network)" >&2; exit 1; }
	@touch $@

$(VENV)/.compiled: $(VENV)/.dev $(SOURCES) $(CONSTANTS)
	@echo "compiling what has changed of $(MODULES) modules: all take about a minute"
	@SHADOWMMU_REQUIRE_NATIVE=1 $(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@ $(VENV)/.installed

# setup.py writes them
$(CONSTANTS): ;

$(VENV)/.created:
	@$(PYTHON) -c '' 2>/dev/null || { echo "needs Python 3.11 or newer: no $(PYTHON) found" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "needs Python 3.11 or newer: $$($(PYTHON) --version) found; try make PYTHON=python3.x" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "needs the venv module of $(PYTHON): install python3-venv" >&2; exit 1; }
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

needs_network := pip could not install the package: see its message above (it fetches Cython, setuptools, click, \
    Unicorn and iced-x86 from its package index)
needs_compiler := needs a C compiler and the headers of Python: install gcc and python3-dev
has_compiler = echo '\#include <Python.h>' | $(or $(CC),cc) -fsyntax-only -x c \
    -I"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))')" - 2>/dev/null
