# Runs on Python 3.11+, git and make; everything else is installed into .venv (and uv into .cache, where it is missing).
PYTHON ?= python3
PYTEST_ARGUMENTS ?=

MAKEFLAGS += --no-print-directory
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .cache/uv/bin/uv)
SYNCED := .venv/.synced
RUNS := .venv/.runs
comma := ,
SCRIPTS = $$(git ls-files '*.sh' .ci/run)
SYNC = UV_PYTHON_DOWNLOADS=never UV_PROJECT_ENVIRONMENT=.venv $(UV) sync --frozen --quiet --no-install-project
say = { echo "make: $(1)" >&2; exit 1; }

.PHONY: help
help: ## Say what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(RUNS) ## Release the bundled application on this machine
	@.venv/bin/fab deploy --stage sandbox
	@printf '%s\n' '' 'Next, here in this folder:' \
		'  .venv/bin/fab status      what is live' \
		'  .venv/bin/fab deploy      the next release, once you have committed a change in examples/pos' \
		'  .venv/bin/fab rollback    back to the release before' \
		'  .venv/bin/fab stop        end its processes; rm -rf .sandbox removes every trace'

.PHONY: test
test: $(SYNCED) ## Run every test; as root on Debian also those on real servers
	@bash tests/servers/install.sh
	@.venv/bin/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGUMENTS)

.PHONY: nightly
nightly: $(SYNCED) ## Run every test at full size, as a night allows
	@bash tests/servers/install.sh
	@.venv/bin/python -m pytest --nightly --numprocesses 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGUMENTS)

.PHONY: fast
fast: $(SYNCED) ## Run the tests that need neither a server nor the sandbox
	@.venv/bin/python -m pytest -m 'not server and not sandbox' $(PYTEST_ARGUMENTS)

.PHONY: lint
lint: $(SYNCED) ## Read the code, the scripts and the workflows for mistakes
	@.venv/bin/ruff check --quiet
	@.venv/bin/ruff format --quiet --check
	@.venv/bin/mypy --no-error-summary
	@cd tasks && ../.venv/bin/mypy --no-error-summary --strict --python-version 3.10 --explicit-package-bases server
	@.venv/bin/shellcheck $(SCRIPTS)
	@.venv/bin/zizmor --offline --quiet .github/workflows
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

.PHONY: bench
bench: $(SYNCED) ## Measure what releases, backups and restores cost
	@.venv/bin/python -m bench
	@.venv/bin/python -m bench.recovery

.PHONY: docs
docs: $(SYNCED) ## Write the generated pages of docs/ again
	@.venv/bin/python -m tasks.config.reference --write
	@.venv/bin/python -m tasks._pages --write

.PHONY: clean
clean: ## Remove .venv and the caches (the sandbox and its data stay)
	@rm -rf .venv .cache .pytest_cache .ruff_cache .mypy_cache .hypothesis dist

$(SYNCED): $(RUNS)
	@$(SYNC)
	@touch $@

# What a user runs, without what its authors test it with.
$(RUNS): uv.lock pyproject.toml | $(filter .cache/%,$(UV))
	@$(call python_is_new_enough)
	@$(call folder_is_ours)
	@echo "make: installing what uv.lock lists into .venv" >&2
	@$(call python); grep -qs '^relocatable = true' .venv/pyvenv.cfg || \
		UV_PYTHON_DOWNLOADS=never $(UV) venv --quiet --no-config --clear --relocatable --python "$$python" .venv
	@$(call python); $(SYNC) --no-dev --inexact --python "$$python"
	@touch $@

.cache/uv/bin/uv:
	@$(call python_is_new_enough)
	@$(call folder_is_ours)
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || $(call say,$(PYTHON) cannot make a \
		virtual environment: install its venv module (Debian and Ubuntu: apt-get install python3-venv) or uv.)
	@"$(PYTHON)" -m venv --clear .cache/uv
	@.cache/uv/bin/pip install --quiet --disable-pip-version-check uv

define python
python=$$("$(PYTHON)" -c 'import sys; print(sys.executable)')
endef

define folder_is_ours
test -w . && { ! test -e .venv || test -w .venv; } || $(call say,$$(id -un) may not write here$(comma) or not in \
	.venv: was make run by somebody else? chown -R the folder$(comma) or clone it again.)
endef

define python_is_new_enough
"$(PYTHON)" -c '' 2>/dev/null || $(call say,there is no $(PYTHON): install Python 3.11 or newer.); \
"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || $(call say,$(PYTHON) is older \
	than 3.11: install a newer one and name it: make PYTHON=python3.12.)
endef
