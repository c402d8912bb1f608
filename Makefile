# headrace's two commands: `make quickstart` and `make test`. Everything lives in .venv and workspace/.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: help quickstart test test-fast check format

help:
	@echo "make quickstart   make .venv, then run the whole pipeline on the standard library's text"
	@echo "make test         format, lint, types, layers and all tests"
	@echo "make test-fast    the same without the tests that start several processes"
	@echo "make format       put the code into the house's format"

quickstart: $(READY)
	@$(BIN)/python configs/quickstart_text.py workspace/text
	@$(BIN)/headrace run configs/quickstart.yaml

# Tests in one process each run side by side; those that start processes of their own run one after another.
test: test-fast
	$(BIN)/pytest -m slow

test-fast: check
	$(BIN)/pytest -m "not slow" -n 2

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Debian's python3 comes without ensurepip; pip's own wheel from PyPI can install itself.
define BOOTSTRAP_PIP
import hashlib, os, re, subprocess, sys, tempfile, urllib.parse, urllib.request
index = "https://pypi.org/simple/pip/"
links = re.findall(r'href="([^"]+/(pip-[0-9.]+-py3-none-any[.]whl)#sha256=([0-9a-f]{64}))"', urllib.request.urlopen(index).read().decode())
link, name, sha256 = max(links, key=lambda found: [int(part) for part in re.findall("[0-9]+", found[1])[:-1]])
data = urllib.request.urlopen(urllib.parse.urljoin(index, link)).read()
assert hashlib.sha256(data).hexdigest() == sha256, "pip's wheel is damaged; try again"
wheel = os.path.join(tempfile.mkdtemp(), name)
open(wheel, "wb").write(data)
sys.exit(subprocess.call([sys.executable, wheel + "/pip", "install", "--quiet", wheel]))
endef
export BOOTSTRAP_PIP

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "headrace needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "making .venv: some 2 GB of packages, with PyTorch the largest"
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null && $(PYTHON) -m venv .venv || \
		{ $(PYTHON) -m venv --without-pip .venv && $(BIN)/python -c "$$BOOTSTRAP_PIP"; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)
