# SPDX-License-Identifier: Apache-2.0
"""Predicted resources agree with open synthesis, a small point per core."""

from typing import Any

import pytest
import torch

from sievit.quant.itype import IntType
from sievit.quant.params import core_names, load_core
from sievit.rtl.synth import yosys_stat

SEED = 3
LUT_SHARE, LUT_SLACK = 0.30, 20

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
    assert predicted.dsp == measured.dsp
