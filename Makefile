# make help prints itself: what stands behind ## is shown.

PYTHON ?= python3
VENV   ?= .venv
PEERS  ?= .venv-bench
DATA   ?=
WILD   ?=
SIZE   ?= 256
# Empty: train.config.TrainConfig's own defaults, or the preset's.
EPOCHS ?= $(if $(DATA)$(PRESET),,16)
BATCH  ?=
LR     ?=
DEVICE ?= auto
LOADER ?= auto
SPLIT  ?= test
IMAGE  ?=
SAMPLES ?= 400
OUTPUT ?= output
RESUME ?=
STRESS ?=
ROUNDS ?=
PRESET ?=
SEED   ?=
T      ?=

comma  := ,
SAMPLE := data/sample
SOURCE := $(or $(DATA),$(SAMPLE))
NAME   := $(if $(DATA),$(shell basename "$(DATA)" .zip | tr ' ' '-'),sample)
SHARDS ?= shards/$(NAME)-$(SIZE)
MODEL  ?= $(OUTPUT)/eye_segmentation_model.pth
PY     := $(VENV)/bin/python
TRAIN_ARGS := --shards $(SHARDS) --output $(OUTPUT) $(if $(PRESET),--preset $(PRESET)) \
	$(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(BATCH),--batch $(BATCH)) $(if $(LR),--lr $(LR)) \
	$(if $(SEED),--seed $(SEED)) --device $(DEVICE) --loader $(LOADER)
PAGE   := infer/page
DIST   := $(PAGE)/dist
EXTRAS := train,video$(if $(shell command -v nvidia-smi),$(comma)gpu)

.DEFAULT_GOAL := help
.PHONY: help venv sample shards train speedrun evaluate weights infer page test test-page test-cloud test-ray faults lint licences peers bench bench-gpu bench-growth bench-scale bench-page clean FORCE
.DELETE_ON_ERROR:

help: ## this list
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 14
	@echo "Variables (now):"
	@echo "  DATA=$(DATA)  CelebAMask-HQ folder or zip; without it, faces are drawn (SAMPLES=$(SAMPLES))"
	@echo "  WILD=$(WILD)  a second set for weights: images/ and eye_masks/"
	@echo "  SIZE=$(SIZE) PRESET=$(PRESET) SEED=$(SEED) EPOCHS=$(EPOCHS) BATCH=$(BATCH) LR=$(LR) DEVICE=$(DEVICE) LOADER=$(LOADER)"
	@echo "  SHARDS=$(SHARDS) OUTPUT=$(OUTPUT) MODEL=$(MODEL)"
	@echo "  SPLIT=$(SPLIT)  for evaluate;  IMAGE=$(IMAGE)  for infer;  RESUME=1 goes on with a run;  ROUNDS=5  for bench"
	@echo "  VENV=$(VENV) PYTHON=$(PYTHON)  (3.11 or newer)"

venv: $(VENV)/.installed ## virtual environment with the pinned packages

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Error: $(PYTHON) is older than 3.11. Give another: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$(EXTRAS)]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev,parquet,$(EXTRAS)]"
	@touch $@

# Not in `dev`: moto and what it needs take 130 MB.
$(VENV)/.installed-cloud: $(VENV)/.installed-dev
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[cloud,dev-cloud]"
	@touch $@

# Not in `dev`: Ray takes 240 MB.
$(VENV)/.installed-ray: $(VENV)/.installed-dev
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[ray]"
	@touch $@

sample: $(SAMPLE)/sample.json ## draw faces in the official layout (SAMPLES)

$(SAMPLE)/sample.json: $(VENV)/.installed FORCE
	@$(PY) -m preprocess sample --out $(SAMPLE) --count $(SAMPLES)

shards: $(SHARDS)/manifest.json ## pack DATA into WebDataset shards (only what changed)

# Run every time and quick when nothing changed: the packer knows best what it has to redo.
$(SHARDS)/manifest.json: $(VENV)/.installed $(if $(DATA),,$(SAMPLE)/sample.json) FORCE
	@$(PY) -m preprocess --data "$(SOURCE)" --out "$(SHARDS)" --size $(SIZE) --update

train: $(OUTPUT)/.trained ## pack, train, plot; writes OUTPUT (PRESET=fast, EPOCHS, BATCH, LR, SIZE, DEVICE)
	@echo "$(MODEL) is there; retrain with other settings, or remove $(OUTPUT)/.trained"

$(OUTPUT)/.trained: $(SHARDS)/manifest.json $(OUTPUT)/.settings
	@rm -f $@
	@$(PY) -m train $(TRAIN_ARGS) $(if $(RESUME),--resume)
	@touch $@

$(OUTPUT)/.settings: FORCE
	@mkdir -p $(OUTPUT)
	@echo '$(TRAIN_ARGS)' | cmp -s - $@ || echo '$(TRAIN_ARGS)' > $@

speedrun: $(SHARDS)/manifest.json ## fewest seconds to nearly the recipe's F1: drawn faces first, then DATA (docs/speedrun.md)
	@test -n "$(DATA)" || { echo "Error: DATA is empty. Give CelebAMask-HQ: make speedrun DATA=..." >&2; exit 2; }
	@$(PY) -m preprocess sample --out $(SAMPLE) --count $(SAMPLES)
	@$(PY) -m preprocess --data $(SAMPLE) --out shards/sample-$(SIZE) --size $(SIZE) --update
	@$(PY) -m train --shards shards/sample-$(SIZE) --output $(OUTPUT)/drawn --preset fast --epochs 18 \
		--device $(DEVICE) --loader $(LOADER)
	@$(PY) -m train --shards $(SHARDS) --output $(OUTPUT)/speedrun --preset fast --epochs 16 \
		--init $(OUTPUT)/drawn/eye_segmentation_model.pth --device $(DEVICE) --loader $(LOADER)

evaluate: $(SHARDS)/manifest.json ## figures of MODEL on SPLIT, plots and pictures (STRESS=1: harder ones too)
	@$(PY) -m train evaluate --shards $(SHARDS) --split $(SPLIT) --model $(MODEL) \
		--output $(OUTPUT) --device $(DEVICE) --loader $(LOADER) $(if $(STRESS),--stress)

# Squares of 256: drawn faces, then DATA. Squares of 384: DATA and WILD.
weights: $(SHARDS)/manifest.json ## train the bundled weights anew from drawn faces, DATA and WILD (docs/recipe.md; SEED)
	@test -n "$(DATA)" || { echo "Error: DATA is empty. Give CelebAMask-HQ: make weights DATA=..." >&2; exit 2; }
	@$(PY) -m preprocess sample --out data/drawn --count 1000
	@$(PY) -m preprocess --data data/drawn --out shards/drawn-$(SIZE) --size $(SIZE) --update
	@$(PY) -m train --shards shards/drawn-$(SIZE) --output $(OUTPUT)/drawn --epochs 12 --resume \
		--device $(DEVICE) --loader $(LOADER)
	@$(PY) -m train --shards $(SHARDS) --output $(OUTPUT)/recipe --preset recipe $(if $(SEED),--seed $(SEED)) \
		--init $(OUTPUT)/drawn/eye_segmentation_model.pth --resume --device $(DEVICE) --loader $(LOADER)
	@$(PY) -m preprocess --data "$(DATA)" --out shards/$(NAME)-384 --size 384 --update
	@$(if $(WILD),$(PY) -m preprocess --data "$(WILD)" --out shards/wild-384 --size 384 --update)
	@$(PY) -m train --shards shards/$(NAME)-384 $(if $(WILD),--shards shards/wild-384) --preset closer \
		--output $(OUTPUT)/weights --init $(OUTPUT)/recipe/eye_segmentation_model.pth $(if $(SEED),--seed $(SEED)) \
		--resume --device $(DEVICE) --loader $(LOADER)
	@$(PY) -m train export --model $(OUTPUT)/weights/eye_segmentation_model.pth --shards shards/$(NAME)-384 \
		--output infer/weights/eyes.onnx --half
	@$(PY) -m train export --model $(OUTPUT)/weights/eye_segmentation_model.pth \
		--output infer/weights/eyes.safetensors
	@cat infer/weights/eyes.onnx.sha256 infer/weights/eyes.safetensors.sha256 > infer/weights/eyes.sha256
	@rm infer/weights/eyes.onnx.sha256 infer/weights/eyes.safetensors.sha256

infer: $(VENV)/.installed ## cut the eyes out of IMAGE (with the bundled weights, or MODEL)
	@test -n "$(IMAGE)" || { echo "Error: IMAGE is empty. Give one: make infer IMAGE=x.jpg" >&2; exit 2; }
	@$(PY) -m infer --image "$(IMAGE)" $(if $(filter command% environment%,$(origin MODEL)),--model $(MODEL)) \
		--device $(DEVICE)

page: $(DIST)/index.html ## build the live page, infer/page/dist (needs Node.js; docs/page.md)

$(PAGE)/node_modules/.package-lock.json: $(PAGE)/package-lock.json
	cd $(PAGE) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error

$(DIST)/index.html: $(VENV)/.installed $(PAGE)/node_modules/.package-lock.json $(wildcard $(PAGE)/*.* \
		$(PAGE)/src/* $(PAGE)/static/* infer/*.py infer/weights/*.onnx)
	$(PY) -m infer.page_data $(PAGE)/data
	cd $(PAGE) && npm run --silent build

# The page's own tests skip unless `make page` built it: they take minutes, and a browser.
test: lint ## the whole suite, or T=tests/test_mask.py
	$(PY) -m pytest $(or $(T),-n auto --maxprocesses 4 --dist loadfile)

faults: $(VENV)/.installed-dev ## damaged files by the thousand, kills by the hundred (ROUNDS=2000 of each format; SEED)
	EYES_FUZZ=$(or $(ROUNDS),2000) EYES_SEED=$(or $(SEED),0) EYES_KILLS=280 $(PY) -m pytest tests/faults

test-page: page $(VENV)/.installed-dev ## the live page in Chromium (Debian: apt-get install chromium)
	$(PY) -m pytest tests/page

test-cloud: $(VENV)/.installed-cloud ## packs and photos in object storage, against a server on loopback
	$(PY) -m pytest tests/test_cloud.py tests/test_cloud_photos.py tests/test_cloud_source.py

test-ray: $(VENV)/.installed-ray ## packing on Ray, on a cluster of this machine
	$(PY) -m pytest tests/on_ray

lint: $(VENV)/.installed-dev ## ruff and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

licences: $(VENV)/.installed-dev ## licences of all that the extras need; fails if one is not allowed
	@$(PY) .ci/licences.py

peers: $(PEERS)/.installed ## an environment for the peers of the benchmarks, PEERS

# FFCV is compiled against both libraries; without them pip would end in pages of compiler output.
$(PEERS)/.installed: tests/bench/requirements.txt
	@pkg-config --exists opencv4 libturbojpeg || { echo "Error: FFCV, a peer of the benchmarks, needs" \
		"pkg-config, OpenCV and libturbojpeg with headers. On Debian or Ubuntu:" \
		"apt-get install libopencv-dev libturbojpeg0-dev pkg-config g++" >&2; exit 2; }
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# One after the other, whatever -j says: each measures the whole machine.
bench: $(VENV)/.installed-dev $(PEERS)/.installed ## pack, load, train, infer beside their peers (ROUNDS); also bench-pack ...
	@for what in pack load training inference; do $(MAKE) --no-print-directory bench-$$what || exit 1; done

bench-gpu: $(VENV)/.installed-dev ## tests and figures of the GPU path (needs a CUDA device)
	$(PY) -m pytest -m gpu
	$(PY) tests/bench/gpu.py $(if $(DATA),--data "$(DATA)") --out docs/benchmarks

bench-growth: $(VENV)/.installed-dev ## packing, loading, training of 1,000 to 100,000 samples (ROUNDS)
	$(PY) tests/bench/growth.py $(if $(ROUNDS),--rounds $(ROUNDS)) --out docs/benchmarks

bench-scale: $(VENV)/.installed-cloud $(VENV)/.installed-ray ## object storage beside the disk, Ray beside processes, the plan on paper (ROUNDS)
	$(PY) tests/bench/storage.py $(if $(ROUNDS),--rounds $(ROUNDS)) --out docs/benchmarks --peers-python $(PY)
	$(PY) tests/bench/engine.py $(if $(ROUNDS),--rounds $(ROUNDS)) --out docs/benchmarks --peers-python $(PY)
	$(PY) tests/bench/scale_model.py --out docs/benchmarks

# Figures of docs/page.md.
bench-page: page $(VENV)/.installed-dev ## the live page in Chromium: first mask, ms a frame, bytes (ROUNDS)
	$(PY) tests/bench/live_page.py $(if $(ROUNDS),--rounds $(ROUNDS))

bench-%: tests/bench/%.py $(VENV)/.installed-dev $(PEERS)/.installed FORCE
	$(PY) $< $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(DATA),--data "$(DATA)") \
		--out docs/benchmarks --peers-python $(PEERS)/bin/python

clean: ## remove shards, drawn faces, virtual environment (OUTPUT stays)
	rm -rf $(PAGE)/data $(DIST) $(PAGE)/node_modules
	rm -rf shards data $(VENV) $(PEERS) .pytest_cache .ruff_cache .mypy_cache *.egg-info
