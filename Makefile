# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint types imports unit docs bench mutants clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 10

# One environment; an extra is installed when something first needs it, and again when pyproject.toml changes.
.venv/%.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing reverie[$*] into .venv ..."
	@$(INSTALL) -e ".[$*]"
	@touch $@

demo: .venv/demo.installed ## handwritten digits in a few evaluations, and a page about them
	@$(BIN)/reverie demo -o out/demo

test: .venv/dev.installed lint types imports unit ## everything that must hold

lint: .venv/dev.installed ## style, by ruff
	@$(BIN)/ruff check src tests benchmarks docs/generate
	@$(BIN)/ruff format --check src tests benchmarks docs/generate

types: .venv/dev.installed ## types, by mypy
	@$(BIN)/mypy

imports: .venv/dev.installed ## the order of the rooms, by import-linter
	@$(BIN)/lint-imports --no-cache

unit: .venv/dev.installed .venv/peers.installed ## tests and doctests
	@$(BIN)/pytest -n 2

.venv/peers.installed: .venv/bench.installed
	@$(INSTALL) --no-deps "k-diffusion>=0.1.1"
	@touch $@

docs: .venv/docs.installed ## the site, out/site/index.html; it needs no network and no server
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: .venv/peers.installed ## overhead a step, beside diffusers and k-diffusion in one run
	@$(BIN)/python benchmarks/overhead.py

mutants: .venv/dev.installed ## whether the tests notice a wrong sign, index or factor in a solver or guide
	@nice -n 10 $(BIN)/python benchmarks/mutants.py

clean: ## the environment and whatever was made
	rm -rf .venv out .mypy_cache .ruff_cache .pytest_cache .hypothesis
