# make run        set up, then train and evaluate the default question (minutes on two cores)
# make test       set up, then the tests
# make test-all   also the long ones: overfitting one scene, torch.compile; with REQUIRE=slurm, as root, a real SLURM
#                 of this machine, which mostly waits and so runs beside the others
#                 (both: JOBS test processes of one thread each, two unless told otherwise)
# make campaign   some 60 faults over a sweep on a real SLURM of this machine, as root; its report goes to DIR
# make lint       ruff and mypy --strict

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A few minutes on a slow two-core machine; `python -m bench.run ablations/table3.yaml` alone trains 1200 steps with 3 seeds.
SPEC ?= ablations/table3.yaml --name table3_first_run 'seeds=[0]' train.steps=250 evaluation.scenes=16 \
	data.training_scenes=128 data.validation_scenes=16 data.evaluation_scenes=16
DIR ?= results/campaign
JOBS ?= 2
# Each process takes tests from the end of another's list when its own is done; fixtures of a module are mostly made once.
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

.PHONY: run test test-all test-slurm test-others campaign lint setup clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "EAD-Bench needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up EAD-Bench in $(VENV): a Python environment, then torch and the other libraries (about 1.7 GB), then LPIPS's backbones (64 MB)"
	$(PYTHON) -m venv $(VENV)
	@(while sleep 10 </dev/null >/dev/null 2>&1; do [ -t 1 ] || echo "installing: $$(du -sm $(VENV) | cut -f1) MB so far"; done) & timer=$$!; \
	trap 'kill $$timer' EXIT; \
	$(BIN)/python -m pip install --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m bench.setup
	@touch $@

run: setup
	$(BIN)/python -m bench.run $(SPEC)

test: setup
	$(PYTEST) -m 'not long and not slurm'

test-all: setup
	$(MAKE) --no-print-directory --jobs=2 test-slurm test-others

test-slurm: setup
	$(BIN)/python -m pytest -m slurm

test-others: setup  # SLURM's time limits go by the clock, so its jobs come first
	nice $(PYTEST) -m 'not slurm'

campaign: setup
	PYTHONPATH=.:tests $(BIN)/python tests/campaigns/fault_campaign.py $(DIR)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
