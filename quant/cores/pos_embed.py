# SPDX-License-Identifier: Apache-2.0
"""Class token in front, position embedding on every token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, saturation_bins, value_bins
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
from sievit.quant.rounding import saturate


@dataclass(frozen=True)
class PosEmbedParams(CoreParams):
    """``y[0] = saturate(pos[0]); y[t] = saturate(x[t - 1] + pos[t])``.

    One token more leaves than came.
    ``pos[0]`` holds class token + its position. ``max_tokens`` counts the input (patch) tokens.
    """

    channels: int = 4
    simd: int = 2
    in_type: IntType = IntType(12, True)
    pos_type: IntType = IntType(12, True)
    out_type: IntType = IntType(12, True)

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")

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
        return 4

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        out = self.out_type.bits
        depth = (self.max_tokens + 1) * (self.channels // self.simd)
        width = self.simd * self.pos_type.bits
        table = rom(depth, width)
        add = self.simd * max(self.in_type.bits, self.pos_type.bits)
        return Resources(
            lut=add + 2 * self.simd * out + table.lut + 2 * depth.bit_length() + 4,
            ff=2 * self.simd * self.in_type.bits + 3 * self.simd * out + table.ff
            + 2 * depth.bit_length() + 12,
            bram36=table.bram36,
        )  # fmt: skip


def pos_embed(p: PosEmbedParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``pos``: int64 ``[max_tokens + 1, channels]``."""
    batch, tokens, channels = x.data.shape
    pos = constants["pos"]
    data = torch.cat([torch.zeros(batch, 1, channels, dtype=torch.int64), x.data], 1)
    out = Stream(data, x.length + 1, x.package)
    return out.with_data(saturate(data + pos[: tokens + 1], p.out_type))


def stimuli(
    rng: torch.Generator, p: PosEmbedParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random embedding and frames."""
    t = p.pos_type
    pos = torch.randint(t.min, t.max + 1, (p.max_tokens + 1, p.channels), generator=rng)
    return {"pos": pos}, [random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)]


def bins(p: PosEmbedParams, constants: Constants, x: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    batch, tokens, channels = x.data.shape
    pos = constants["pos"]
    shifted = torch.cat([torch.zeros(batch, 1, channels, dtype=torch.int64), x.data], 1)
    total = Stream(shifted + pos[: tokens + 1], x.length + 1, x.package)
    later = of(Stream(total.data[:, 1:], x.length, x.package))
    return {
        **frame_bins(p, x),
        **value_bins("x", of(x), p.in_type),
        **value_bins("position", pos, p.pos_type),
        **saturation_bins("class token", total.data[:, 0], p.out_type),
        **saturation_bins("y", later, p.out_type),
        "frame after a shorter one": hits(x.length[1:] > x.length[:-1]),
        "frame after a longer one": hits(x.length[1:] < x.length[:-1]),
    }
