# SPDX-License-Identifier: Apache-2.0
"""attention: golden == RTL."""

import pytest

from sievit.quant.cores.attention import AttentionParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    AttentionParams(max_tokens=9),
    # the small network
    AttentionParams(channels=48, heads=3, simd=4, max_tokens=17),
    # all heads side by side, other widths, ties upwards, DSP products
    AttentionParams(
        channels=12, heads=3, simd=2, heads_par=3, n=1, q_type=IntType(6, True),
        k_type=IntType(5, True), v_type=IntType(6, True), exp_shift=3, exp_offset=4, exp_entries=50,
        exp_type=IntType(8, False), index_bits=4, recip_type=IntType(11, False), prob_shift=3,
        prob_type=IntType(7, False), out_type=IntType(6, True), half_up=1, mult_dsp=1,
        max_tokens=18,
    ),
    # dense, a head per beat
    AttentionParams(channels=8, heads=2, simd=4, n=4, max_tokens=13),
    # one channel per beat, groups of two, unsigned operands, two of four heads side by side
    AttentionParams(
        channels=24, heads=4, simd=1, heads_par=2, n=1, m=2, q_type=IntType(4, False),
        k_type=IntType(4, False), v_type=IntType(4, False), exp_shift=1, exp_offset=1,
        out_type=IntType(5, False), shift=7, max_tokens=7,
    ),
    # one token
    AttentionParams(channels=6, heads=2, simd=3, n=2, m=3, max_tokens=1),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_attention(params: AttentionParams) -> None:
    check_core("attention", params, seed=1, exact_rate=True)
