# disti: `make demo` shows the main job, `make test` proves it. Both install what they need into .venv first.
PYTHON ?= python3
SEED   ?= 0
RUN    := demo$(if $(filter-out 0,$(SEED)),-seed$(SEED))
BIN    := .venv/bin
READY  := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help demo test quick docs lab export clean

help:  ## list the commands
	@echo "disti: make COMMAND (each installs into .venv first, where that is missing)"
	@sed -n 's/^\([a-z]*\):[^#]*## /  make \1|/p' $(MAKEFILE_LIST) | awk -F'|' '{printf "%-14s %s\n", $$1, $$2}'

demo: $(READY)  ## run the main job on real text and real weights: table and report (SEED=1 for a second seed)
	@echo "demo: collection, negatives, teacher, students, evaluation, report -> artifacts/$(RUN)/ (minutes on 2 cores)"
	$(BIN)/disti pipeline recipes/demo.yaml --set seed=$(SEED) $(if $(filter-out demo,$(RUN)),--set run=$(RUN))

test: $(READY)  ## every notebook, the whole path at smoke size, style, types, the site in a browser
	@echo "test: notebooks, smoke pipeline, architecture, documentation (about 35 minutes on 2 cores)"
	$(BIN)/pytest -n auto --maxprocesses 2

quick: $(READY)  ## the rules of the house, style, types, and the library notebooks that changed against main
	@$(BIN)/pytest -q -m quick

docs: $(READY)  ## build the site into docs/_build/html
	$(BIN)/python docs/build.py

lab: $(READY)  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs

export: $(READY)  ## after editing notebooks: modules, clean notebooks, README.md
	$(BIN)/ruff format --quiet nbs tests bench docs setup.py
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(BIN)/ruff format --quiet disti
	$(BIN)/python docs/readme.py

clean:  ## remove what builds made (not .venv, data or artifacts)
	rm -rf docs/_src docs/_build build dist .pytest_cache .mypy_cache .ruff_cache .snakemake
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# One stamp, written last: an install that was interrupted is taken up again.
$(READY): setup.py settings.ini constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "disti needs Python 3.11 or later, and there is no '$(PYTHON)'. On Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "disti needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments. On Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "install: disti and the tested versions of its packages into .venv (once; a few minutes, about 3 GB)"
	test -x $(BIN)/python -a -x $(BIN)/pip || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --compile --disable-pip-version-check -c constraints.txt -e '.[dev,demo,docs]' $(PIP_ARGS)
	@touch $@
	@echo "install: done"
