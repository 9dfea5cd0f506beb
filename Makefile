# `make verify`: set up an environment and run the main job. `make test`: set up and run every check.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out/verify
BIN    := $(VENV)/bin

.PHONY: verify test lint docs matrix bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[llm,train,math,gguf,molecules]' --group dev
	touch $@

verify: $(VENV)/.installed
	$(BIN)/endorm verify --out $(OUT)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# a process per core, each with one thread (conftest.py); more than four gain little
test: lint
	$(BIN)/pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal

matrix: $(VENV)/.installed
	$(BIN)/python tests/helpers/matrix.py --out docs/architectures.md

docs: $(VENV)/.installed
	$(BIN)/python -c 'from llm_bridge.commands import main; print(main.page(), end="")' > docs/commands.md

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[benchmark]'
	$(BIN)/python benchmarks/solver.py
	$(BIN)/python benchmarks/adversaries.py
	$(BIN)/python benchmarks/worst_cases.py
	$(BIN)/python benchmarks/scoring.py

clean:
	rm -rf $(VENV) out build *.egg-info
