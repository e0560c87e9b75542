# Every target that needs the environment makes it.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-cloud endurance fuzz check format results docs package check-package clean

.venv/installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv  # a second Python over the first makes a mixture
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

.venv-cloud/installed: pyproject.toml
	test -x .venv-cloud/bin/python || $(PYTHON) -m venv .venv-cloud
	.venv-cloud/bin/pip install --quiet --editable '.[dev,cloud]' 'moto[server]>=5'
	touch $@

demo: .venv/installed  ## the degradation of plain networks, and its absence in residual ones, on digits
	$(BIN)/residual reproduce demo --runs runs/demo --results runs/demo/results

test: .venv/installed  ## every test; what needs data or a GPU says so and is skipped
	$(BIN)/pytest -n 2 --dist worksteal

test-cloud: .venv-cloud/installed  ## the tests of packed data in an object store; 1.1 GB to install
	.venv-cloud/bin/pytest tests/cloud

endurance: .venv-cloud/installed  ## a hundred interruptions of every kind of job; minutes
	.venv-cloud/bin/python -m tests.endurance --keep results/benchmarks/endurance.json

fuzz: .venv/installed  ## the readers of foreign files, on other damage each time: half an hour
	RESIDUAL_FUZZ=$(or $(EXAMPLES),5000) $(BIN)/pytest -n 2 tests/test_fuzz.py

check: .venv/installed  ## lint, format and types; writes nothing
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --no-cache --check .
	$(BIN)/mypy --cache-dir=/dev/null

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: .venv/installed  ## draw docs/ and the README's table from results/*.json
	$(BIN)/python -m docs.build

docs: .venv/installed  ## the site of docs/, in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

package: .venv/installed  ## a wheel and an sdist, in build/dist
	rm -rf build/dist
	$(BIN)/python -m build --no-isolation --outdir build/dist

check-package: package  ## the wheel, in an environment of its own with the packages of .venv
	$(BIN)/python -m tests.installed build/dist --borrow

clean:
	rm -rf .venv .venv-cloud build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
