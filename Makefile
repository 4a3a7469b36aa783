# Everything goes through .venv, which `make setup` fills from requirements.lock.
# ARGS goes to the tool behind a target: make test ARGS="-k schedules", make ui ARGS="--port 5001".

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CHECK := import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed, found " + sys.version.split()[0] + "; say which with make PYTHON=...")
BIN := .venv/bin
STORE := $(or $(MLFLOW_TRACKING_URI),sqlite:///mlflow.db)
# Test processes; 0 runs the tests in one. Several processes take one thread each, lest they fight.
# One more than two cores have use for: tests often wait for a server or a process.
WORKERS ?= 3
BENCHMARKS ?= training_speed recording_cost compiled_cost auto_interval memory pictures diagnosis_cost faults pruning study_overhead
ONE_THREAD := $(if $(filter-out 0,$(WORKERS)),OMP_NUM_THREADS=1)

.PHONY: help setup demo test lint format lock ui bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

setup: .venv/requirements.lock ## make .venv and install the locked packages

# Installed anew when the lock's content has changed, not when its date has.
.venv/requirements.lock: requirements.lock
	@cmp -s $< $@ && touch $@ || { "$(PYTHON)" -c '$(CHECK)' && "$(PYTHON)" -m venv --clear .venv && $(BIN)/python scripts/install.py && cp $< $@; }

demo: setup ## train on the embedded digits through `mlflow run`
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mlflow run . --env-manager local $(ARGS)

test: setup ## run every test
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: setup ## let ruff put the code in order
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

lock: setup ## remake requirements.lock and conda.yaml from pyproject.toml
	$(BIN)/python scripts/lock.py $(ARGS)

ui: setup ## open the MLflow UI on the store
	@$(if $(filter http%,$(STORE)),echo "The store is a server: open $(STORE)",$(BIN)/mlflow ui --host 127.0.0.1 --backend-store-uri "$(STORE)" $(ARGS))

bench: setup ## measure speed, cost of recording and memory (BENCHMARKS=memory for one of them)
	@set -e; for name in $(BENCHMARKS); do echo "benchmarks.$$name"; $(BIN)/python -m benchmarks.$$name $(ARGS); done

clean: ## remove .venv and caches; results and data stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
