# SPDX-License-Identifier: Apache-2.0
"""nm_matmul: golden == RTL."""

import pytest

from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    NmMatmulParams(max_tokens=5),
    NmMatmulParams(  # dense, one lane, odd sizes, unsigned
        in_channels=5, out_channels=3, n=1, m=1, simd=1, pe=1, in_type=IntType(3, False),
        weight_type=IntType(2, False), bias_type=IntType(5, True), acc_type=IntType(9, True),
        out_type=IntType(6, False), shift=0, max_tokens=3,
    ),
    NmMatmulParams(  # one step per token, whole token per beat
        in_channels=12, out_channels=6, n=1, m=4, simd=12, pe=6, in_type=IntType(4, True),
        weight_type=IntType(3, True), bias_type=IntType(9, True), acc_type=IntType(12, True),
        out_type=IntType(5, True), shift=3, half_up=1, max_tokens=6,
    ),
    NmMatmulParams(  # groups, many terms, left shift, DSP
        in_channels=120, out_channels=9, groups=3, n=2, m=5, simd=20, pe=3, mult_dsp=1,
        bias_type=IntType(10, True), out_type=IntType(18, True), shift=-1, max_tokens=3,
    ),
    NmMatmulParams(  # groups with one input beat and one tile each: loading is as slow as computing
        in_channels=8, out_channels=4, groups=4, n=1, m=2, simd=2, pe=1, max_tokens=1,
        bias_type=IntType(12, False),
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_nm_matmul(params: NmMatmulParams) -> None:
    check_core("nm_matmul", params, seed=1, exact_rate=True)
