# SPDX-License-Identifier: Apache-2.0
"""Head-gated score of the token selector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, value_bins
from sievit.quant.itype import IntType
from sievit.quant.multiplier import BoothMult
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
    #: multipliers in 0: LUTs, 1: DSP blocks
    mult_dsp: int = 0

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
        return self.channels // self.simd + 2 + self.multiplier().latency

    def multiplier(self) -> BoothMult:
        """a * b of one lane."""
        a, b = (t.bits + (not t.signed) for t in (self.a_type, self.b_type))
        return BoothMult(a, b, self.mult_dsp)

    def macs(self, tokens: int) -> int:
        return tokens * self.channels

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        out, mult = self.out_type.bits, self.multiplier().resources()
        lanes, product = self.simd, self.multiplier().a + self.multiplier().b
        # products, their sum, accumulator and counter, skid buffer, control
        several = self.channels > lanes
        return Resources(
            lut=lanes * mult.lut + (lanes - 1) * product + several * (out + 4) + out + 14,
            ff=lanes * mult.ff + 4 * out + 12,
            dsp=lanes * mult.dsp,
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
    a, b = (random_frames(rng, port, frames, p.max_tokens, True) for port in p.inputs())
    data = torch.nn.functional.pad(b.data, (0, 0, 0, p.max_tokens))[:, : a.data.shape[1]]
    return {}, [a, Stream(data, a.length, torch.zeros_like(a.package)).with_data(data)]


def bins(p: GatedSumParams, constants: Constants, a: Stream, b: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    x, g = of(a), of(b)
    y = (x * g).sum(-1)
    extremes = ((x == p.a_type.min) | (x == p.a_type.max)) & (
        (g == p.b_type.min) | (g == p.b_type.max)
    )
    return {
        **frame_bins(p, a),
        **value_bins("a", x, p.a_type),
        **value_bins("b", g, p.b_type),
        "product of two extremes": hits(extremes),
        "product of the two least values": hits((x == p.a_type.min) & (g == p.b_type.min)),
        "product of the two greatest values": hits((x == p.a_type.max) & (g == p.b_type.max)),
        "all products zero": hits(((x * g) == 0).all(-1)),
        "sum negative": hits(y < 0),
        "sum zero": hits(y == 0),
        "sum positive": hits(y > 0),
        "partial sum beyond the final one": hits((x * g).cumsum(-1).amax(-1) > y),
    }
