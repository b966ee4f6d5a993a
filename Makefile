# `make demo` and `make test` do all set-up on a fresh machine and are quick when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); echo $$((n < 4 ? n : 4)))
BROWSERS := chromium chromium-browser google-chrome google-chrome-stable

.PHONY: demo test slow lint install

demo: $(READY)
	$(BIN)/wavbench demo

test: $(READY)
	@[ -n "$$WAVBENCH_CHROMIUM" ] || for name in $(BROWSERS); do command -v $$name; done | grep -q . \
		|| echo "no Chromium: the tests of the page in a browser are skipped; apt-get install chromium brings one"
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

install: $(READY)

# torch first and bounded: left to choose, pip would take the newest release with gigabytes of CUDA
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is too old; wavbench needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch>=2.11,<2.14"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
