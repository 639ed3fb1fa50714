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
    # one lane
    PosEmbedParams(
        channels=5, simd=1, in_type=IntType(4, False), pos_type=IntType(7, True),
        out_type=IntType(6, False), max_tokens=3,
    ),
    PosEmbedParams(channels=1, simd=1, pos_type=IntType(9, False), max_tokens=1),
    # narrow: the class token saturates too
    PosEmbedParams(
        channels=4, simd=2, in_type=IntType(2, True), pos_type=IntType(4, True),
        out_type=IntType(2, True), max_tokens=18,
    ),
    # widest
    PosEmbedParams(
        channels=6, simd=6, in_type=IntType(16, True), pos_type=IntType(16, True),
        out_type=IntType(16, True), max_tokens=7,
    ),
    # rounded, ties to even; DeiT-Tiny of HG-PIPE
    PosEmbedParams(
        channels=5, simd=5, in_type=IntType(7, True), pos_type=IntType(6, True),
        out_type=IntType(3, True), shift=2, max_tokens=4,
    ),
    PosEmbedParams(
        channels=192, simd=48, in_type=IntType(22, True), pos_type=IntType(19, True),
        out_type=IntType(14, True), shift=8, half_up=1, max_tokens=3,
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_pos_embed(params: PosEmbedParams) -> None:
    check_core("pos_embed", params, seed=1)
