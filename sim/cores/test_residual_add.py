# SPDX-License-Identifier: Apache-2.0
"""residual_add: golden == RTL."""

import pytest

from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    ResidualAddParams(max_tokens=5),
    ResidualAddParams(
        channels=3, simd=3, a_type=IntType(8, True), b_type=IntType(5, False),
        out_type=IntType(7, True), a_shift=2, b_shift=1, shift=3, max_tokens=4,
    ),
    # one lane, ties upwards
    ResidualAddParams(
        channels=5, simd=1, a_type=IntType(4, False), b_type=IntType(6, True),
        out_type=IntType(6, False), shift=1, half_up=1, max_tokens=3,
    ),
    ResidualAddParams(channels=6, simd=2, out_type=IntType(16, True), shift=-2, max_tokens=1),
    # narrow: every pair of values, ties to even
    ResidualAddParams(
        channels=7, simd=7, a_type=IntType(3, True), b_type=IntType(3, True),
        out_type=IntType(2, True), shift=1, max_tokens=18,
    ),
    # widest
    ResidualAddParams(
        channels=4, simd=4, a_type=IntType(16, True), b_type=IntType(16, True),
        out_type=IntType(16, True), a_shift=3, shift=4, max_tokens=6,
    ),
    # a scaled, ties to even: two rows; a DSP block
    ResidualAddParams(
        channels=9, simd=3, a_type=IntType(7, False), b_type=IntType(5, True),
        out_type=IntType(6, True), a_shift=1, shift=1, a_mult=5, a_mult_shift=4, max_tokens=4,
    ),
    ResidualAddParams(
        channels=4, simd=2, a_type=IntType(8, True), b_type=IntType(6, True),
        out_type=IntType(8, True), a_mult=12, a_mult_shift=3, mult_dsp=1, max_tokens=6,
    ),
    # DeiT-Tiny of HG-PIPE: an accumulator is added
    ResidualAddParams(
        channels=192, simd=8, a_type=IntType(14, True), b_type=IntType(16, True),
        out_type=IntType(14, True), half_up=1, a_mult=986673, a_mult_shift=20, max_tokens=3,
    ),
    ResidualAddParams(
        channels=12, simd=1, a_type=IntType(14, True), b_type=IntType(16, True),
        out_type=IntType(14, True), half_up=1, a_mult=986673, a_mult_shift=18, mult_dsp=1,
        max_tokens=5,
    ),
    # shared: the products of variable factors in LUTs, in DSP blocks, none
    ResidualAddParams(
        channels=6, simd=2, a_type=IntType(6, False), b_type=IntType(5, True),
        out_type=IntType(6, True), a_shift=1, shift=1, a_mult=29, a_mult_shift=4, sets=3,
        max_tokens=4,
    ),
    ResidualAddParams(
        channels=4, simd=2, a_type=IntType(14, True), b_type=IntType(16, True),
        out_type=IntType(14, True), half_up=1, a_mult=4194304, a_mult_shift=21, sets=12,
        max_tokens=3,
    ),
    ResidualAddParams(
        channels=3, simd=1, a_type=IntType(14, True), b_type=IntType(16, True),
        out_type=IntType(14, True), half_up=1, a_mult=986673, a_mult_shift=20, mult_dsp=1, sets=12,
        max_tokens=3,
    ),
    ResidualAddParams(
        channels=2, simd=2, a_type=IntType(4, True), b_type=IntType(4, True),
        out_type=IntType(4, True), sets=2, max_tokens=6,
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_residual_add(params: ResidualAddParams) -> None:
    check_core("residual_add", params, seed=1)
