# `make verify`: set up an environment and run the main job. `make test`: set up and run the tests.
# `make lint`: style, types and imports. `make slow`: the tests of seconds to a minute each.
# `make proofs`: check the theorems of `formal/`, for which Coq must be installed.
# The gate (`.ci/run`) runs all of them.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= out/verify
BIN    := $(VENV)/bin

.PHONY: verify test slow fuzz faults soak mutate proofs lint docs site matrix bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[llm,train,math,gguf,molecules,data]' --group dev --group docs
	touch $@

verify: $(VENV)/.installed
	$(BIN)/endorm verify --out $(OUT)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# a process per core, each with one thread (conftest.py); more than four gain little
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

test: $(VENV)/.installed
	$(BIN)/pytest -m "not (slow or long or coq)" $(PARALLEL)

slow: $(VENV)/.installed
	$(BIN)/pytest -m slow $(PARALLEL)

# a hundred thousand damaged files for every reader, in out/fuzz; goes on where it was stopped
fuzz: $(VENV)/.installed
	PYTHONPATH=tests/helpers $(BIN)/python tests/helpers/fuzz.py

# every command that writes, interrupted for real; a table in out/faults
faults: $(VENV)/.installed
	PYTHONPATH=tests/helpers $(BIN)/python tests/helpers/faults.py

# small faults in the code, one at a time, of which a test must notice: an hour
mutate: $(VENV)/.installed
	$(BIN)/python benchmarks/mutation.py

# verify, score and ppo again and again in one process each: an hour, in out/soak
soak: $(VENV)/.installed
	$(BIN)/python benchmarks/soak.py

# built, checked again by Coq's own checker; then what they assume, and our doubles on instances
proofs: $(VENV)/.installed
	@coqc --version >/dev/null 2>&1 && test -d "$$(coqc -where)/user-contrib/Interval" || \
	  { echo "make proofs needs Coq 8.16 and Coq-Interval: apt-get install coq libcoq-interval" >&2; exit 1; }
	cd formal && coq_makefile -f _CoqProject -o CoqMakefile
	$(MAKE) -C formal -f CoqMakefile -j 2
	$(MAKE) -C formal -f CoqMakefile validate
	$(BIN)/pytest tests/proofs

matrix: $(VENV)/.installed
	$(BIN)/python tests/helpers/matrix.py --out docs/architectures.md

docs: $(VENV)/.installed
	$(BIN)/python -c 'from llm_bridge.commands import main; print(main.page(), end="")' > docs/commands.md
	$(BIN)/python tests/helpers/theorems.py
	$(BIN)/python tests/helpers/api.py

# the documentation as pages, in out/site
site: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[benchmark]'
	$(BIN)/python benchmarks/solver.py
	$(BIN)/python benchmarks/peers.py
	$(BIN)/python benchmarks/adversaries.py
	$(BIN)/python benchmarks/worst_cases.py
	$(BIN)/python benchmarks/scoring.py

clean:
	rm -rf $(VENV) out build *.egg-info formal/CoqMakefile* formal/.CoqMakefile* formal/.*.cache
	find formal -name '*.vo*' -delete -o -name '*.glob' -delete -o -name '.*.aux' -delete
