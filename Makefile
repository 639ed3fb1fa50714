# SPDX-License-Identifier: Apache-2.0
# Every target is one line that calls the command line of the package; Make only makes its environment.
BOARD ?= zcu102
MODEL ?= heatvit_nm_digits
NAME ?=
CORE ?=
DATA ?=
NPZ ?=
HOST ?=
PORT ?=
IMAGE ?=
SEED ?=
MATRIX ?= cifar10
JOBS ?= 1
LIMIT ?= 0

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
SIEVIT := $(BIN)/sievit
# boards whose bitstreams come from open tools need the packages of an extra
TOOLS := $(VENV)/.ready $(if $(shell grep -s '"trellis"' boards/$(BOARD).toml),$(VENV)/.ecp5)
ARGS := --model $(MODEL) $(if $(DATA),--data $(DATA))

.PHONY: hls rtl finn hls4ml finn-venv export train sim report bitstream run deploy boards cores core test test-finn test-hls4ml soak bench-cores bench-deit train-zoo bench-accuracy compare-backends resources lint clean help

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 13

hls: $(VENV)/.ready ## compile MODEL for BOARD, prove every view equal, write the report
	$(SIEVIT) build $(ARGS) --board $(BOARD)

rtl: $(VENV)/.ready ## generate everything for BOARD without the proof
	$(SIEVIT) build $(ARGS) --board $(BOARD) --no-proof

hls4ml: $(VENV)/.ready ## compile MODEL for BOARD as a project of hls4ml, prove it equal
	$(SIEVIT) build $(ARGS) --board $(BOARD) --backend hls4ml
finn: $(VENV)/.ready-finn ## the same by way of FINN, MODEL=heatvit_nm_digits_topk unless given
	$(SIEVIT) build --model $(if $(filter command line,$(origin MODEL)),$(MODEL),heatvit_nm_digits_topk) $(if $(DATA),--data $(DATA)) --board $(BOARD) --backend finn

export: $(VENV)/.ready ## write MODEL as QONNX
	$(SIEVIT) export $(ARGS) --board $(BOARD)

train: $(VENV)/.ready ## train MODEL (resumes if interrupted)
	$(SIEVIT) train $(ARGS)

train-zoo: $(VENV)/.ready ## train what MATRIX compares and has no checkpoint, JOBS points side by side, for LIMIT seconds
	$(SIEVIT) train-zoo --matrix $(MATRIX) $(if $(DATA),--data $(DATA)) --jobs $(JOBS) --limit $(LIMIT)

bench-accuracy: $(VENV)/.ready ## measure the checkpoints of MATRIX; writes docs/accuracy.md
	$(SIEVIT) bench-accuracy --matrix $(MATRIX) $(if $(DATA),--data $(DATA)) --limit $(LIMIT)

sim: $(VENV)/.ready ## simulate the built accelerator, or with CORE=x the bench of one core
	$(SIEVIT) sim $(ARGS) --board $(BOARD) $(if $(CORE),--core $(CORE))

report: $(VENV)/.ready ## print the report of the last build
	$(SIEVIT) report --model $(MODEL) --board $(BOARD)

bitstream: $(TOOLS) ## bitstream of MODEL for BOARD, or all up to Vivado's call; CORE=hls takes the IP of Vitis HLS
	$(SIEVIT) bitstream $(ARGS) --board $(BOARD) $(if $(CORE),--core $(CORE)) $(if $(SEED),--seed $(SEED))

run: $(TOOLS) ## classify IMAGE, or the test images, on BOARD behind PORT=/dev/tty... or PORT=sim
	$(SIEVIT) run $(ARGS) --board $(BOARD) --port $(or $(PORT),$(error name the serial port: make run BOARD=ulx3s_85f PORT=/dev/ttyUSB0)) $(if $(IMAGE),--image $(IMAGE))

deploy: $(TOOLS) ## run the test images on BOARD (HOST=user@board or PORT=/dev/tty...), or BOARD=sim, compare every byte
	$(SIEVIT) deploy $(ARGS) --board $(BOARD) $(if $(HOST),--host $(HOST)) $(if $(PORT),--port $(PORT))

boards: $(VENV)/.ready ## list the boards
	$(SIEVIT) boards

cores: $(VENV)/.ready ## list the cores
	$(SIEVIT) cores

core: $(VENV)/.ready ## write the four files of a new core NAME=x
	$(SIEVIT) core $(NAME)

test: $(VENV)/.ready ## run the tests: all that are quick, of the others a sample that SEED draws
	$(BIN)/python -m pytest --quick --durations 15 --durations-min 20

test-all: $(VENV)/.ready ## run every test, with every case
	$(BIN)/python -m pytest --durations 15 --durations-min 20

test-hls4ml: $(VENV)/.ready ## the default model through hls4ml, whole (some minutes)
	$(BIN)/python -m pytest tests/hls4ml
test-finn: $(VENV)/.ready-finn ## run the tests that need FINN
	$(BIN)/python -m pytest tests/finn

finn-venv: $(VENV)/.ready-finn ## add FINN (finn-plus) to the environment

soak: $(VENV)/.ready ## everything that the verification stages ask for, or CORE=x; writes sim/records
	$(SIEVIT) soak $(if $(CORE),--core $(CORE))

bench-cores: $(VENV)/.ready ## measure the rate of the cores; writes docs/throughput.md
	$(BIN)/python -m sievit.sim.throughput

bench-deit: $(VENV)/.ready ## compare pruned variants of DeiT-Tiny, NPZ=file of HG-PIPE, on BOARD; writes docs/deit.md
	$(SIEVIT) bench-deit $(or $(NPZ),$(error give the published file of HG-PIPE: make bench-deit NPZ=hgpipe_deit_tiny_a3w3.npz)) --board $(BOARD)

compare-backends: $(VENV)/.ready-finn ## build with every back end and with stock FINN and hls4ml; writes docs/backends.md
	$(SIEVIT) compare-backends --board $(BOARD)

resources: $(VENV)/.ready ## synthesise the cores over a grid of parameters; writes docs/resources.md
	$(BIN)/python -m sievit.rtl.grid

lint: $(VENV)/.ready ## ruff and mypy
	$(BIN)/ruff check .
	mkdir -p build/typing/sievit && cd build/typing/sievit && ln -sfn $(foreach d,models quant hls rtl sim boards flow,../../../$(d)) .
	MYPYPATH=build/typing $(BIN)/python -m mypy -p sievit

clean: ## remove what was built, keep the environment
	rm -rf build

$(VENV)/.ecp5: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -e ".[ecp5]"
	touch $@

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "sievit needs Python 3.11; set PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

$(VENV)/.ready-finn: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet -e ".[finn]"
	$(BIN)/python -m pip install --quiet --no-deps finn-plus==1.6.1
	touch $@
