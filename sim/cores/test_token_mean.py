# SPDX-License-Identifier: Apache-2.0
"""token_mean: golden == RTL."""

import pytest

from sievit.quant.cores.token_mean import TokenMeanParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    TokenMeanParams(max_tokens=5),
    # one lane, not a power of two
    TokenMeanParams(
        channels=12, groups=3, simd=1, in_type=IntType(6, True), half_up=1, max_tokens=18
    ),
    TokenMeanParams(channels=12, groups=3, simd=4, max_tokens=17),
    # a group per beat, unsigned
    TokenMeanParams(channels=6, groups=2, simd=3, in_type=IntType(5, False), max_tokens=7),
    # a token per beat, nothing but class tokens
    TokenMeanParams(
        channels=5, groups=1, simd=5, recip_type=IntType(9, False), shift=8, max_tokens=1
    ),
    # narrow: the mean reaches both ends and ties
    TokenMeanParams(
        channels=2, groups=1, simd=1, in_type=IntType(2, True), recip_type=IntType(4, False),
        shift=3, max_tokens=4,
    ),
    # the reciprocal is too large: the mean saturates
    TokenMeanParams(
        channels=3, groups=1, simd=3, in_type=IntType(4, True), shift=14, max_tokens=3, mult_dsp=1
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_token_mean(params: TokenMeanParams) -> None:
    check_core("token_mean", params, seed=1, exact_rate=True)
