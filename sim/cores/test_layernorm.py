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
    # little is rounded away: small differences inside show outside
    LayernormParams(
        channels=6, simd=2, mean_mult=10923, mean_shift=16, out_type=IntType(12, True), shift=4,
        max_tokens=5,
    ),
    # narrow and unsigned: every row is near the ends of the types
    LayernormParams(
        channels=4, simd=2, mean_mult=4, mean_shift=4, in_type=IntType(3, False),
        out_type=IntType(3, True), index_bits=3, rsqrt_type=IntType(10, False), norm_shift=1,
        scale_type=IntType(4, False), bias_type=IntType(10, True), shift=9, max_tokens=7,
    ),
    # widest, products in DSP blocks
    LayernormParams(
        channels=10, simd=5, mean_mult=419430, mean_shift=22, in_type=IntType(16, True),
        out_type=IntType(8, True), rsqrt_type=IntType(13, False), bias_type=IntType(18, True),
        mult_dsp=1, max_tokens=6,
    ),
    # table addressed linearly
    LayernormParams(
        channels=9, simd=3, mean_mult=7282, mean_shift=16, in_type=IntType(7, True),
        out_type=IntType(5, True), entries=37, table_offset=-3001, table_shift=8,
        rsqrt_type=IntType(9, False), norm_shift=3, scale_type=IntType(6, True),
        bias_type=IntType(14, True), max_tokens=7,
    ),
    # DeiT-Tiny in HG-PIPE
    LayernormParams(
        channels=192, simd=8, mean_mult=43691, mean_shift=23, in_type=IntType(14, True),
        out_type=IntType(3, True), entries=128, table_offset=-8585116, table_shift=17,
        rsqrt_type=IntType(12, False), norm_shift=0, scale_type=IntType(17, True),
        bias_type=IntType(36, True), shift=33, half_up=1, mult_dsp=1, max_tokens=9,
    ),
    # shared, by the leading one; several beats, one
    LayernormParams(
        channels=6, simd=2, mean_mult=10923, mean_shift=16, out_type=IntType(12, True), shift=4,
        sets=3, max_tokens=5,
    ),
    LayernormParams(channels=4, simd=4, mean_mult=16384, sets=2, max_tokens=6),
    # shared, addressed linearly
    LayernormParams(
        channels=9, simd=3, mean_mult=7282, mean_shift=16, in_type=IntType(7, True),
        out_type=IntType(5, True), entries=37, table_offset=-3001, table_shift=8,
        rsqrt_type=IntType(9, False), norm_shift=3, scale_type=IntType(6, True),
        bias_type=IntType(14, True), sets=5, max_tokens=4,
    ),
    LayernormParams(
        channels=12, simd=1, mean_mult=699051, mean_shift=23, in_type=IntType(14, True),
        out_type=IntType(3, True), entries=16, table_offset=-8585116, table_shift=23,
        rsqrt_type=IntType(12, False), norm_shift=0, scale_type=IntType(17, True),
        bias_type=IntType(36, True), shift=33, half_up=1, mult_dsp=1, sets=12, max_tokens=3,
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_layernorm(params: LayernormParams) -> None:
    check_core("layernorm", params, seed=1, exact_rate=True)
