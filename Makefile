# Commands of the project; `make help` lists them. Everything runs in .venv, which is made when it is needed.

.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3
DATASET ?= digits
ARGS ?=
CKPT ?=
COMMAND ?= compare
RUN ?= outputs/$(DATASET)/latest
PY := .venv/bin/python

.PHONY: help distill evaluate demo tensorboard test lint bench lock clean

help: ## Show this text
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  Examples:  make distill DATASET=imagenette ARGS=\"--model.ipc=5 --trainer.devices=2\""
	@echo "             make distill CKPT=outputs/digits/latest/checkpoints/last.ckpt"

distill: .venv/ready ## Distil DATASET (default digits); ARGS are passed on, CKPT resumes a run
ifeq ($(CKPT),)
	@$(PY) train.py fit -c data/$(DATASET) $(ARGS)
else
	@$(PY) train.py fit --ckpt_path=$(CKPT) $(if $(filter command line,$(origin DATASET)),-c data/$(DATASET)) $(ARGS)
endif

evaluate: .venv/ready ## Evaluate the run RUN (default: the newest of DATASET) with COMMAND (default: compare)
	@$(PY) evaluate.py $(COMMAND) $(RUN) $(ARGS)

demo: .venv/ready ## Serve a page at http://127.0.0.1:7860 that shows what the run RUN says of an image that you drop or draw
	@$(PY) -c 'import sys, importlib.util; sys.exit(not importlib.util.find_spec("gradio"))' || { echo "error: this needs gradio. Install it with: .venv/bin/pip install -e '.[demo]'" >&2; exit 2; }
	@$(PY) evaluate.py demo $(RUN) $(ARGS)

tensorboard: .venv/ready ## Show all runs in TensorBoard
	@.venv/bin/tensorboard --logdir outputs

test: .venv/ready ## Run the tests (minutes), two at a time, each on one thread
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest -n 2 --dist worksteal $(ARGS)

lint: .venv/ready ## Check style, types and who imports whom
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports --no-cache

bench: .venv/ready ## Measure time and memory and write docs/speed.md and .json (over an hour; ARGS="--sections step memory bank": minutes)
	@$(PY) benchmarks/speed.py $(ARGS)

lock: ## Write requirements.lock from what is installed in .venv
	@.venv/bin/pip freeze --all --exclude-editable --exclude pip --exclude synthicl 2>/dev/null \
		| sed -E "s/^((nvidia|cuda|triton).*)/\1 ; sys_platform == 'linux'/" > requirements.lock
	@touch .venv/ready  # which is what the lock says: nothing is to be made anew

clean: ## Remove .venv and caches; outputs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build

# Made anew when the locked versions change. torch and torchvision come in one install, so they match.
.venv/ready: requirements.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11. Name a newer one with PYTHON=."; exit 1; }
	@echo "Setting up .venv (several GB, once) ..."
	@$(PYTHON) -m venv --clear .venv
	@.venv/bin/pip install --quiet --disable-pip-version-check --progress-bar off -r requirements.lock
	@.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
