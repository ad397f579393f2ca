# `make demo` and `make test` do everything on a fresh machine with Python and make.

PYTHON ?= $(shell for p in python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check setup build clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed-demo ## Export the x2 model and upscale the sample photo
	$(BIN)/ppsr-export --scale 2 --form self-contained --target onnx
	$(BIN)/ppsr-run artifacts/pp-atd-light_x2_fp32.onnx calibration/coffee.webp -o artifacts/sample_x2.png
	@echo "The photo, twice as large: artifacts/sample_x2.png"

# Two processes, each on one core: threads that wait for each other across both take many times as long.
test: .venv/.installed-test ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/.installed-dev ## Lint and check types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

setup: .venv/.installed-dev ## Install everything that development needs into .venv

build: .venv/.installed-dev ## Build the sdist and the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build

clean: ## Remove build outputs and caches (.venv and artifacts/ stay)
	rm -rf build dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find benchmarks calibration export models runtime tests training -name __pycache__ -prune -exec rm -rf {} +

# A stamp per set of extras, newer than pyproject.toml: nothing is installed twice.
.venv/.installed-demo: EXTRAS = cpu,export
.venv/.installed-test: EXTRAS = cpu,train,rtx,test
.venv/.installed-dev: EXTRAS = cpu,train,rtx,dev
.venv/.installed-%: pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'
	@touch $@

# pip is the last thing venv makes: without it the folder is half done.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is needed and was not found; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
