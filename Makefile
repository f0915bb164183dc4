# Each target sets up what it needs in .host/ (reused when whole).
PYTHON = python3
HOST = 0.30.0
MODEL = portrait
PORT =
ARGS =
TESTS = tests
PROCESSES = 2
host = $(PYTHON) -m dev.host --host $(HOST)

help:
	@echo "make demo        edit a face in a real ComfyUI; writes a picture to output/"
	@echo "make test        run the tests (ARGS='-k name' passes options to pytest, ARGS='-m slow' runs the slow ones; PROCESSES=$(PROCESSES))"
	@echo "make lint        check format, import order and usual mistakes (ruff), and types (mypy)"
	@echo "make test-long   run the campaigns at their full size (hours); writes docs/hardening"
	@echo "make ui          serve ComfyUI with this pack (PORT=8188 chooses the port)"
	@echo "make bench       measure speed, and what the pack adds to the host's start"
	@echo "make bench-hspace  measure editing in h-space on the demo model; writes docs/hspace.md"
	@echo "make bench-attributes  measure attributes (AVI) on a demo model (MODEL); writes docs/attributes.md"
	@echo "make bench-training  measure training directions on the demo model; writes docs/training.md"
	@echo "make bench-guidance  measure guidance by a picture and by a scorer on the demo model; writes docs/guidance.md"
	@echo "make bench-properties  measure the latent space's three properties (MODEL); writes docs/properties.md"
	@echo "make bench-evidence  measure all ways to edit against each other (MODEL=$(MODEL) or portrait-dit; about an hour, resumes); writes docs/evidence.md"
	@echo "make bench-places  search where, when and how strongly a contrast of two prompts acts best (MODEL); writes docs/places.md"
	@echo "make bench-families  try Make Slider on every family of models, with random weights (HOST); writes docs/families.md"
	@echo "make bench-slider-lora  train slider LoRAs and measure them beside Make Slider (MODEL; hours, resumes); writes docs/slider_lora.md"
	@echo "make bench-spaces  measure what cancels when a prediction is shifted, and h-space beside it; writes docs/spaces.md"
	@echo "make bench-sheets  draw eight sliders at nine strengths (MODEL); writes docs/sliders_<model>.jpg"
	@echo "make bench-quality  all of the measurements of edits, one after another; writes docs/"
	@echo "                 ARGS='--smallest --out folder' goes through any of them in seconds"
	@echo "make help-pictures  draw the pictures of the help pages (ARGS=name for one)"
	@echo "make demo-model  train the demo models (ARGS='--seconds 580' on a GPU)"
	@echo "make where       set up, then print the interpreter and the host's folder"
	@echo "make clean       remove .host/, the environments and hosts made here"
	@echo "HOST=0.20.1 chooses ComfyUI 0.20.1 instead of 0.30.0"

demo:
	@$(host) run -m dev.demo $(ARGS)

test:
	@$(host) --browser run -P -m pytest --import-mode=importlib --numprocesses $(PROCESSES) --dist loadfile $(TESTS) $(ARGS)

lint:
	@$(host) run -m ruff format --check .
	@$(host) run -m ruff check .
	@MYPYPATH=.host/$(HOST)/ComfyUI/custom_nodes $(host) run -m mypy

test-long:
	@$(host) --browser run -P -m pytest --import-mode=importlib $(TESTS) -m campaign --long -o faulthandler_timeout=0 $(ARGS)

ui:
	@$(host) run -m dev.server $(if $(PORT),--port $(PORT)) $(ARGS)

bench:
	@$(host) run bench/speed.py $(ARGS)
	@$(host) run bench/passes.py $(filter --smallest,$(ARGS))
	@$(host) run bench/loading.py

bench-hspace:
	@$(host) run bench/hspace.py $(ARGS)

bench-attributes:
	@$(host) run bench/attributes.py --model $(MODEL) $(ARGS)

bench-training:
	@$(host) run bench/training.py $(ARGS)

bench-guidance:
	@$(host) run bench/guidance.py $(ARGS)

bench-properties:
	@$(host) run bench/properties.py --model $(MODEL) $(ARGS)

bench-evidence:
	@$(host) run bench/evidence.py --model $(MODEL) $(ARGS)
	@$(host) run bench/evidence.py --model $(MODEL) --cost $(ARGS)

bench-places:
	@$(host) run bench/places.py --model $(MODEL) $(ARGS)

bench-families:
	@$(host) run bench/families.py $(ARGS)

bench-sheets:
	@$(host) run bench/sheets.py --model $(MODEL) $(ARGS)

bench-slider-lora:
	@$(host) run bench/slider_lora.py --model $(MODEL) $(ARGS)

bench-spaces:
	@$(host) run bench/spaces.py $(ARGS)

bench-quality: bench-hspace bench-attributes bench-training bench-guidance bench-spaces bench-properties bench-evidence

help-pictures:
	@$(host) run -m dev.help_pictures $(ARGS)

demo-model:
	@$(host) run -m demo.train $(ARGS)

where:
	@$(host) where

clean:
	rm -rf .host

.PHONY: help demo test lint test-long ui bench bench-hspace bench-attributes bench-training bench-guidance bench-properties bench-evidence bench-places bench-families bench-sheets bench-slider-lora bench-spaces bench-quality help-pictures demo-model where clean
