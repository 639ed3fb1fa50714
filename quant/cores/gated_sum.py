# SPDX-License-Identifier: Apache-2.0
"""Head-gated score of the token selector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.itype import IntType
from sievit.quant.params import (
    Constants,
    CoreParams,
    Port,
    Resources,
    Stream,
    divisors,
    random_frames,
)


@dataclass(frozen=True)
class GatedSumParams(CoreParams):
    """``y = sum_c a[c] * b[c]``: one exact channel per token. a: head scores, b: head gates."""

    channels: int = 4
    simd: int = 2
    a_type: IntType = IntType(8, True)
    b_type: IntType = IntType(8, False)
    out_type: IntType = IntType(20, True)

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")

    def inputs(self) -> tuple[Port, ...]:
        return (
            Port("s_axis_a", self.channels, self.simd, self.a_type),
            Port("s_axis_b", self.channels, self.simd, self.b_type),
        )

    def output(self) -> Port:
        return Port("m_axis", 1, 1, self.out_type)

    def cycles(self, tokens: int) -> int:
        return tokens * (self.channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        return self.channels // self.simd + 3

    def macs(self, tokens: int) -> int:
        return tokens * self.channels

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        a, b, out = self.a_type.bits, self.b_type.bits, self.out_type.bits
        product = 2 * max(a, b) * (min(a, b) - 1)  # open synthesis: 2 LUT per carry-save bit
        return Resources(
            lut=self.simd * (product + out) + 2 * out + 10,  # accumulator, skid buffer, control
            ff=self.simd * (a + b) + 4 * out + 10,
        )


def gated_sum(p: GatedSumParams, constants: Constants, a: Stream, b: Stream) -> Stream:
    """Golden function."""
    if not torch.equal(a.length, b.length):
        raise ValueError("gated_sum: the two inputs carry frames of different length")
    total = (a.data * b.data).sum(-1, keepdim=True)
    return a.with_data(p.out_type.check(total, "gated_sum"))


def stimuli(
    rng: torch.Generator, p: GatedSumParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Frames of equal length on both ports."""
    a, b = (random_frames(rng, port, frames, p.max_tokens) for port in p.inputs())
    data = torch.nn.functional.pad(b.data, (0, 0, 0, p.max_tokens))[:, : a.data.shape[1]]
    return {}, [a, Stream(data, a.length, a.package).with_data(data)]
