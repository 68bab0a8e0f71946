# SwarmTune. Everything lives in .venv; nothing else on this machine is touched. `make help` explains the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
UV ?= $(shell command -v uv 2>/dev/null || echo .cache/uv/bin/uv)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

.cache/uv/bin/uv: .ci/uv.txt
	python3 -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet --require-hashes -r .ci/uv.txt
	@touch $@

.venv/.complete: pyproject.toml uv.lock | $(UV)
	$(UV) sync --quiet --frozen --all-extras --compile-bytecode
	@.venv/bin/python -m compileall -q src # every trial starts several Pythons, also where they may not write caches
	@touch $@

first-time-setup: install ## all that a contributor needs: uv, the environment, the hooks of git
	.venv/bin/pre-commit install

install: .venv/.complete ## the environment .venv with every extra that this machine can use

demo: install ## tune the embedded llama.cpp on this machine: real server, real weights, at most 6 minutes
	.venv/bin/swarmtune optimizer $(ARGS)

lint: install ## ruff, mypy, import-linter
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports --no-cache

lint-fix: install ## let ruff repair what it can
	.venv/bin/ruff check --fix

format: install ## format the code
	.venv/bin/ruff format

check-format: install ## is everything formatted?
	.venv/bin/ruff format --check

# The unit suite first. Then what waits much of the time: machines and whole studies beside the tests that wait for
# processes, each two files at a time. Those that measure go alone, so that nothing disturbs them. Machines and studies are not traced:
# the others reach 90 % of the lines, and a traced process takes twice the time of a core.
MEASURING := $(addprefix tests/loadgen/,test_selftest.py test_exactness.py test_disturbed.py judge/test_deciding.py \
		test_http_and_virtual_time.py) \
	$(addprefix tests/e2e/,test_many_streams.py test_early_stop.py)
MACHINES := $(addprefix tests/execution/test_,ssh.py ssh_faults.py ray.py ray_machines.py slurm.py)
TESTS = $(PY) -m pytest --durations=15 $(ARGS)
COVERED = COVERAGE_FILE=.coverage-$@ $(TESTS) --cov --cov-report=
PROCESSES := -m "processes and not vllm"

test: lint ## lint, types and the whole test suite
	@rm -f .coverage*
	@$(MAKE) --no-print-directory tests-unit
	@$(MAKE) --no-print-directory -j2 --output-sync=target tests-studies tests-waiting
	@$(MAKE) --no-print-directory tests-measuring
	@.venv/bin/coverage combine --quiet $(addprefix .coverage-tests-,unit waiting measuring)
	.venv/bin/coverage report --fail-under=90

tests-unit: install ## the unit suite with its coverage
	$(COVERED) -n 2 -m "not processes and not vllm"

tests-waiting: install ## the tests of commands, engines and processes
	$(COVERED) $(PROCESSES) -n 2 --dist loadfile tests --ignore=tests/e2e $(addprefix --ignore=,$(MEASURING) $(MACHINES))

tests-studies: install ## the tests of machines (over SSH, Ray and Slurm) and of whole studies, two files at a time
	$(TESTS) $(PROCESSES) -n 2 --dist loadfile $(MACHINES) tests/e2e $(addprefix --ignore=,$(MEASURING))

tests-measuring: install ## the tests that measure, alone
	$(COVERED) $(PROCESSES) $(MEASURING)

test-fast: install ## the unit suite without its servers: under 2 minutes on two cores
	$(PY) -m pytest -n 2 -m "not processes and not sockets" $(ARGS)

test-pythons: install ## the unit suite on every Python from 3.11 on that this machine has
	$(PY) tests/pythons.py $(ARGS)

test-verbose: install ## the test suite, test by test
	$(PY) -m pytest -v -m "not vllm" $(ARGS)

test-vllm: install ## build vLLM (3.5 GB, cached) and tune a real vLLM end to end
	$(PY) tests/vllm/build_env.py
	$(PY) -m pytest -v -m vllm tests/vllm $(ARGS)

coverage: install ## branch coverage as HTML in htmlcov/
	$(PY) -m pytest --cov --cov-report=html -m "not vllm"

bench: install ## every benchmark of benchmarks/, one table each
	@for file in recover loadgen search parallel parallel_overhead; do echo "== $$file"; $(PY) benchmarks/$$file.py || exit 1; done

docs: install ## write the generated parts of docs/ again
	$(PY) docs/generate.py

sbom: | $(UV) ## the bill of materials of every extra as CycloneDX, in dist/swarmtune.cdx.json
	@mkdir -p dist
	$(UV) export --quiet --frozen --no-dev --extra all --format cyclonedx1.5 --preview-features sbom-export -o dist/swarmtune.cdx.json

docker: ## build the container image (needs a Docker engine)
	docker build -t swarmtune .

clean: ## remove everything that was built; studies stay
	rm -rf .venv .cache .coverage* htmlcov .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist

.PHONY: first-time-setup test-fast test-pythons tests-unit tests-waiting tests-studies tests-measuring help install demo lint lint-fix format check-format test test-verbose test-vllm coverage bench docs sbom docker clean
