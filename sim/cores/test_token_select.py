# SPDX-License-Identifier: Apache-2.0
"""token_select: golden == RTL."""

import pytest

from sievit.quant.cores.token_select import TokenSelectParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    TokenSelectParams(max_tokens=6),
    # one lane, not a power of two, ties upwards
    TokenSelectParams(
        channels=12, simd=1, x_type=IntType(8, True), score_type=IntType(12, True), offset=2048,
        shift=5, index_bits=4, half_up=1, max_tokens=18,
    ),
    # a token per beat
    TokenSelectParams(channels=3, simd=3, weight_type=IntType(3, False), max_tokens=9),
    TokenSelectParams(channels=48, simd=4, max_tokens=17),
    TokenSelectParams(channels=8, simd=4, x_type=IntType(6, False), max_tokens=1),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_token_select(params: TokenSelectParams) -> None:
    check_core("token_select", params, seed=1, frames=48)
