# make setup | demo | test | lint | keys | bench | bench-peers | gpu  PYTHON=python3.12 chooses another interpreter
PYTHON ?= python3
TORCH ?= 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
HAS_TORCH := -c 'import sys, torch; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11))' 2>/dev/null
DEMO := demo
PEERS := .venv-peers
PEER_PACKAGES ?= nnunetv2==2.8.1 monai==1.6.1 torchio==1.2.1

.PHONY: setup demo test lint keys bench bench-peers gpu clean-demo
.DELETE_ON_ERROR:

setup: .venv/ready

# A torch that is already there is kept (a GPU build, say); without one, a machine without a GPU gets the CPU build.
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hpcseg needs Python 3.11 or later: make setup PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || if $(PYTHON) $(HAS_TORCH); then $(PYTHON) -m venv --system-site-packages .venv; else $(PYTHON) -m venv .venv; fi
	@echo "installing into .venv (about a minute; torch is the large part)"
	@$(BIN)/python $(HAS_TORCH) \
	  || { command -v nvidia-smi >/dev/null && $(PIP) 'torch==$(TORCH)'; } \
	  || $(PIP) 'torch==$(TORCH)+cpu' 2>/dev/null \
	  || $(PIP) 'torch==$(TORCH)+cpu' --extra-index-url $(TORCH_CPU_INDEX) 2>/dev/null \
	  || $(PIP) 'torch==$(TORCH)'
	@$(PIP) --editable '.[dev]'
	@touch $@

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

# Two processes on two cores: threads of their own would only wait for each other.
test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# make bench ONLY=patches measures one room, benchmark or figure.
bench: setup
	@$(if $(ONLY),:,$(MAKE) --no-print-directory $(PEERS)/ready >/dev/null 2>&1) \
	  || echo "bench: the other tools cannot be installed here (make bench-peers says why); their figures stay as they were"
	@$(BIN)/python -m tests.benchmarks $(ONLY)

bench-peers: setup $(PEERS)/ready
	@$(BIN)/python -m tests.benchmarks peers

# Kernels' tests, training on CUDA and benchmarks on this machine's GPU; writes docs/benchmarks-gpu.*. Without a GPU it
# says so and does nothing. An environment is made only where neither .venv nor PYTHON has what it takes.
# make gpu ONLY="steps loading.busy" runs some parts.
gpu:
	@$(PYTHON) -m tests.gpu.ready --gpu || exit 0; \
	for python in $(BIN)/python $(PYTHON); do \
	  $$python -m tests.gpu.ready >/dev/null 2>&1 && exec $$python -m tests.gpu $(if $(ONLY),--only $(ONLY)); \
	done; \
	PIP_RETRIES=1 PIP_DEFAULT_TIMEOUT=15 $(MAKE) --no-print-directory setup >/dev/null 2>&1 \
	  && $(BIN)/python -m tests.gpu.ready >/dev/null && exec $(BIN)/python -m tests.gpu $(if $(ONLY),--only $(ONLY)); \
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
