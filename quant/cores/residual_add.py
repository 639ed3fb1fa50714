# SPDX-License-Identifier: Apache-2.0
"""Sum of two streams of the same frames."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, rounding_bins, saturation_bins, value_bins
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
from sievit.quant.rounding import round_shift, saturate


@dataclass(frozen=True)
class ResidualAddParams(CoreParams):
    """``y = saturate(round_shift((a << a_shift) + (b << b_shift), shift))`` for every channel.

    ``a`` is the skip connection: its ``tuser`` goes on.
    """

    channels: int = 4
    simd: int = 2
    a_type: IntType = IntType(12, True)
    b_type: IntType = IntType(12, True)
    out_type: IntType = IntType(12, True)
    a_shift: int = 0
    b_shift: int = 0
    shift: int = 0
    half_up: int = 0

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")

    def inputs(self) -> tuple[Port, ...]:
        return (
            Port("s_axis_a", self.channels, self.simd, self.a_type),
            Port("s_axis_b", self.channels, self.simd, self.b_type),
        )

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    def cycles(self, tokens: int) -> int:
        return tokens * (self.channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        return 3

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        total = max(self.a_type.bits + self.a_shift, self.b_type.bits + self.b_shift) + 1
        out = self.out_type.bits
        return Resources(
            lut=self.simd * (total + 2 * out) + 8,  # sum, saturation, skid buffer
            ff=self.simd * (total + 3 * out) + 12,
        )


def residual_add(p: ResidualAddParams, constants: Constants, a: Stream, b: Stream) -> Stream:
    """Golden function. Raises ValueError if the two streams carry frames of different length."""
    if not torch.equal(a.length, b.length):
        raise ValueError("residual_add: the two inputs carry frames of different length")
    total = (a.data << p.a_shift) + (b.data << p.b_shift)
    return a.with_data(saturate(round_shift(total, p.shift, bool(p.half_up)), p.out_type))


def stimuli(
    rng: torch.Generator, p: ResidualAddParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random frames of equal lengths on both ports."""
    a = random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)
    b = random_frames(rng, p.inputs()[1], frames, p.max_tokens)
    other = torch.zeros(*a.data.shape[:2], p.channels, dtype=torch.int64)
    shared = min(a.data.shape[1], b.data.shape[1])
    other[:, :shared] = b.data[:, :shared]
    return {}, [a, Stream(other, a.length, torch.zeros_like(a.package)).with_data(other)]


def bins(p: ResidualAddParams, constants: Constants, a: Stream, b: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    x, z = of(a), of(b)
    total = (x << p.a_shift) + (z << p.b_shift)
    y = round_shift(total, p.shift, bool(p.half_up))
    tokens = len(x)
    return {
        **frame_bins(p, a),
        **value_bins("a", x, p.a_type),
        **value_bins("b", z, p.b_type),
        "sum of the two least values": hits((x == p.a_type.min) & (z == p.b_type.min)),
        "sum of the two greatest values": hits((x == p.a_type.max) & (z == p.b_type.max)),
        "sum of opposite values": hits((total == 0) & (x != 0)),
        "shift to the left": tokens if p.shift < 0 else 0,
        "no shift": tokens if p.shift == 0 else 0,
        "shift to the right": tokens if p.shift > 0 else 0,
        "steps differ": tokens if p.a_shift != p.b_shift else 0,
        **rounding_bins("y", total, p.shift),
        **saturation_bins("y", y, p.out_type),
        **value_bins("y", saturate(y, p.out_type), p.out_type),
    }
