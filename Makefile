# Each target sets up what it needs; a second run is quick. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SCALE ?=
SEEDS ?= 3
DATA ?=
NAME ?=
BUDGET ?=
QUICK ?=
WHAT ?=
# Taken as they were typed: a folder's name may have quotes, spaces or a dollar sign.
override DATA := $(value DATA)
override SCALE := $(value SCALE)
export DATA SCALE
# Idle threads sleep instead of spinning: on shared cores a spinning barrier costs more than the work.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
# `docs` is also the name of a folder.
.PHONY: help setup demo test test-slow browser lint audit soak fuzz bench study studies report docs clean reproduce-cifar10 reproduce-cifar100 reproduce-translation reproduce-gpt2

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  %-22s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## create .venv with the pinned packages (2.5 minutes, 6.6 GB)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,launchers]'
	@touch $@

demo: setup ## four stacks, 24 blocks, thirty digits: accuracy, memory against depth, time (minutes on 2 cores)
	$(BIN)/bdia train experiment=demo
	$(BIN)/bdia report experiment=demo
	$(BIN)/bdia plan experiment=demo batch=30 depths=[6,24] device=cpu

# One test a core, one thread each: their tensors are tiny.
test test-slow: export OMP_NUM_THREADS ?= 1
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4

test: setup ## the fast tests (under 8 minutes on 2 cores)
	$(PYTEST) -m "not slow and not gpu"

test-slow: setup ## all tests: the slow ones, and those for a GPU where there is one
	$(PYTEST)

browser: setup .browser/chromium ## the page at three widths and on paper in headless Chromium (a minute; fetches 70 MB from npm)
	$(PYTEST) -n 0 -m slow tests/results/test_browser.py

# The package unpacks itself into TMPDIR when it is asked where it is.
.browser/chromium:
	npm install --silent --no-save --no-package-lock --no-audit --no-fund --prefix .browser @sparticuz/chromium@153
	cd .browser && TMPDIR="$$PWD" node --input-type=module -e 'import c from "@sparticuz/chromium"; await c.executablePath()'

lint: setup ## ruff: errors, imports, docstrings, format; mypy: types, strictly in bdia.reversible; bandit (half a minute)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet -c pyproject.toml -r src scripts

soak: setup ## random small models and stacks with faults injected, half an hour: zero wrong bits [MINUTES=30] [SEED=0]
	$(BIN)/python scripts/soak.py minutes=$(or $(MINUTES),30) seed=$(or $(SEED),0)

fuzz: setup ## coverage-guided fuzzing of the readers, a minute each [SECONDS=60]; needs the extra fuzz
	for reader in text pairs tokens tokenizer record config override; do $(BIN)/python scripts/fuzz.py reader=$$reader seconds=$(or $(SECONDS),60) || exit 1; done

audit: setup ## known holes of the pinned packages; says so where the advisories cannot be reached
	$(BIN)/python scripts/audit.py

bench: setup ## step time, throughput, memory of every stack, depth and model (80 minutes on 2 cores; QUICK=1: three) [WHAT=depth,length]
	$(BIN)/bdia bench $(if $(filter-out 0 no,$(QUICK)),quick=true) $(if $(WHAT),what="[$(WHAT)]")

study: setup ## one study, to its end: NAME=table2_cifar10 [SCALE=paper|cpu|long|few|smoke] [BUDGET=25min] [DATA=folder]
	$(BIN)/bdia studies only="[$(NAME)]" scale="$(or $(SCALE),cpu)" budget="$(BUDGET)" data="$$DATA"

studies: setup ## the studies in order of priority, as far as BUDGET=25min lasts; typed again it goes on [SCALE=cpu]
	$(BIN)/bdia studies scale="$(or $(SCALE),cpu)" budget="$(BUDGET)" data="$$DATA"

report: setup ## records in results/ -> results/tables/*.md and results/report.html
	$(BIN)/bdia report

docs: $(VENV)/.docs ## the documentation in site/, links and names checked; no network once it is set up
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'open site/index.html'

$(VENV)/.docs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

reproduce-cifar10: setup ## Table 1 on CIFAR-10 [SCALE=paper|cpu|smoke] [SEEDS=3] [DATA=folder of the images]
	$(BIN)/bdia reproduce recipe=cifar10 scale="$$SCALE" seeds="$(SEEDS)" data="$$DATA"

reproduce-cifar100: setup ## Table 1 on CIFAR-100 [SCALE=paper|cpu|smoke] [SEEDS=3] [DATA=folder of the images]
	$(BIN)/bdia reproduce recipe=cifar100 scale="$$SCALE" seeds="$(SEEDS)" data="$$DATA"

reproduce-translation: setup ## Fig. 4, English to French, loss and BLEU [SCALE=paper|cpu|smoke] [SEEDS=3] [DATA=folder of the text]
	$(BIN)/bdia reproduce recipe=translation scale="$$SCALE" seeds="$(SEEDS)" data="$$DATA"

reproduce-gpt2: setup ## Fig. 5, GPT-2 on little text, loss and perplexity [SCALE=paper|cpu|smoke] [SEEDS=3] [DATA=folder of the text]
	$(BIN)/bdia reproduce recipe=gpt2 scale="$$SCALE" seeds="$(SEEDS)" data="$$DATA"

clean: ## remove .venv, .browser, caches and runs/ (checkpoints, logs); records in results/ stay
	rm -rf $(VENV) runs site .browser .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
