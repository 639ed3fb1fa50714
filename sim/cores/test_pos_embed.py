# SPDX-License-Identifier: Apache-2.0
"""pos_embed: golden == RTL."""

import pytest

from sievit.quant.cores.pos_embed import PosEmbedParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    PosEmbedParams(max_tokens=5),
    PosEmbedParams(
        channels=3, simd=3, in_type=IntType(8, True), pos_type=IntType(6, True),
        out_type=IntType(8, True), max_tokens=4,
    ),
    PosEmbedParams(
        channels=5, simd=1, in_type=IntType(4, False), pos_type=IntType(7, True),
        out_type=IntType(6, False), max_tokens=3,
    ),
    PosEmbedParams(channels=1, simd=1, pos_type=IntType(9, False), max_tokens=1),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_pos_embed(params: PosEmbedParams) -> None:
    check_core("pos_embed", params, seed=1)
