# SPDX-License-Identifier: Apache-2.0
"""Class token in front, position embedding on every token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, rounding_bins, saturation_bins, value_bins
from sievit.quant.itype import IntType
from sievit.quant.memories import rom
from sievit.quant.params import (
    Constants,
    CoreParams,
    Memory,
    Port,
    Resources,
    Stream,
    divisors,
    pack,
    random_frames,
)
from sievit.quant.rounding import round_shift, saturate


@dataclass(frozen=True)
class PosEmbedParams(CoreParams):
    """The class token in front, a position on every token::

        y[0] = saturate(round_shift(pos[0], shift))
        y[t] = saturate(round_shift(x[t - 1] + pos[t], shift))

    One token more leaves than came.
    ``pos[0]`` holds class token + its position. ``max_tokens`` counts the input (patch) tokens.
    """

    channels: int = 4
    simd: int = 2
    in_type: IntType = IntType(12, True)
    pos_type: IntType = IntType(12, True)
    out_type: IntType = IntType(12, True)
    shift: int = 0
    half_up: int = 0

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")
        self.require(self.shift >= 0, "shift must not be negative")

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.channels, self.simd, self.in_type),)

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    def out_tokens(self, tokens: int) -> int:
        return tokens + 1

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``pos``: word ``token * (channels / simd) + beat``, lane 0 in the low bits."""
        words = constants["pos"].reshape(-1, self.simd)
        return {"pos": Memory(self.simd * self.pos_type.bits, pack(words, self.pos_type))}

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {"pos": (self.pos_type, constants["pos"])}

    def cycles(self, tokens: int) -> int:
        return (tokens + 1) * (self.channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        return 4 + (self.shift > 0)

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        out = self.out_type.bits
        depth = (self.max_tokens + 1) * (self.channels // self.simd)
        width = self.simd * self.pos_type.bits
        table = rom(depth, width)
        add = self.simd * max(self.in_type.bits, self.pos_type.bits)
        rounding = self.rounding_resources()
        return Resources(
            lut=add + 2 * self.simd * out + self.simd * rounding.lut + table.lut
            + 2 * depth.bit_length() + 4,
            ff=2 * self.simd * self.in_type.bits + 3 * self.simd * out + self.simd * rounding.ff
            + table.ff + 2 * depth.bit_length() + 12,
            bram36=table.bram36,
        )  # fmt: skip

    def rounding_resources(self) -> Resources:
        """Of one lane: the sum has a register, of which half up needs the upper bits alone."""
        if self.shift == 0:
            return Resources()
        total = max(self.in_type.bits, self.pos_type.bits) + 2
        kept = max(total - self.shift, 1) + 1
        if self.half_up:
            return Resources(lut=kept + 3, ff=kept)
        return Resources(lut=kept + 4 + self.shift // 5, ff=total)


def pos_embed(p: PosEmbedParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``pos``: int64 ``[max_tokens + 1, channels]``."""
    batch, tokens, channels = x.data.shape
    pos = constants["pos"]
    data = torch.cat([torch.zeros(batch, 1, channels, dtype=torch.int64), x.data], 1)
    out = Stream(data, x.length + 1, x.package)
    total = round_shift(data + pos[: tokens + 1], p.shift, bool(p.half_up))
    return out.with_data(saturate(total, p.out_type))


def stimuli(
    rng: torch.Generator, p: PosEmbedParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random embedding and frames; with a shift, half of the class token are ties."""
    t = p.pos_type
    pos = torch.randint(t.min, t.max + 1, (p.max_tokens + 1, p.channels), generator=rng)
    bit = p.shift - 1
    if 0 <= bit < t.max.bit_length():
        tie = torch.randint(0, 2, (p.channels,), generator=rng) == 0
        pos[0] = torch.where(tie, (pos[0] >> bit | 1) << bit, pos[0])
    return {"pos": pos}, [random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)]


def bins(p: PosEmbedParams, constants: Constants, x: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    batch, tokens, channels = x.data.shape
    pos = constants["pos"]
    shifted = torch.cat([torch.zeros(batch, 1, channels, dtype=torch.int64), x.data], 1)
    total = Stream(shifted + pos[: tokens + 1], x.length + 1, x.package)
    first, later = total.data[:, 0], of(Stream(total.data[:, 1:], x.length, x.package))
    up = bool(p.half_up)
    return {
        **frame_bins(p, x),
        **value_bins("x", of(x), p.in_type),
        **value_bins("position", pos, p.pos_type),
        "no shift": len(later) if p.shift == 0 else 0,
        **rounding_bins("class token", first, p.shift),
        **rounding_bins("y", later, p.shift),
        **saturation_bins("class token", round_shift(first, p.shift, up), p.out_type),
        **saturation_bins("y", round_shift(later, p.shift, up), p.out_type),
        "frame after a shorter one": hits(x.length[1:] > x.length[:-1]),
        "frame after a longer one": hits(x.length[1:] < x.length[:-1]),
    }
