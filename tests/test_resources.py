# SPDX-License-Identifier: Apache-2.0
"""Predicted resources agree with open synthesis, a small point per core."""

from typing import Any

import pytest
import torch

from sievit.quant.itype import IntType
from sievit.quant.params import core_names, load_core
from sievit.quant.sources import rtl_sources
from sievit.rtl.grid import GRID, LUT_SHARE, LUT_SLACK, Point, Store, describe
from sievit.rtl.netlist import NetlistError, resources, timing
from sievit.rtl.synth import yosys_stat

SEED = 3

POINTS: dict[str, dict[str, Any]] = {
    "attention": {
        "channels": 48, "heads": 3, "simd": 4, "max_tokens": 17, "mult_dsp": 1,
        "q_type": "int6", "k_type": "int6", "v_type": "int6", "out_type": "int6",
    },
    "first_token": {"channels": 8, "simd": 2},
    "gated_sum": {"channels": 3, "simd": 1},
    "layernorm": {"channels": 8, "simd": 1, "in_type": "int8", "out_type": "int6",
                  "bias_type": "int12"},
    "lookup_table": {"channels": 8, "simd": 2, "in_type": "int6", "out_type": "int6", "entries": 64,
                     "offset": 32},
    "nm_matmul": {"in_channels": 16, "out_channels": 8, "simd": 4, "pe": 2, "in_type": "int6",
                  "mult_dsp": 1},
    "pos_embed": {"channels": 8, "simd": 2, "max_tokens": 4},
    "residual_add": {"channels": 8, "simd": 2},
    "token_mean": {"channels": 6, "groups": 3, "simd": 1, "max_tokens": 17},
    "token_select": {"channels": 4, "simd": 1, "max_tokens": 5, "entries": 64, "x_type": "int8"},
}  # fmt: skip


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stem", core_names())
def test_resources(stem: str) -> None:
    core = load_core(stem)
    values = {k: IntType.parse(v) if isinstance(v, str) else v for k, v in POINTS[stem].items()}
    params = core.params(**values)
    constants = core.stimuli(torch.Generator().manual_seed(SEED), params, 2)[0]
    predicted, measured = params.resources(), yosys_stat(stem, params, constants)
    assert abs(predicted.lut - measured.lut) <= LUT_SHARE * measured.lut + LUT_SLACK, (
        f"{stem}: predicted {predicted.lut:.0f} LUT, synthesised {measured.lut:.0f}"
    )
    exact = (predicted.dsp, predicted.bram36, predicted.uram)
    assert exact == (measured.dsp, measured.bram36, measured.uram)


@pytest.mark.parametrize("stem", core_names())
def test_promise_over_the_grid(stem: str) -> None:
    store = Store()
    found = [(params, store.known(stem, params)) for params in GRID[stem]]
    missing = [describe(params) for params, result in found if result is None]
    assert not missing, f"{stem}.sv is not that of these points; run: make resources\n{missing}"
    points = [Point(stem, params, result) for params, result in found if result]
    wrong = {describe(p.params): (p.predicted, p.measured) for p in points if not p.agrees()}
    assert not wrong


def test_grid_covers_every_core() -> None:
    assert sorted(GRID) == core_names()
    for stem, points in GRID.items():
        assert points and all(p.stem() == stem for p in points)
        assert len({repr(p) for p in points}) == len(points), f"{stem}: a point twice"


def test_sources_of_a_core_follow_its_instances() -> None:
    names = {p.stem for p in rtl_sources("first_token")}
    assert names == {"first_token", "skid_buffer"}
    assert {"layernorm", "skid_buffer", "booth_mult", "num_pkg"} <= {
        p.stem for p in rtl_sources("layernorm")
    }


def cell(kind: str, inputs: dict[str, list[int]], outputs: dict[str, list[int]]) -> dict[str, Any]:
    directions = dict.fromkeys(inputs, "input") | dict.fromkeys(outputs, "output")
    return {
        "type": kind,
        "parameters": {},
        "port_directions": directions,
        "connections": inputs | outputs,
    }


def netlist(cells: dict[str, Any]) -> dict[str, Any]:
    """Ports clk_i, a, b and y on the nets 2, 3, 4 and 20."""
    ports = {
        name: {"direction": "output" if name == "y" else "input", "bits": [bit]}
        for name, bit in (("clk_i", 2), ("a", 3), ("b", 4), ("y", 20))
    }
    names = {
        name: {"hide_name": 0, "bits": [bit]} for name, bit in (("first_q", 5), ("last_q", 20))
    }
    return {"ports": ports, "cells": cells, "netnames": names}


def test_timing_of_a_netlist() -> None:
    """first_q -> two LUTs -> carry block -> LUT -> last_q is longer than b -> LUT -> last_q."""
    cells = {
        "start": cell("FDRE", {"C": [2], "D": [3]}, {"Q": [5]}),
        "l1": cell("LUT1", {"I0": [5]}, {"O": [6]}),
        "l2": cell("LUT2", {"I0": [6], "I1": [4]}, {"O": [7]}),
        "sum": cell("CARRY4", {"S": [7, 8, 9, 10], "CI": [11]}, {"O": [12, 13, 14, 15]}),
        "l3": cell("LUT2", {"I0": [15], "I1": [4]}, {"O": [16]}),
        "end": cell("FDRE", {"C": [2], "D": [16]}, {"Q": [20]}),
    }
    found = timing(netlist(cells))
    assert found.slowest == found.deepest
    path = found.slowest
    assert (path.levels, path.carry, path.start, path.end) == (3, 1, "first_q", "last_q")
    assert [step.split()[0] for step in path.via] == ["LUT1", "LUT2", "CARRY4", "LUT2"]
    # clock to out, three LUTs with a net each, the carry block, a net to the last LUT, set-up
    want = 0.08 + 0.5 + 0.5 + (0.15 + 0.03 + 0.10) + 0.5 + 0.05
    assert path.ns == pytest.approx(want)
    size = resources(netlist(cells))
    assert (size.lut, size.ff) == (3, 2)


def test_timing_refuses_a_loop_and_unknown_cells() -> None:
    loop = {
        "l1": cell("LUT1", {"I0": [20]}, {"O": [5]}),
        "l2": cell("LUT1", {"I0": [5]}, {"O": [20]}),
    }
    with pytest.raises(NetlistError, match="combinational loop through first_q, last_q"):
        timing(netlist(loop))
    with pytest.raises(NetlistError, match="unknown size: MYSTERY"):
        resources(netlist({"m": cell("MYSTERY", {}, {"Q": [20]})}))
