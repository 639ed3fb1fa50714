# SPDX-License-Identifier: Apache-2.0
"""Local and global features of the token selector: every token beside the mean over its frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, rounding_bins, saturation_bins, value_bins
from sievit.quant.itype import IntType
from sievit.quant.memories import ram, rom
from sievit.quant.multiplier import BoothMult
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
class TokenMeanParams(CoreParams):
    """``mean = saturate(round_shift(sum_t x[t] * recip[count], shift))``, beside every token.

    The mean runs over the ``count`` tokens of the frame without token 0, the class token (HeatViT:
    the class token is no candidate); ``recip[count] ~ 2^shift / count``, ``recip[0] = 0``. Per
    group of
    ``channels / groups`` channels (a head), the output holds first x, then the mean, of that group.
    """

    channels: int = 8
    groups: int = 2
    simd: int = 2
    in_type: IntType = IntType(8, True)
    recip_type: IntType = IntType(17, False)
    shift: int = 16
    half_up: int = 0
    #: multipliers in 0: LUTs, 1: DSP blocks
    mult_dsp: int = 0

    def __post_init__(self) -> None:
        self.require(self.channels % self.groups == 0, "groups must divide channels")
        self.require(self.channels // self.groups % self.simd == 0, "simd must divide a group")

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.channels, self.simd, self.in_type),)

    def output(self) -> Port:
        return Port("m_axis", 2 * self.channels, self.simd, self.in_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``recip``: word ``count``, 0..max_tokens."""
        words = pack(constants["recip"][:, None], self.recip_type)
        return {"recip": Memory(self.recip_type.bits, words)}

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {"recip": (self.recip_type, constants["recip"])}

    def cycles(self, tokens: int) -> int:
        return 2 * tokens * (self.channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        return tokens * (self.channels // self.simd) + 5 + self.multiplier().latency

    def multiplier(self) -> BoothMult:
        """sum * recip of one lane."""
        total = self.in_type.bits + (not self.in_type.signed) + self.max_tokens.bit_length()
        return BoothMult(total, self.recip_type.bits + (not self.recip_type.signed), self.mult_dsp)

    def barrier(self) -> bool:
        return True

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels // self.groups):
            yield {"simd": simd}

    def resources(self) -> Resources:
        bits, recip = self.in_type.bits, self.recip_type.bits
        beats = self.channels // self.simd
        mult = self.multiplier()
        product, total = mult.resources(), mult.a
        rounded = total + recip + 2 - self.shift
        frames = ram(2 * self.max_tokens * beats, self.simd * bits)
        table = rom(self.max_tokens + 1, recip)
        # two reads of the running sums: of the frame that arrives and of the one that leaves
        sums = self.simd * total * 2 * -(-2 * beats // 64)
        lane = product.lut + total + rounded + 2 * bits
        return Resources(
            lut=self.simd * lane + sums + frames.lut + table.lut + 110,
            ff=self.simd * (product.ff + total + rounded + 3 * bits)
            + frames.ff + table.ff + 100,
            dsp=self.simd * product.dsp,
            bram36=frames.bram36,
        )  # fmt: skip


def token_mean(p: TokenMeanParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``recip``: int64 ``[max_tokens + 1]``."""
    batch, tokens, _ = x.data.shape
    total = x.data.sum(1) - x.data[:, 0]
    recip = constants["recip"][x.length - 1][:, None]
    mean = saturate(round_shift(total * recip, p.shift, bool(p.half_up)), p.in_type)
    local = x.data.reshape(batch, tokens, p.groups, 1, -1)
    wide = mean.reshape(batch, 1, p.groups, 1, -1).expand_as(local)
    return x.with_data(torch.cat([local, wide], 3).reshape(batch, tokens, -1))


def count_reciprocals(max_tokens: int, shift: int) -> Tensor:
    """``recip[n] = round(2^shift / n)``, ``recip[0] = 0``; int64 ``[max_tokens + 1]``."""
    return torch.tensor([0] + [((2 << shift) + n) // (2 * n) for n in range(1, max_tokens + 1)])


def stimuli(
    rng: torch.Generator, p: TokenMeanParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Frames from the class token alone to max_tokens.

    Where the table's type has room, its entries are twice too large, so that the mean saturates.
    """
    recip = count_reciprocals(p.max_tokens, p.shift)
    recip = recip * 2 if 2 * int(recip.max()) <= p.recip_type.max else recip
    return {"recip": recip}, [random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)]


def bins(p: TokenMeanParams, constants: Constants, x: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    count = x.length - 1
    total = x.data.sum(1) - x.data[:, 0]
    product = total * constants["recip"][count][:, None]
    mean = round_shift(product, p.shift, bool(p.half_up))
    return {
        **frame_bins(p, x),
        **value_bins("x", of(x), p.in_type),
        "no token but the class token": hits(count == 0),
        "one token beside the class token": hits(count == 1),
        "two tokens beside the class token": hits(count == 2),
        "most tokens beside the class token": hits(count == p.max_tokens - 1),
        "count no power of two": hits((count & (count - 1)) != 0),
        "group of one beat": len(count) if p.channels == p.groups * p.simd else 0,
        "group of several beats": len(count) if p.channels > p.groups * p.simd else 0,
        **value_bins("mean", saturate(mean, p.in_type), p.in_type),
        **rounding_bins("mean", product, p.shift),
        **saturation_bins("mean", mean, p.in_type),
    }
