# Every target first makes the environment; where it is there already, nothing is installed again.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# The first Python that runs and is 3.11, 3.12 or 3.13 (a pyenv shim may be there and not run).
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.12 python3.11 python3.13 python3; do $$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Where it is set, each process compiles the libraries' source anew: 20 seconds before a lesson's first line.
unexport PYTHONDONTWRITEBYTECODE

# They take minutes each, and what they call is tested elsewhere: `make test-long` runs them, too.
LONG_NOTEBOOKS := $(addprefix notebooks/extras/,$(addsuffix .ipynb,02_attention_and_packing 03_data_at_scale \
	04_a_thought_before_the_answer 04_learning_rate_and_forgetting 04_your_own_jsonl 05_public_tasks 05_talk_and_vote)) \
	$(filter-out notebooks/zh/02% notebooks/zh/03%,$(wildcard notebooks/zh/*.ipynb))
NBVAL := -m pytest --nbval-current-env --nbval-cell-timeout=1800
# The tests run on the small model, whatever the machine could; what depends on the model is compared in `make test-long`.
test test-package test-notebooks: export COURSE_PROFILE = tiny
test-long: export COURSE_PROFILE = cpu

# Where JupyterLab listens: this machine alone. The Dockerfile says otherwise by name; a variable of the shell cannot.
IP := 127.0.0.1
# lab/ sets JupyterLab up for learners: no news, nbgrader's panels off, Markdown rendered. Settings of your own go first.
LAB = JUPYTER_CONFIG_PATH="$(CURDIR)/lab" $(BIN)/jupyter lab --ServerApp.ip=$(IP) \
	--ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree

.PHONY: help install course course-2 lab mine llamafactory slides demo test test-package test-notebooks test-long bench outputs exercises concepts editions address format clean

help: ## show the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv and install everything (CPU or CUDA, by what is there)

.venv/installed: pyproject.toml install.py
	@"$(PYTHON)" -c '$(FITS)' 2>/dev/null || \
		{ echo "The course needs Python 3.11, 3.12 or 3.13. Install one, or name it: make PYTHON=/path/to/python3.12 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python install.py
	@touch $@

course: install ## run lessons 00 to 06 and print the before/after table
	@$(BIN)/python lab/run_lessons.py

course-2: install ## run the lessons that go further (07 to 10, those that are there)
	@$(BIN)/python lab/run_lessons.py 2

lab: install ## open JupyterLab on a page with lessons, exercises and the state of this machine
	@$(BIN)/python lab/start_page.py
	@$(LAB)/runs/start.md

mine: install ## train on a file of your own and see before and after: make mine DATA=my_rows.jsonl
	@test -n "$(DATA)" || { echo "Which file? make mine DATA=my_rows.jsonl"; exit 1; }
	@$(BIN)/python -m course_utils mine "$(DATA)"

llamafactory: install ## make the environment that lesson 07 runs LLaMA-Factory in (2 GB, minutes)
	@$(BIN)/python -m notebooks.llamafactory_env

slides: install ## write the lessons as slides into runs/slides/ (docs/instructor.md)
	@$(BIN)/python tests/notebooks/slides.py

demo: install ## prepare and rehearse the demo, then open it: each lesson's high point in under two minutes
	@echo "Preparing and rehearsing the demo: a minute, or ten and more where nothing has been trained yet."
	@$(BIN)/jupyter nbconvert --log-level=ERROR --to notebook --execute --output-dir=runs/demo notebooks/extras/00_demo.ipynb
	@$(LAB)/notebooks/extras/00_demo.ipynb

test: install ## run every check: style, unit tests, the browser, lessons and solutions (half an hour)
	@$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check .
	@$(MAKE) --no-print-directory --jobs=2 test-package test-notebooks
	@$(BIN)/python tests/browser.py

# Side by side: neither of the two keeps both cores busy.
test-package:
	@$(BIN)/python -m pytest

test-notebooks:
	@$(BIN)/python $(NBVAL) --nbval-lax $(addprefix --ignore=,$(LONG_NOTEBOOKS)) notebooks exercises/solutions

test-long: install ## what takes long: every notebook on the real Qwen, outputs compared, 20 kills, public tools, fifty times the search for broken masks (hours)
	@$(BIN)/python $(NBVAL) --nbval notebooks exercises/solutions
	@$(BIN)/python -m pytest --hypothesis-profile=long tests/text tests/train/test_training.py tests/notebooks/test_public_tasks.py tests/deploy tests/exercises/test_autograde.py tests/lessons/test_colab.py tests/test_browser.py tests/test_docker.py

bench: install ## training and evaluation side by side with what a newcomer writes, and the merge's proof, into docs/ (an hour)
	@$(BIN)/python -m course_utils build-data --profile cpu > /dev/null
	@test -d runs/cpu/adapter || $(BIN)/python -m course_utils train --profile cpu
	@$(BIN)/python tests/benchmarks/training.py
	@$(BIN)/python tests/benchmarks/evaluation.py
	@$(BIN)/python tests/benchmarks/merge.py

outputs: install ## put the outputs of the last `make course` and `make course-2` into notebooks/, run the extras, take README's pictures
	@$(BIN)/python tests/notebooks/refresh.py
	@$(BIN)/python tests/notebooks/seconds.py
	@PYTHONPATH=tests $(BIN)/python tests/notebooks/pictures.py

exercises: install ## write the learners' copies of the exercises from exercises/solutions/
	@$(BIN)/python tests/exercises/generate.py

concepts: install ## write docs/concepts.md: which cell teaches what
	@$(BIN)/python tests/notebooks/concepts.py

editions: install ## bring code and outputs over to the Chinese notebooks, and list the cells to translate anew
	@$(BIN)/python tests/notebooks/editions.py

address: install ## put the repository's address from pyproject.toml into badges and Colab cells
	@$(BIN)/python tests/notebooks/openings.py

format: install ## format the code
	@$(BIN)/python -m ruff check --fix . && $(BIN)/python -m ruff format .

clean: ## remove what the course made, but not the downloads
	rm -rf runs data/build
