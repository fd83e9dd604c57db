# Needs Python 3.11 or newer, make and pip; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest
TRACKS ?=
PORT ?= 8501
WITH ?=
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo dashboard install test test-long chaos soak fuzz lint format docs docs-serve pins sbom audit secrets image image-check clean

help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.serving ## Run the whole worker in one process on made-up listeners; TRACKS=file.csv: on real songs
	@$(RUN) main.py demo $(if $(TRACKS),--tracks "$(TRACKS)")

dashboard: $(if $(API_URL),,$(VENV)/.serving) $(VENV)/dashboard/.installed ## Show the dashboard, over a worker of its own on made-up songs; API_URL=http://...: over one that runs
	@$(if $(API_URL),API_URL="$(API_URL)" $(VENV)/dashboard/bin/python -m streamlit run dashboard/app.py --server.address 127.0.0.1 --server.port $(PORT),$(RUN) main.py dashboard --port $(PORT) --python $(VENV)/dashboard/bin/python)

install: $(VENV)/.serving $(if $(WITH),$(VENV)/.with-$(WITH)) ## Install what the worker needs into .venv; WITH=train: and requirements-train.txt
	@echo "$(VENV) has what the worker needs; $(RUN) main.py --help says what it can do"

test: $(VENV)/.development ## Run the tests on real servers, in TEST_PROCESSES (2) side by side
	@$(PYTEST) -m "not long" --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.development ## Run all tests, those that take minutes too, and TEST_EXAMPLES (200) of each property
	@TEST_EXAMPLES=$(or $(TEST_EXAMPLES),200) $(PYTEST)

fuzz: $(VENV)/.development ## Change good input at random for FUZZ_MINUTES (10) and see that nothing breaks
	@$(RUN) -m tests.fuzz.run

chaos: $(VENV)/.development ## Break servers and workers under load for half an hour; SEED=7: go on with that seed
	@$(RUN) -m tests.chaos rounds $(if $(SEED),--seed $(SEED))
	@$(RUN) -m tests.chaos kills $(if $(SEED),--seed $(SEED))

soak: $(VENV)/.development ## Load real servers and workers for SOAK_MINUTES (20) and see that nothing grows
	@$(RUN) -m tests.soak

lint: $(VENV)/.development ## Check style and types
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy

format: $(VENV)/.development ## Mend style where that can be done for you
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

docs: $(VENV)/.with-docs ## Build the pages for people into site/; a link that leads nowhere fails it
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

docs-serve: $(VENV)/.with-docs ## Serve the pages on http://127.0.0.1:8010 as they are written
	@NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs serve --dev-addr 127.0.0.1:8010

pins: $(VENV)/pins/.tools ## Compile requirements*.in into requirements*.txt, each pin with its hashes
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements.in -o requirements.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements-train.in -o requirements-train.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements-mlflow.in -o requirements-mlflow.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements-import.in -o requirements-import.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements-trace.in -o requirements-trace.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements-docs.in -o requirements-docs.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) dashboard/requirements.in -o dashboard/requirements.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements-dev.in -o requirements-dev.txt
	@$(VENV)/pins/bin/uv pip compile $(UV_COMPILE) requirements-tools.in -o requirements-tools.txt

sbom: $(VENV)/pins/.tools ## Write sbom.cdx.json, what the serving image holds beside the base image, as CycloneDX
	@$(VENV)/pins/bin/cyclonedx-py requirements requirements.txt --pyproject pyproject.toml --mc-type application \
		--output-reproducible --spec-version 1.6 --output-format JSON --output-file sbom.cdx.json

audit: $(VENV)/pins/.tools ## Look every pin up among known vulnerabilities; AUDITED=requirements.txt: those of one file
	@failed=; for file in $(AUDITED); do echo "$$file"; \
		$(VENV)/pins/bin/pip-audit --strict --no-deps --disable-pip -r "$$file" || failed=1; done; test -z "$$failed"

secrets: ## Write .env with passwords by chance for docker compose, where there is no .env yet
	@if [ -e .env ]; then echo ".env is there already, and is left as it is" >&2; exit 1; fi
	@umask 077; for name in $(SECRETS); do \
		echo "$$name=$$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')"; done >.env
	@echo "wrote .env: $(SECRETS)"

image: ## Build the serving image, songs-ai; REQUIREMENTS="requirements-train.txt requirements-trace.txt": with extras
	@docker build --target serve $(if $(REQUIREMENTS),--build-arg "REQUIREMENTS=$(REQUIREMENTS)") --tag $(IMAGE) .

image-check: ## See that the image adds at most IMAGE_MB (400) to its base, and starts read-only, as nobody special
	@docker run $(CONFINED) $(IMAGE) --help >/dev/null
	@docker image inspect $(BASE_IMAGE) >/dev/null 2>&1 || docker pull --quiet $(BASE_IMAGE) >/dev/null
	@user=$$(docker run $(CONFINED) --entrypoint id $(IMAGE) -u) && \
		sizes=$$(docker image inspect --format '{{.Size}}' $(IMAGE) $(BASE_IMAGE)) && \
		set -- $$sizes && added=$$((($$1 - $$2) / 1000000)) && \
		echo "$(IMAGE): $$added MB on $(BASE_IMAGE), user $$user" && \
		{ test "$$added" -le $(IMAGE_MB) || { echo "only $(IMAGE_MB) MB are allowed" >&2; exit 1; }; } && \
		{ test "$$user" -gt 0 || { echo "it runs as root" >&2; exit 1; }; }

clean: ## Remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

IMAGE ?= songs-ai
IMAGE_MB ?= 400
REQUIREMENTS ?=
BASE_IMAGE = $(shell sed -n 's/^FROM \([^ ]*\) AS serve$$/\1/p' Dockerfile)
CONFINED := --rm --read-only --cap-drop ALL --network none
AUDITED ?= $(sort $(wildcard requirements*.txt)) dashboard/requirements.txt deploy/airflow/constraints.txt
SECRETS := MYSQL_ROOT_PASSWORD MYSQL_PASSWORD RABBITMQ_PASSWORD REDIS_PASSWORD GRAFANA_PASSWORD API_KEY
UV_COMPILE := --quiet --universal --python-version 3.11 --no-header --no-annotate --generate-hashes

# Debian's Python has pip but, without the package python3-venv, no way to put pip into a new environment; then the
# system's pip installs into it from outside.
PIP_INSTALL := install --quiet --disable-pip-version-check --require-hashes
install = if $(or $(2),$(RUN)) -m pip --version >/dev/null 2>&1; \
	then $(or $(2),$(RUN)) -m pip $(PIP_INSTALL) $(1); \
	else $(PYTHON) -m pip --python $(or $(2),$(RUN)) $(PIP_INSTALL) $(1); fi

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %d.%d: make PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@echo "Creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)

$(VENV)/.serving: requirements.txt | $(VENV)/bin/python
	@echo "Installing requirements.txt (a minute or two)"
	@$(call install,-r requirements.txt)
	@touch $@

# The dashboard speaks HTTP to the API and shares nothing with it: packages of its own.
$(VENV)/dashboard/.installed: dashboard/requirements.txt | $(VENV)/bin/python
	@echo "Installing dashboard/requirements.txt into $(VENV)/dashboard (a minute or two)"
	@$(PYTHON) -m venv $(VENV)/dashboard >/dev/null 2>&1 || $(PYTHON) -m venv --clear --without-pip $(VENV)/dashboard
	@$(call install,-r dashboard/requirements.txt,$(VENV)/dashboard/bin/python)
	@touch $@

$(VENV)/.development: requirements.txt requirements-dev.txt | $(VENV)/bin/python
	@echo "Installing requirements-dev.txt (a minute or two)"
	@$(call install,-r requirements-dev.txt)
	@touch $@ $(VENV)/.serving

$(VENV)/.with-%: requirements.txt requirements-%.txt | $(VENV)/bin/python
	@echo "Installing requirements-$*.txt (a minute or two)"
	@$(call install,-r requirements-$*.txt)
	@touch $@ $(VENV)/.serving

$(VENV)/pins/.tools: requirements-tools.txt | $(VENV)/bin/python
	@echo "Installing requirements-tools.txt into $(VENV)/pins"
	@$(PYTHON) -m venv $(VENV)/pins
	@$(VENV)/pins/bin/python -m pip $(PIP_INSTALL) -r requirements-tools.txt
	@touch $@
