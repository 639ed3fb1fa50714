# SPDX-License-Identifier: Apache-2.0
"""gated_sum: golden == RTL."""

import pytest

from sievit.quant.cores.gated_sum import GatedSumParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    GatedSumParams(max_tokens=5),
    GatedSumParams(
        channels=3, simd=3, a_type=IntType(6, True), b_type=IntType(5, True),
        out_type=IntType(13, True), max_tokens=4,
    ),
    # one lane, unsigned
    GatedSumParams(
        channels=5, simd=1, a_type=IntType(4, False), b_type=IntType(3, False),
        out_type=IntType(10, False), max_tokens=3,
    ),
    GatedSumParams(channels=1, simd=1, max_tokens=1),
    # the two extremes of both types, a sum that just fits
    GatedSumParams(
        channels=4, simd=4, a_type=IntType(2, True), b_type=IntType(2, True),
        out_type=IntType(6, True), max_tokens=18,
    ),
    # wide factors: two cycles per product; DSP blocks
    GatedSumParams(
        channels=6, simd=2, a_type=IntType(14, True), b_type=IntType(12, True),
        out_type=IntType(29, True), max_tokens=4,
    ),
    GatedSumParams(channels=9, simd=3, out_type=IntType(21, True), mult_dsp=1, max_tokens=4),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_gated_sum(params: GatedSumParams) -> None:
    check_core("gated_sum", params, seed=1)
