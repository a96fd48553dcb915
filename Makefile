# The commands of the README. Everything is installed into .venv; set PYTHON to use another interpreter (3.11 or newer).

PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Threads that spin while they wait stall each other on small machines.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo test lint bench clean

demo: $(READY)  ## install, then show the whole gate at work
	$(BIN)/registry-gate demo

# Three processes on the two cores of CI, because a quarter of the time is waiting for servers and databases; in order,
# because the longest tests come first.
test: $(READY) lint  ## install, then run every test
	.ci/install-mariadb.sh $(VENV)/mariadb
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## the benchmarks; each prints ratios of things measured in one run
	for script in tests/benchmarks/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[worker,postgresql,mysql,train,dev]'
	touch $(READY)

clean:  ## remove what was installed and built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
