# SPDX-License-Identifier: Apache-2.0
"""layernorm: golden == RTL."""

import pytest

from sievit.quant.cores.layernorm import LayernormParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    LayernormParams(max_tokens=5),
    # one lane, not a power of two, ties upwards
    LayernormParams(
        channels=12, simd=1, mean_mult=5461, mean_shift=16, in_type=IntType(8, True),
        out_type=IntType(6, False), index_bits=4, norm_shift=1, half_up=1, max_tokens=4,
    ),
    # a token per beat
    LayernormParams(
        channels=6, simd=6, mean_mult=10923, mean_shift=16, in_type=IntType(10, True),
        max_tokens=18,
    ),
    LayernormParams(
        channels=48, simd=4, mean_mult=1365, mean_shift=16, index_bits=7,
        rsqrt_type=IntType(14, False), norm_shift=3, shift=11, max_tokens=17,
    ),
    LayernormParams(channels=8, simd=4, out_type=IntType(12, True), shift=4, max_tokens=1),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_layernorm(params: LayernormParams) -> None:
    check_core("layernorm", params, seed=1, exact_rate=True)
