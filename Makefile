# make demo   set up, run the whole workflow on the embedded scans, print the table
# make test   set up, run the tests        make protections  see the tests fail without what they are for
# make check  lint, format, types, import contract, workflow lint, tests
# make slurm-test  the workflow on a Slurm that is started for it (root, Debian); installs the cluster executors
# make fix    format everything, write the generated pages
# make bench  what is fast, measured beside a plain reference      make costs  docs/costs.md from it
# make graph  docs/rules.md
# make seeds  the demo and its control with three seeds, mean and spread
# make photographs  the workflow on real photographs      make clean  drop results
#
# TORCH_INDEX=https://download.pytorch.org/whl/cpu make setup   takes the small CPU build of PyTorch on Linux
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3
VENV ?= .venv
CORES ?= all
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN = $(BIN)/snakemake --cores $(CORES) --quiet host reason --resources gpu=$$($(BIN)/python -m kdmvs.gpu --count)

.PHONY: demo photographs seeds setup test protections slurm-test check lint fix bench costs graph clean
demo photographs: $(STAMP)
	$(RUN) --configfile config/$@.yaml
	$(BIN)/snakemake --configfile config/$@.yaml --report results/$@/report.html > /dev/null
	@$(BIN)/kdmvs show results/$@

SEEDS ?= 0 1 2
seeds: $(STAMP)
	for seed in $(SEEDS); do \
	  $(RUN) --configfile config/demo.yaml config/control.yaml --config experiment=seed$$seed seed=$$seed; \
	done
	@$(BIN)/kdmvs show $(SEEDS:%=results/seed%)

setup: $(STAMP)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[dev]'
	touch $@

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadgroup

# Not part of `check`: with the executors installed every start of Snakemake takes longer, so CI runs this last.
slurm-test: $(STAMP)
	.ci/slurm.sh install
	$(BIN)/pip install --quiet -e '.[slurm]'
	.ci/slurm.sh start; trap '.ci/slurm.sh stop' EXIT; \
	KDMVS_SLURM_TESTS=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n 3 --dist worksteal tests/workflow/test_slurm.py

check: lint test

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/demo.yaml
	$(BIN)/python -m kdmvs.config_page --check
	$(BIN)/python -m kdmvs.rerun_page --check

fix: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow
	$(BIN)/python -m kdmvs.config_page
	$(BIN)/python -m kdmvs.rerun_page
	$(BIN)/python -m tests.protections --page

# Take every protection out of a copy of the code, one at a time, and see its test fail: an hour on two cores.
protections: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.protections

# All suites, or those named: make bench SUITES="labels storage"
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(SUITES)

# docs/costs.md from what `make bench` measured.
costs: $(STAMP)
	$(BIN)/python -m benchmarks.costs

# The picture of the rules in the documentation; a test compares it with the rules.
graph: $(STAMP)
	{ printf '%s\n\n' '# The rules' 'Written by `make graph`. What each one writes: the head of workflow/Snakefile.'; \
	  echo '```mermaid'; \
	  $(BIN)/snakemake --rulegraph mermaid-js --configfile config/demo.yaml --config scans_per_job=1 2> /dev/null \
	    | sed '/^---/,/^---/d; /style/d'; \
	  echo '```'; } > docs/rules.md

clean:
	find results -mindepth 1 -maxdepth 1 ! -name README.md -exec rm -r {} +
