# SPDX-License-Identifier: Apache-2.0
"""first_token: golden == RTL."""

import pytest

from sievit.quant.cores.first_token import FirstTokenParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    FirstTokenParams(max_tokens=5),
    FirstTokenParams(channels=3, simd=3, in_type=IntType(8, True), max_tokens=4),
    FirstTokenParams(channels=5, simd=1, in_type=IntType(3, False), max_tokens=3),
    FirstTokenParams(channels=7, simd=1, max_tokens=1),
    # narrowest and widest
    FirstTokenParams(channels=2, simd=1, in_type=IntType(1, False), max_tokens=18),
    FirstTokenParams(channels=6, simd=6, in_type=IntType(16, True), max_tokens=2),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_first_token(params: FirstTokenParams) -> None:
    check_core("first_token", params, seed=1)
