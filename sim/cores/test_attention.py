# SPDX-License-Identifier: Apache-2.0
"""attention: golden == RTL."""

import pytest

from sievit.quant.cores.attention import AttentionParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    AttentionParams(max_tokens=9),
    # the small network's shape, two tokens side by side
    AttentionParams(channels=24, heads=3, simd=4, tp=2, kv_ram=1, max_tokens=11),
    # all heads side by side, other widths, ties upwards, DSP products
    AttentionParams(
        channels=12, heads=3, simd=2, heads_par=3, n=1, q_type=IntType(6, True),
        k_type=IntType(5, True), v_type=IntType(6, True), exp_shift=3, exp_offset=4, exp_entries=50,
        exp_type=IntType(8, False), index_bits=4, recip_type=IntType(11, False), prob_shift=3,
        prob_type=IntType(7, False), out_type=IntType(6, True), half_up=1, mult_dsp=1,
        max_tokens=18,
    ),
    # dense, a head per beat, three tokens side by side
    AttentionParams(channels=8, heads=2, simd=4, n=4, tp=3, max_tokens=13),
    # one channel per beat, groups of two, unsigned operands, two of four heads side by side
    AttentionParams(
        channels=24, heads=4, simd=1, heads_par=2, n=1, m=2, tp=2, q_type=IntType(4, False),
        k_type=IntType(4, False), v_type=IntType(4, False), exp_shift=1, exp_offset=1,
        out_type=IntType(5, False), shift=7, max_tokens=7,
    ),
    # one token, three lanes
    AttentionParams(channels=6, heads=2, simd=3, n=2, m=3, max_tokens=1),
    # 1:1, one lane, smallest widths
    AttentionParams(
        channels=2, heads=2, simd=1, n=1, m=1, q_type=IntType(2, True), k_type=IntType(2, True),
        v_type=IntType(2, True), exp_shift=0, exp_offset=0, exp_entries=8,
        exp_type=IntType(3, False), index_bits=1, recip_type=IntType(4, False), prob_shift=0,
        prob_type=IntType(3, False), out_type=IntType(2, True), shift=2, max_tokens=7,
    ),
    # 4:8 in softmax pairs, largest widths
    AttentionParams(
        channels=12, heads=1, simd=3, n=4, m=8, tp=2, q_type=IntType(12, True),
        k_type=IntType(11, False), v_type=IntType(12, True), exp_shift=14, exp_offset=5000,
        exp_entries=200, exp_type=IntType(14, False), index_bits=8, recip_type=IntType(16, False),
        prob_shift=5, prob_type=IntType(10, False), out_type=IntType(12, True), shift=10,
        max_tokens=19,
    ),
    # 2:16
    AttentionParams(channels=4, heads=2, simd=1, n=2, m=16, heads_par=2, max_tokens=20),
    # reciprocals in two segments of five, two tokens and both heads side by side; they share
    # products, the odd keys do not
    AttentionParams(
        channels=18, heads=2, simd=3, n=2, m=5, heads_par=2, tp=2, q_type=IntType(4, True),
        k_type=IntType(5, True), v_type=IntType(5, True), exp_shift=3, exp_offset=3,
        exp_entries=23, exp_type=IntType(6, False), recip_type=IntType(7, False), prob_shift=9,
        prob_type=IntType(4, False), out_type=IntType(7, True), shift=2, max_tokens=11,
        recip_entries=5, near_offset=-70, near_shift=4, far_offset=-120, far_shift=5,
        far_prob_shift=1, mult_dsp=1,
    ),
    # a head of DeiT-Tiny in three bits, dense, four products per DSP block; reciprocals in two
    # segments with a gap between them
    AttentionParams(
        channels=192, heads=3, simd=16, n=4, m=4, tp=2, mult_dsp=1, q_type=IntType(3, True),
        k_type=IntType(3, True), v_type=IntType(3, True), exp_shift=4, exp_offset=8,
        exp_entries=32, exp_type=IntType(16, False), recip_type=IntType(9, False), prob_shift=18,
        prob_type=IntType(3, False), out_type=IntType(11, True), shift=0, half_up=1,
        max_tokens=21, recip_entries=64, near_offset=-70000, near_shift=12, far_offset=-395000,
        far_shift=11, far_prob_shift=2,
    ),
    # unsigned operands, four score products per DSP block, two value products of a row's own keys
    AttentionParams(
        channels=16, heads=2, simd=4, n=2, m=4, tp=4, mult_dsp=1, kv_ram=1,
        q_type=IntType(4, False), k_type=IntType(3, False), v_type=IntType(4, False), exp_shift=3,
        exp_offset=2, exp_entries=40, prob_shift=2, prob_type=IntType(5, False),
        out_type=IntType(6, False), shift=4, max_tokens=15,
    ),
    # three layers, 2:4, tables by the leading one, two tokens side by side
    AttentionParams(
        channels=8, heads=2, simd=2, tp=2, exp_offset=7, exp_shift=5, exp_span=3, exp_entries=20,
        exp_type=IntType(6, False), recip_type=IntType(8, False), prob_shift=-1, index_bits=5,
        q_type=IntType(4, True), k_type=IntType(5, True), v_type=IntType(4, True),
        out_type=IntType(6, True), shift=6, max_tokens=9, sets=3,
    ),
    # twelve layers, dense, segments, DSP products
    AttentionParams(
        channels=16, heads=2, simd=4, n=4, m=4, tp=2, mult_dsp=1, q_type=IntType(3, True),
        k_type=IntType(3, True), v_type=IntType(3, True), exp_shift=4, exp_offset=15, exp_span=2,
        exp_entries=32, exp_type=IntType(12, False), recip_type=IntType(11, False), prob_shift=17,
        prob_type=IntType(3, False), out_type=IntType(7, True), shift=0, half_up=1, max_tokens=14,
        recip_entries=16, near_offset=-2600, near_shift=9, near_span=1, far_offset=-12000,
        far_shift=11, far_span=2, far_prob_shift=2, sets=12,
    ),
    # two layers, 1:4, segments of five, all heads side by side
    AttentionParams(
        channels=12, heads=3, simd=2, heads_par=3, n=1, q_type=IntType(4, True),
        k_type=IntType(4, True), v_type=IntType(5, True), exp_shift=3, exp_offset=3, exp_span=3,
        exp_entries=23, exp_type=IntType(6, False), recip_type=IntType(7, False), prob_shift=8,
        prob_type=IntType(4, False), out_type=IntType(7, True), shift=2, max_tokens=18,
        recip_entries=5, near_offset=-70, near_shift=4, near_span=3, far_offset=-120, far_shift=5,
        far_span=1, far_prob_shift=1, sets=2,
    ),
    # five layers, 2:5, DSP products, by the leading one
    AttentionParams(
        channels=12, heads=2, simd=3, n=2, m=5, tp=2, mult_dsp=1, q_type=IntType(4, True),
        k_type=IntType(4, True), v_type=IntType(4, True), exp_shift=4, exp_offset=12, exp_span=1,
        exp_entries=30, exp_type=IntType(8, False), index_bits=4, recip_type=IntType(9, False),
        prob_shift=3, prob_type=IntType(5, False), out_type=IntType(6, True), shift=5,
        max_tokens=11, sets=5,
    ),
    # DSP blocks at twice the clock: dense, chains of 16 and 4, keys and channels take turns
    AttentionParams(
        channels=96, heads=3, simd=16, n=4, m=4, tp=2, mult_dsp=1, pump=2, q_type=IntType(3, True),
        k_type=IntType(3, True), v_type=IntType(3, True), exp_shift=4, exp_offset=8,
        exp_entries=32, exp_type=IntType(16, False), recip_type=IntType(9, False), prob_shift=18,
        prob_type=IntType(3, False), out_type=IntType(11, True), shift=0, half_up=1,
        max_tokens=13, recip_entries=64, near_offset=-70000, near_shift=12, far_offset=-395000,
        far_shift=11, far_prob_shift=2,
    ),
    # the same, 3:5, odd chains, tokens take turns, and the channels of a row's own values
    AttentionParams(
        channels=12, heads=2, simd=2, n=3, m=5, tp=4, mult_dsp=1, pump=2,
        q_type=IntType(7, True), k_type=IntType(8, True), v_type=IntType(9, True), exp_shift=4,
        exp_offset=12, exp_span=1, exp_entries=30, exp_type=IntType(8, False), index_bits=4,
        recip_type=IntType(9, False), prob_shift=3, prob_type=IntType(9, False),
        out_type=IntType(6, True), shift=5, max_tokens=11, sets=3,
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_attention(params: AttentionParams) -> None:
    check_core("attention", params, seed=1, exact_rate=True)
