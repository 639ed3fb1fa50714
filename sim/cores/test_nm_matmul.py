# SPDX-License-Identifier: Apache-2.0
"""nm_matmul: golden == RTL."""

import pytest

from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    NmMatmulParams(max_tokens=5),
    NmMatmulParams(  # dense, one lane, odd sizes, smallest unsigned types; two tokens, odd tail
        in_channels=5, out_channels=3, n=1, m=1, simd=1, pe=1, tp=2, in_type=IntType(2, False),
        weight_type=IntType(2, False), bias_type=IntType(5, True), acc_type=IntType(8, True),
        out_type=IntType(4, False), shift=0, max_tokens=5,
    ),
    NmMatmulParams(  # one step per token, whole token per beat; three tokens per multiplier
        in_channels=12, out_channels=6, n=1, m=4, simd=12, pe=6, tp=3, pack=3, mult_dsp=1,
        in_type=IntType(4, True), weight_type=IntType(3, True), bias_type=IntType(9, True),
        acc_type=IntType(12, True), out_type=IntType(5, True), shift=3, half_up=1, max_tokens=7,
    ),
    NmMatmulParams(  # groups, many terms: five chains of five DSP blocks, left shift, block RAM
        in_channels=120, out_channels=9, groups=3, n=5, m=8, simd=40, pe=3, tp=2, pack=2,
        mult_dsp=1, weight_type=IntType(8, True), bias_type=IntType(10, True),
        out_type=IntType(18, True), shift=-1, max_tokens=3, weight_ram=1,
    ),
    NmMatmulParams(  # groups with one input beat and one tile each: loading is as slow as computing
        in_channels=8, out_channels=4, groups=4, n=1, m=2, simd=2, pe=1, max_tokens=1,
        bias_type=IntType(12, False),
    ),
    NmMatmulParams(  # 4:16, largest types, table that clamps on both sides
        in_channels=32, out_channels=8, n=4, m=16, simd=16, pe=2, weight_type=IntType(8, True),
        acc_type=IntType(20, True), mid_type=IntType(10, True), out_type=IntType(7, False), shift=7,
        entries=100, table_offset=190, table_shift=2, max_tokens=4,
    ),
    NmMatmulParams(  # largest types that two tokens can share a multiplier with, table, block RAM
        in_channels=16, out_channels=8, n=2, m=8, simd=8, pe=1, tp=4, pack=2, mult_dsp=1,
        weight_type=IntType(8, True), mid_type=IntType(6, True), out_type=IntType(3, True),
        shift=11, entries=16, table_offset=32, table_shift=2, weight_ram=1, max_tokens=9,
    ),
    NmMatmulParams(  # four tokens per multiplier, unsigned inputs, groups
        in_channels=32, out_channels=4, groups=2, n=1, m=16, simd=16, pe=1, tp=4, pack=4,
        mult_dsp=1, in_type=IntType(2, False), weight_type=IntType(2, True),
        bias_type=IntType(4, True), acc_type=IntType(6, True), out_type=IntType(3, True), shift=1,
        max_tokens=6,
    ),
    NmMatmulParams(  # two unsigned tokens per multiplier, an accumulator that is never negative
        in_channels=6, out_channels=6, n=1, m=2, simd=2, pe=3, tp=2, pack=2, mult_dsp=1,
        in_type=IntType(6, False), weight_type=IntType(3, False), bias_type=IntType(7, False),
        acc_type=IntType(11, False), out_type=IntType(6, False), shift=4, max_tokens=3,
    ),
    NmMatmulParams(  # two tokens and two outputs per DSP block, chains of 15; DeiT-Tiny's types
        in_channels=30, out_channels=12, n=1, m=1, simd=15, pe=6, tp=4, pack=2, pack_out=2,
        mult_dsp=1, in_type=IntType(3, True), weight_type=IntType(3, True),
        bias_type=IntType(6, True), acc_type=IntType(10, True), out_type=IntType(3, True), shift=5,
        half_up=1, max_tokens=7, weight_ram=1,
    ),
    NmMatmulParams(  # the same of unsigned inputs, a block per chain
        in_channels=6, out_channels=4, n=1, m=1, simd=1, pe=2, tp=2, pack=2, pack_out=2, mult_dsp=1,
        in_type=IntType(3, False), weight_type=IntType(3, True), bias_type=IntType(6, True),
        acc_type=IntType(9, True), out_type=IntType(4, True), shift=4, max_tokens=5,
    ),
    NmMatmulParams(  # one product per DSP block, the weight at its wider port
        in_channels=10, out_channels=4, n=1, m=1, simd=5, pe=2, mult_dsp=1,
        in_type=IntType(5, True), weight_type=IntType(20, True), bias_type=IntType(12, True),
        acc_type=IntType(28, True), shift=18, max_tokens=3,
    ),
    NmMatmulParams(  # three sets, a step per token and one tile: a bank is read as fast as it comes
        in_channels=4, out_channels=2, simd=4, pe=2, sets=3, bias_type=IntType(10, True), shift=3,
        max_tokens=2,
    ),
    NmMatmulParams(  # five sets with tables, groups, three tiles and steps each
        in_channels=12, out_channels=6, groups=3, n=1, m=2, simd=2, pe=1, sets=5,
        bias_type=IntType(10, True), mid_type=IntType(6, True), out_type=IntType(5, True), shift=3,
        entries=20, table_offset=16, table_shift=1, max_tokens=3,
    ),
    NmMatmulParams(  # twelve sets with tables, two tokens and outputs per DSP block, block RAM
        in_channels=12, out_channels=6, n=1, m=1, simd=6, pe=2, tp=4, pack=2, pack_out=2,
        mult_dsp=1, in_type=IntType(3, True), weight_type=IntType(3, True),
        bias_type=IntType(6, True), acc_type=IntType(9, True), mid_type=IntType(4, True),
        out_type=IntType(4, True), shift=3, half_up=1, entries=16, table_offset=8, max_tokens=6,
        weight_ram=1, sets=12,
    ),
    NmMatmulParams(  # DSP blocks at twice the clock: chains of 15, two tokens and outputs per block
        in_channels=30, out_channels=12, n=1, m=1, simd=30, pe=4, tp=4, pack=2, pack_out=2,
        mult_dsp=1, pump=2, in_type=IntType(3, True), weight_type=IntType(3, True),
        bias_type=IntType(6, True), acc_type=IntType(10, True), out_type=IntType(3, True), shift=5,
        half_up=1, max_tokens=7, weight_ram=1,
    ),
    NmMatmulParams(  # the same with chains of twelve, groups, one product per block
        in_channels=24, out_channels=12, groups=2, n=1, m=1, simd=12, pe=2, mult_dsp=1, pump=2,
        in_type=IntType(11, False), weight_type=IntType(18, True), bias_type=IntType(12, True),
        acc_type=IntType(34, True), shift=22, max_tokens=5,
    ),
    NmMatmulParams(  # the same with one block per chain, four tokens side by side, five sets
        in_channels=6, out_channels=8, n=1, m=1, simd=1, pe=4, tp=4, pack=2, pack_out=2, mult_dsp=1,
        pump=2, in_type=IntType(3, False), weight_type=IntType(3, True), bias_type=IntType(6, True),
        acc_type=IntType(9, True), out_type=IntType(4, True), shift=4, max_tokens=5, sets=5,
    ),
    NmMatmulParams(  # inputs chosen at twice the clock: 4:16, chains of 16, DeiT-Tiny's types
        in_channels=64, out_channels=8, n=4, m=16, simd=64, pe=4, tp=4, pack=2, mult_dsp=1, pump=2,
        in_type=IntType(3, True), weight_type=IntType(3, True), bias_type=IntType(6, True),
        acc_type=IntType(10, True), out_type=IntType(3, True), shift=5, half_up=1, max_tokens=7,
        weight_ram=1, sets=3,
    ),
    NmMatmulParams(  # the same of 3:8, chains of three, groups, unsigned inputs, weights in LUTs
        in_channels=32, out_channels=8, groups=2, n=3, m=8, simd=8, pe=2, tp=3, pack=3, mult_dsp=1,
        pump=2, in_type=IntType(3, False), weight_type=IntType(3, True), bias_type=IntType(6, True),
        acc_type=IntType(10, True), out_type=IntType(4, True), shift=4, max_tokens=7,
    ),
    NmMatmulParams(  # the same of 1:2, a block per chain, one token, the weight at its wider port
        in_channels=6, out_channels=4, n=1, m=2, simd=2, pe=2, mult_dsp=1, pump=2,
        in_type=IntType(6, True), weight_type=IntType(20, True), bias_type=IntType(12, True),
        acc_type=IntType(28, True), shift=18, max_tokens=3,
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_nm_matmul(params: NmMatmulParams) -> None:
    check_core("nm_matmul", params, seed=1, exact_rate=True)
