# SPDX-License-Identifier: Apache-2.0
"""Local and global features of the token selector: every token beside the mean over its frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.itype import IntType
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
        return tokens * (self.channels // self.simd) + 4

    def barrier(self) -> bool:
        return True

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels // self.groups):
            yield {"simd": simd}

    def resources(self) -> Resources:
        bits, recip = self.in_type.bits, self.recip_type.bits
        total = bits + self.max_tokens.bit_length()
        product = 2 * max(total, recip) * (min(total, recip) - 1)  # open synthesis
        rounding = total + recip
        depth = 2 * self.max_tokens * (self.channels // self.simd)
        frame = self.simd * bits
        # open synthesis: two frames go to block RAM above 64 LUT of LUT RAM per RAMB18
        lutram = 8 * min(-(-frame // 14) * -(-depth // 32), -(-frame // 7) * -(-depth // 64))
        bram18 = max(-(-frame // 36), -(-depth * frame // 18432))
        in_bram = lutram > 64 * bram18
        return Resources(
            lut=self.simd * (product + 3 * total + rounding + 2 * bits)
            + (0 if in_bram else lutram)
            + 110,
            ff=self.simd * (total + rounding + (4 if in_bram else 5) * bits) + 90,
            bram36=bram18 / 2 if in_bram else 0,
        )


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
    """Frames from the class token alone to max_tokens."""
    recip = count_reciprocals(p.max_tokens, p.shift)
    return {"recip": recip}, [random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)]
