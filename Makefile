# make setup | demo | test | test-all | lint | docs | keys | dist | bench | bench-peers | gpu | lock
# make study-records | study-tables | nnunet | versus
# PYTHON=python3.12 chooses another interpreter
PYTHON ?= python3
TORCH ?= 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOWEST_PIP = $(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(LOWEST)/constraints.txt
HAS_TORCH := -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11))' 2>/dev/null
DEMO := demo
PINS := --constraint constraints.txt
# What torch's wheels pin themselves is left to them, and torch to the recipes below.
UNPINNED := ^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==
OLDEST_TORCH := $(shell sed -n 's/.*"torch>=\([0-9.]*\)".*/\1/p' pyproject.toml)
OLDEST_PYTHON ?= python3.11
LOWEST := .venv-lowest
DOCS := .venv-docs
UV := .venv-uv/bin/uv
PEERS := .venv-peers
PEER_PACKAGES ?= nnunetv2==2.8.1 monai==1.6.1 torchio==1.2.1

STUDY := docs/study
FROM ?= runs
SWEEPS ?= $(notdir $(wildcard $(FROM)/sweeps/*))

.PHONY: setup demo test pytest test-all lowest lint docs keys dist bench bench-peers gpu lock clean-demo study-records study-tables nnunet versus
.DELETE_ON_ERROR:

setup: .venv/ready

# A torch that is already there is kept (a GPU build, say); without one, a machine without a GPU gets the CPU build.
# The other packages are those of constraints.txt, also while hpcseg itself is built.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hpcseg needs Python 3.11 or later: make setup PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || if $(PYTHON) $(HAS_TORCH); then $(PYTHON) -m venv --system-site-packages .venv; else $(PYTHON) -m venv .venv; fi
	@echo "installing into .venv (about a minute; torch is the large part)"
	@$(BIN)/python $(HAS_TORCH) \
	  || { command -v nvidia-smi >/dev/null && $(PIP) 'torch==$(TORCH)'; } \
	  || $(PIP) 'torch==$(TORCH)+cpu' 2>/dev/null \
	  || $(PIP) 'torch==$(TORCH)+cpu' --extra-index-url $(TORCH_CPU_INDEX) 2>/dev/null \
	  || $(PIP) 'torch==$(TORCH)'
	@{ $(PIP) $(PINS) setuptools && $(PIP) $(PINS) --no-build-isolation --editable '.[dev]'; } \
	  || { echo "constraints.txt does not fit this machine: installing what pyproject.toml allows"; $(PIP) --editable '.[dev]'; }
	@touch $@

# Writes constraints.txt: the newest versions that suit every Python and torch that pyproject.toml allows.
lock: $(UV)
	@{ echo "# What make setup installs, on any Python that pyproject.toml allows; written by make lock. torch, and what its"; \
	  echo "# wheels pin themselves (triton, CUDA), are not here: a machine's own torch is kept, of whatever release."; \
	  echo 'torch==$(OLDEST_TORCH).*' | $(UV) pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	    --all-extras --no-header --no-annotate --constraint - pyproject.toml | grep -Ev '$(UNPINNED)'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

$(UV):
	@$(PYTHON) -m venv .venv-uv
	@.venv-uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9

$(DEMO)/data/Phantoms/dataset.json: | setup
	$(BIN)/hpcseg phantom $(DEMO)/data/Phantoms --training 12 --test 4

demo: setup $(DEMO)/data/Phantoms/dataset.json
	$(BIN)/hpcseg sweep sweeps/demo.toml --data $(DEMO)/data --runs $(DEMO)/runs --on local
	$(BIN)/hpcseg status --runs $(DEMO)/runs
	$(BIN)/hpcseg collect --runs $(DEMO)/runs --to $(DEMO)/results

clean-demo:
	rm -rf $(DEMO)

# Every key's explanation, from where the key is defined.
keys: setup
	$(BIN)/hpcseg keys --markdown > docs/keys.md

lint: setup
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy

# Lint runs beside the tests: mypy can use one core only.
test: setup
	@$(MAKE) --no-print-directory --jobs 2 lint pytest

# Three processes on two cores: one of them usually waits for Slurm.
pytest: setup
	$(BIN)/python -m pytest -n 3 --dist loadfile

# All storms of signals with all seeds, and the lowest versions that pyproject.toml allows.
test-all: setup lint lowest
	$(BIN)/python -m pytest -n 3 --dist loadfile --all

# Tests of the rooms that stand on other packages' behaviour, with the lowest versions of them.
lowest: $(LOWEST)/ready
	$(LOWEST)/bin/python -m pytest -n 2 --dist loadfile -m "not slow" -W ignore::DeprecationWarning \
	  $(addprefix tests/,volumes inspection patches study runs inference results test_cli.py)

# The lowest torch is a CPU build, where one can be had; else the one that make setup takes.
$(LOWEST)/ready: pyproject.toml Makefile | $(UV)
	@command -v $(OLDEST_PYTHON) >/dev/null || { echo "the lowest versions need Python 3.11: make lowest OLDEST_PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing the lowest versions into $(LOWEST) (about a minute)"
	@rm -rf $(LOWEST) && $(OLDEST_PYTHON) -m venv $(LOWEST)
	@$(UV) pip compile --quiet --resolution lowest-direct --python-version 3.11 --extra dev --no-header --no-annotate \
	  pyproject.toml | grep -Ev '$(UNPINNED)' > $(LOWEST)/constraints.txt
	@$(LOWEST_PIP) 'torch==$(OLDEST_TORCH).0+cpu' --retries 1 --extra-index-url $(TORCH_CPU_INDEX) 2>/dev/null \
	  || { echo "no CPU build of torch $(OLDEST_TORCH) can be had here: torch $(TORCH) stands in for it"; $(LOWEST_PIP) 'torch==$(TORCH)'; }
	@$(LOWEST_PIP) setuptools && $(LOWEST_PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

# The documentation as a site, in site/; a broken link or an unknown name in a docstring is an error.
docs: $(DOCS)/ready
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict
	@echo "site/index.html"

$(DOCS)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check $(PINS) \
	  $$($(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"])')
	@touch $@

# sdist and wheel in dist/, as an index takes them. REPOSITORY is where the code is published: links of its README lead there.
REPOSITORY ?= $(filter http%,$(shell git remote get-url origin 2>/dev/null))
dist: $(UV)
	@test -n "$(REPOSITORY)" || { echo "where is it published? make dist REPOSITORY=https://…"; exit 2; }
	@rm -rf dist && HPCSEG_REPOSITORY=$(REPOSITORY) $(UV) build --quiet
	@$(UV) tool run --quiet twine check --strict dist/*

# make bench ONLY=patches measures one room, benchmark or figure.
bench: setup
	@$(if $(ONLY),:,$(MAKE) --no-print-directory $(PEERS)/ready >/dev/null 2>&1) \
	  || echo "bench: the other tools cannot be installed here (make bench-peers says why); their figures stay as they were"
	@$(BIN)/python -m tests.benchmarks $(ONLY)

bench-peers: setup $(PEERS)/ready
	@$(BIN)/python -m tests.benchmarks peers

# Small records of the finished runs of a folder of runs are added to those of the study (docs/study.md); none is deleted.
# make study-records FROM=runs SWEEPS=hippocampus; FORCE=1 replaces records of the same runs by other results.
study-records: setup
	@for sweep in $(SWEEPS); do \
	  $(BIN)/hpcseg collect $$sweep --runs $(FROM) --records $(STUDY)/runs $(if $(FORCE),--force) || exit; \
	done

# The study's tables and figures from its records, and the places for them in the texts: no training, no data.
study-tables: setup
	@for sweep in $(notdir $(wildcard $(STUDY)/runs/sweeps/*)); do \
	  mkdir -p build/study/$$sweep $(STUDY)/tables/$$sweep; \
	  $(BIN)/hpcseg collect $$sweep --runs $(STUDY)/runs --to build/study/$$sweep > build/study/$$sweep/log || exit; \
	  for file in build/study/$$sweep/*.md build/study/$$sweep/*-summary.csv build/study/$$sweep/*.png; do \
	    if [ -e $$file ]; then cp $$file $(STUDY)/tables/$$sweep/; fi; \
	  done; \
	  echo "$(STUDY)/tables/$$sweep"; \
	done
	@if ls $(STUDY)/nnunet/*.json >/dev/null 2>&1; then $(BIN)/python $(VERSUS) table; fi
	@$(BIN)/python -m tests.benchmarks.study

# nnU-Net v2 trains MINUTES on the labelled cases that hpcseg has in a fold, and segments its test cases; docs/study/nnunet
# gets what was measured. On an otherwise idle machine: make nnunet LABELLED="4 16" FOLDS=0 MINUTES="10 30"
# make versus: hpcseg does the same cases as well (GRIDS of SWEEP, one run at a time on all cores), and the table is made.
LABELLED ?= 4
FOLDS ?= 0
MINUTES ?= 10
SWEEP ?= sweeps/hippocampus.toml
GRIDS ?= recipe self-training
DATA ?= ../shared/data
WORK ?= .bench/versus
VERSUS = -W ignore -m tests.benchmarks.versus
CASES = --labelled $$n --fold $$fold --sweep $(SWEEP) --data $(DATA) --work $(WORK)/n$$n-f$$fold $(addprefix --set ,$(SET))

nnunet: $(PEERS)/ready
	@for n in $(LABELLED); do for fold in $(FOLDS); do for minutes in $(MINUTES); do \
	  $(PEERS)/bin/python $(VERSUS) nnunet --minutes $$minutes $(CASES) || exit; \
	done; done; done

versus: setup nnunet
	@for n in $(LABELLED); do for fold in $(FOLDS); do \
	  $(BIN)/python $(VERSUS) hpcseg --grids $(GRIDS) $(CASES) || exit; \
	done; done
	@$(BIN)/python $(VERSUS) table
	@$(BIN)/python -m tests.benchmarks.study

# Kernels' tests, training on CUDA and benchmarks on this machine's GPU; writes docs/benchmarks-gpu.*. Without a GPU it
# says so and does nothing. An environment is made only where neither .venv nor PYTHON has what it takes.
# make gpu ONLY="steps loading.busy" runs some parts; TO=FOLDER takes everything there; MINUTES=4 is all that it may take.
GPU_WORDS = $(if $(ONLY),--only $(ONLY)) $(if $(TO),--to $(TO)) $(if $(MINUTES),--minutes $(MINUTES))
gpu:
	@$(PYTHON) -m tests.gpu.ready --gpu || exit 0; \
	for all in "" --least; do for python in $(BIN)/python $(PYTHON); do \
	  $$python -m tests.gpu.ready $$all >/dev/null 2>&1 && exec $$python -m tests.gpu $(GPU_WORDS); \
	done; done; \
	PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=15 $(MAKE) --no-print-directory setup >/dev/null 2>&1 \
	  && $(BIN)/python -m tests.gpu.ready >/dev/null && exec $(BIN)/python -m tests.gpu $(GPU_WORDS); \
	$(PYTHON) -m tests.gpu.ready

# The other tools get an environment of their own, which sees the packages of .venv and may not replace its torch.
$(PEERS)/ready: .venv/ready
	@echo "installing $(PEER_PACKAGES) into $(PEERS) (about half a minute)"
	@$(BIN)/python -m venv $(PEERS)
	@$(BIN)/python -c 'import sys; print(*(path for path in sys.path if path.endswith("-packages")), sep="\n")' \
	  | (cd $(PEERS)/lib/python*/site-packages && cat > shared.pth)
	@$(BIN)/python -c 'import torch; print(f"torch=={torch.__version__}")' > $(PEERS)/constraints.txt
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 \
	  --constraint $(PEERS)/constraints.txt $(PEER_PACKAGES)
	@touch $@
