# `make` lists what there is. Everything is installed into .venv; nothing else is touched.
SHELL := /bin/sh
VENV := .venv
PYTHON_BIN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup dev docs test lint unit chaos soak image policies bench referee clean

help: ## What there is
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP) ## Make .venv and install pinned dependencies

$(STAMP): pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh $(VENV)
	@touch $(STAMP)

dev: $(STAMP) ## Run everything on this machine, with a sandbox agent
	@exec $(VENV)/bin/voice-relay dev

docs: $(STAMP) ## Make from the code: tables of docs/reference, dashboard, types of the events
	@$(PYTHON_BIN) -m scripts.reference
	@$(PYTHON_BIN) -m scripts.event_types
	@$(PYTHON_BIN) -m scripts.dashboard

test: $(STAMP) lint unit ## Linters, type checker and all tests

lint: $(STAMP)
	$(PYTHON_BIN) -m ruff format --check .
	$(PYTHON_BIN) -m ruff check .
	$(PYTHON_BIN) -m mypy

unit: $(STAMP)
	@sh scripts/browsers.sh
	@sh scripts/proxies.sh
	@# Four at a time, one file after the other: most of a test is waiting, and files share what they
	@# started. In the order of the folders, or the longest files would come last and alone.
	$(PYTHON_BIN) -m pytest -n 4 --dist loadfile --no-loadscope-reorder --cov --cov-report=
	@# Says nothing when all is well: the last words are those of pytest.
	@$(PYTHON_BIN) -m coverage report --include='$(PURE)' --fail-under=100 >/dev/null || \
		{ $(PYTHON_BIN) -m coverage report -m --skip-covered --include='$(PURE)'; exit 1; }

chaos: $(STAMP) ## Break everything, many times: half an hour; SEED=... repeats a run, ONLY=... chooses
	@sh scripts/proxies.sh
	@CHAOS=long CHAOS_SEED=$(SEED) $(PYTHON_BIN) -m pytest -s tests/chaos -k '$(or $(ONLY),not soak)'
	@# And what is too long for `make test`.
	@[ -n "$(ONLY)" ] || CHAOS=long $(PYTHON_BIN) -m pytest tests -m long --ignore tests/chaos

soak: $(STAMP) ## Twenty minutes of coming and going: does anything grow? SOAK=... minutes
	@SOAK=$(or $(SOAK),20) CHAOS_SEED=$(SEED) $(PYTHON_BIN) -m pytest tests/chaos/test_soak.py

image: $(STAMP) ## Build the image on a base made here, and try it; needs root, and minutes the first time
	@sh scripts/image.sh build/image

policies: ## Hold manifests and image against checkov's policies
	@sh scripts/policies.sh build/policies

bench: $(STAMP) ## A load test of ten to fifteen minutes, and a line that says which budgets hold
	@mkdir -p build
	@$(VENV)/bin/voice-relay loadtest --json build/bench.json

referee: $(STAMP) ## Let voicebench, which is not ours, talk to an agent with and without the relay
	@$(PYTHON_BIN) -m loadtests.referee build/referee

# The tests of relay/ cover each branch of these: they are the rules, and they are cheap to test.
comma := ,
empty :=
space := $(empty) $(empty)
PURE_FILES := relay/protocol/* relay/core/* relay/backoff.py relay/token_bucket.py \
	relay/functions/submission.py relay/journal/ages.py relay/live/quotas.py \
	relay/recorder/sound.py relay/recorder/track.py \
	relay/telemetry/histogram.py relay/telemetry/log_limit.py relay/telemetry/open_time.py \
	relay/transport/request_head.py
PURE := $(subst $(space),$(comma),$(PURE_FILES))

clean: ## Remove .venv and what tests leave behind
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
