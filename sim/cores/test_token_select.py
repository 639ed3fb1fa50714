# SPDX-License-Identifier: Apache-2.0
"""token_select: golden == RTL."""

import pytest
import torch

from sievit.quant.cores.token_select import TokenSelectParams, stimuli, token_select
from sievit.quant.itype import IntType
from sievit.quant.params import Stream
from sievit.sim.harness import build_folder, check_core, compare
from sievit.sim.runner import run_core

SETS = [
    TokenSelectParams(max_tokens=6),
    # one lane, not a power of two, ties upwards
    TokenSelectParams(
        channels=12, simd=1, x_type=IntType(8, True), score_type=IntType(12, True), offset=2048,
        shift=5, index_bits=4, half_up=1, max_tokens=18, mult_dsp=1,
    ),
    # a token per beat, frames in block RAM
    TokenSelectParams(
        channels=3, simd=3, weight_type=IntType(3, False), max_tokens=9, frame_ram=1,
    ),
    # one token, unsigned
    TokenSelectParams(channels=8, simd=4, x_type=IntType(6, False), max_tokens=1),
    # widest
    TokenSelectParams(
        channels=4, simd=2, x_type=IntType(16, True), score_type=IntType(24, True),
        weight_type=IntType(12, False), offset=1 << 20, shift=16, entries=33, index_bits=8,
        recip_type=IntType(13, False), recip_shift=12, max_tokens=16,
    ),
    # narrowest; top-k with many equal scores
    TokenSelectParams(
        channels=2, simd=1, x_type=IntType(2, True), score_type=IntType(2, True),
        weight_type=IntType(1, False), offset=2, shift=0, entries=3, index_bits=4,
        recip_type=IntType(4, False), recip_shift=3, topk=3, max_tokens=7,
    ),
    # top-k over two memories, odd sizes, unsigned x, frames in block RAM
    TokenSelectParams(
        channels=6, simd=2, x_type=IntType(7, False), score_type=IntType(5, True), offset=10,
        shift=1, entries=13, topk=5, search=2, max_tokens=17, frame_ram=1, mult_dsp=1,
    ),
    # top-k, a token per beat, four memories of unequal fill
    TokenSelectParams(
        channels=4, simd=4, score_type=IntType(8, True), offset=128, shift=1, topk=1, search=4,
        half_up=1, max_tokens=11,
    ),
]  # fmt: skip


@pytest.mark.parametrize("params", SETS, ids=range(len(SETS)))
def test_token_select(params: TokenSelectParams) -> None:
    check_core("token_select", params, seed=1, frames=48)


#: lengths of frames that follow each other again and again
LENGTHS = [(18,), (2,), (1, 18), (3, 1, 7, 18, 2)]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("package", [False, True])
@pytest.mark.parametrize("dropped", [0, 1, -1], ids=["class token", "second", "last"])
def test_rate(dropped: int, package: bool, lengths: tuple[int, ...]) -> None:
    """One token of a frame is dropped, so that as many leave as come, the worst case: frames of any
    lengths need at most the sum of their cycles, without stalls."""
    p = SETS[1]
    rng = torch.Generator().manual_seed(1)
    constants, _ = stimuli(rng, p, 2)
    length = torch.tensor(lengths).repeat(6)
    x = torch.randint(-128, 128, (len(length), max(lengths), p.channels), generator=rng)
    score = torch.ones(len(length), max(lengths), 1, dtype=torch.int64)
    where = length - 1 if dropped < 0 else torch.full_like(length, dropped).minimum(length - 1)
    score[torch.arange(len(length)), where] = -1
    flag = torch.full_like(length, int(package)).bool()
    frames = Stream(x, length, flag)
    inputs = [frames.with_data(x), frames.with_data(score)]
    folder = build_folder("token_select", p)
    result = run_core("token_select", p, constants, inputs, folder, seed=1)
    compare("token_select, rate", token_select(p, constants, *inputs), result.output)
    last, n = result.out_last, len(lengths)
    assert last[-1] - last[-1 - 3 * n] <= 3 * sum(p.cycles(t) for t in lengths)
