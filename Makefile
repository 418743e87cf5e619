# `make demo` and `make test` do everything, from a bare clone.
RUN ?= demo
STAGE ?= 05_evaluation
RUNS ?= $(RUN)
COMPARISON ?= comparison
PYTHON ?= python3
BIN := $(CURDIR)/.venv/bin
# Threads that spin while they wait make training crawl when another program holds a core.
export OMP_WAIT_POLICY ?= PASSIVE
export PATH := $(BIN):$(PATH)

.PHONY: demo test coverage lint lab desk run batch comparison clean
demo: .venv/ready          ## the whole line on made-up faces; ends with the table and the page to open
	python -m dsrkit.batch demo --quiet all
	@python -m dsrkit.evaluation outputs/demo

test: .venv/ready          ## every test, on every core
	OMP_NUM_THREADS=1 pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST)

coverage: PYTEST += --cov --cov-report=term:skip-covered
coverage: test             ## the same, and which lines no test runs (half as long again)

lint: .venv/ready          ## ruff (notebooks too) and mypy
	ruff check . && ruff format --check . && mypy

lab: .venv/ready           ## JupyterLab in notebooks/
	jupyter lab notebooks

desk: .venv/ready          ## look at runs in a browser, by Voila: make desk RUNS="vlr16 vlr24"
	papermill --prepare-only --log-level ERROR notebooks/explore.ipynb outputs/explore.ipynb -p runs "$(RUNS)"
	voila outputs/explore.ipynb

run: .venv/ready           ## one stage of one run: make run RUN=vlr32 STAGE=02_dsr_training
	mkdir -p outputs/$(RUN)
	papermill notebooks/$(STAGE).ipynb outputs/$(RUN)/$(STAGE).ipynb -f params/$(RUN)/$(STAGE).yaml --log-output --progress-bar
	@if [ $(STAGE) = 05_evaluation ]; then python -m dsrkit.evaluation outputs/$(RUN); fi

comparison: .venv/ready    ## runs side by side: make comparison RUNS="vlr16 vlr24" [COMPARISON=sizes]
	mkdir -p outputs/$(COMPARISON)
	papermill notebooks/06_comparison.ipynb outputs/$(COMPARISON)/06_comparison.ipynb -p runs "$(RUNS)" -p name $(COMPARISON)
	@python -m dsrkit.evaluation outputs/$(COMPARISON)

batch: .venv/ready         ## every stage of several runs: make batch RUNS="vlr16 vlr24" [PROFILE=slurm] [SNAKEMAKE="-n"]
	python -m dsrkit.batch $(RUNS) --comparison $(COMPARISON) $(if $(PROFILE),--profile $(PROFILE)) $(SNAKEMAKE)

clean:                     ## remove what one run made: make clean RUN=demo
	@test -n "$(RUN)" || (echo "Expected a run: make clean RUN=demo" && exit 1)
	find outputs/$(RUN) -mindepth 1 ! -name .gitkeep -delete

# Not compiled: 20,000 files, most of which are never imported; Python compiles one when it first is.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dsrkit needs Python 3.11 or later, got " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	touch $@
