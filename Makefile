# make demo      the whole chain on procedural images, a report at the end
# make paper PAPER=talukdar DATA=FOLDER    all stages of a paper; SCALE=tiny: in minutes; ARGS=preview=true: only said
# make test      the tests, less the slow ones        make test-all   every test
# make bench     speed against peers, in a table of minutes; ARGS=only=E1,D: some; ARGS=write=true: docs/benchmarks.md too
# make lint      ruff and mypy                        make format     let ruff mend what it can
# make audit     known vulnerabilities of what is pinned, where a database can be reached
# make lock      supply/*.txt anew, after constraints.txt has changed; needs uv
#
# Each but the last builds .venv from constraints.txt first when it is missing or older than constraints.txt, supply/*.txt or
# pyproject.toml. PYTHON=/path/to/python chooses the interpreter (3.10 to 3.13) and makes .venv anew.
# Every file must have the SHA-256 that supply/*.txt names (docs/reliability.md, Supply chain); HASHES=no, where your index
# serves wheels of its own, goes by versions alone.

.PHONY: demo paper test test-all bench lint format audit lock venv clean
.DELETE_ON_ERROR:
SHELL := /bin/sh
PYTHON ?=
SCALE ?= full
HASHES ?= yes
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
CANDIDATES := $(if $(PYTHON),$(PYTHON),python3.11 python3.12 python3.13 python3.10 python3)
# One stamp for each interpreter asked for by name, so that PYTHON= is never silently ignored.
STAMP := .venv/.installed$(if $(PYTHON),-$(subst /,_,$(PYTHON)))

demo: $(STAMP)
	@.venv/bin/python -m cxr.script.study study=phantom dir=demo

paper: $(STAMP)
	@test -n "$(PAPER)" || { echo "make: which paper? make paper PAPER=talukdar DATA=FOLDER [SCALE=tiny] [TRAIN='trainer=gpu']" >&2; exit 2; }
	@.venv/bin/python -m cxr.script.study study=$(PAPER) scale=$(SCALE) $(if $(DATA),'data_root="$(DATA)"') \
	  $(if $(TRAIN),'train="$(TRAIN)"') $(ARGS)

test: $(STAMP)
	@.venv/bin/python -m pytest $(PARALLEL) -m "not slow" $(ARGS)

test-all: $(STAMP)
	@.venv/bin/python -m pytest $(PARALLEL) $(ARGS)

bench: $(STAMP)
	@.venv/bin/python -c 'import kornia, litdata' 2>/dev/null || \
	  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt -e '.[bench]' </dev/null || \
	  echo "make: a peer could not be installed: its rows say so" >&2
	@.venv/bin/python -m benchmarks $(ARGS)

lint: $(STAMP)
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

format: $(STAMP)
	@.venv/bin/ruff check --fix .
	@.venv/bin/ruff format .

audit: $(STAMP)
	@.venv/bin/python supply/audit.py $(ARGS)

lock:
	@command -v uv >/dev/null || { echo "make: lock needs uv: pip install uv" >&2; exit 2; }
	@python3 supply/lock.py

venv: $(STAMP)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache

$(STAMP): constraints.txt pyproject.toml $(wildcard supply/*.txt)
	@rm -f .venv/.installed*
	@if [ -n "$(PYTHON)" ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for python in $(CANDIDATES); do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; \
	    then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: none of [$(CANDIDATES)] is Python 3.10 to 3.13; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python" >&2; \
	    exit 2; \
	  fi; \
	  "$$found" -m venv --clear .venv || exit 1; \
	fi
	@echo "make: installing into .venv from constraints.txt with $$(.venv/bin/python -V) (minutes the first time)"
ifneq ($(HASHES),no)
	@$(PIP) --require-hashes --no-deps -r supply/build.txt </dev/null
	@$(PIP) --require-hashes --no-deps --no-build-isolation -r supply/packages.txt </dev/null
	@$(PIP) --no-build-isolation --report .venv/torch.json -c constraints.txt -e '.[dev]' </dev/null
	@.venv/bin/python -I -S supply/verify.py .venv/torch.json
else
	@$(PIP) -c constraints.txt -e '.[dev]' </dev/null
endif
	@.venv/bin/python -m pip check --disable-pip-version-check
	@touch .venv/.installed $@
