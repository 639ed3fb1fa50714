# SPDX-License-Identifier: Apache-2.0
"""lookup_table: golden == RTL."""

import pytest

from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.itype import IntType
from sievit.sim.harness import check_core

SETS = [
    LookupTableParams(max_tokens=5),
    LookupTableParams(
        channels=3, simd=3, in_type=IntType(12, True), out_type=IntType(3, True),
        offset=1000, shift=5, entries=77, max_tokens=4,
    ),
    # one lane, an offset below zero
    LookupTableParams(
        channels=5, simd=1, in_type=IntType(6, False), out_type=IntType(11, False),
        offset=-9, shift=1, entries=20, max_tokens=3,
    ),
    LookupTableParams(channels=6, simd=2, offset=64, shift=6, entries=2, max_tokens=1),
    # every entry, every code
    LookupTableParams(
        channels=7, simd=7, in_type=IntType(4, True), out_type=IntType(4, True), offset=8,
        entries=16, max_tokens=18,
    ),
    # one bit in, one bit out
    LookupTableParams(
        channels=2, simd=1, in_type=IntType(1, False), out_type=IntType(1, False), offset=0,
        entries=2, max_tokens=2,
    ),
    # shared: tables that do not end at a power of two, every shift
    LookupTableParams(
        channels=4, simd=2, in_type=IntType(7, True), out_type=IntType(5, True), offset=70,
        shift=2, entries=27, sets=3, max_tokens=5,
    ),
    # one beat per token, offsets of both signs, no shift
    LookupTableParams(
        channels=3, simd=3, in_type=IntType(6, False), out_type=IntType(6, False), offset=-20,
        entries=32, sets=2, max_tokens=3,
    ),
    # blocks of DeiT-Tiny
    LookupTableParams(
        channels=6, simd=1, out_type=IntType(4, False), offset=174, shift=3, entries=64, sets=12,
        max_tokens=4,
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_lookup_table(params: LookupTableParams) -> None:
    check_core("lookup_table", params, seed=1)
