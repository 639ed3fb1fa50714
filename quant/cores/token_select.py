# SPDX-License-Identifier: Apache-2.0
"""Run-time token pruning with a package token (HeatViT, Dong et al., HPCA'23, eq. 10)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.cores.lookup_table import lookup
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
from sievit.quant.rounding import reciprocal_index, reciprocal_table, round_shift, saturate


@dataclass(frozen=True)
class TokenSelectParams(CoreParams):
    """Keep the class token and every token whose score is not negative, in raster order.

    The other tokens, and the incoming package token if ``tuser`` marks one, are averaged into one
    package token that leaves last::

        w = table[clamp((score + offset) >> shift, 0, entries - 1)]
        num, den = sum(w * x), sum(w)      # over the participants
        num, den = sum(x), count           # if den is 0
        i, l = reciprocal_index(den, index_bits)
        package = saturate(round_shift(num * recip[i], l + recip_shift), x_type)

    No participant: no package token. The output's ``tuser`` says whether there is one.
    """

    channels: int = 4
    simd: int = 2
    x_type: IntType = IntType(12, True)
    score_type: IntType = IntType(18, True)
    weight_type: IntType = IntType(8, False)
    offset: int = 65536
    shift: int = 10
    entries: int = 128
    index_bits: int = 6
    recip_type: IntType = IntType(11, False)
    #: fraction bits of the reciprocal table
    recip_shift: int = 10
    half_up: int = 0

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")
        self.require(self.score_type.signed, "the score must be signed")

    @property
    def beats(self) -> int:
        return self.channels // self.simd

    def inputs(self) -> tuple[Port, ...]:
        return (
            Port("s_axis_x", self.channels, self.simd, self.x_type),
            Port("s_axis_score", 1, 1, self.score_type),
        )

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.x_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``weight`` and ``recip``: an entry per word."""
        weight, recip = constants["weight"][:, None], constants["recip"][:, None]
        return {
            "weight": Memory(self.weight_type.bits, pack(weight, self.weight_type)),
            "recip": Memory(self.recip_type.bits, pack(recip, self.recip_type)),
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {
            "weight": (self.weight_type, constants["weight"]),
            "recip": (self.recip_type, constants["recip"]),
        }

    def cycles(self, tokens: int) -> int:
        return (tokens + 1) * self.beats + 2

    def head_latency(self, tokens: int) -> int:
        return self.beats + 8

    def macs(self, tokens: int) -> int:
        return tokens * self.channels

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        x, recip = self.x_type.bits, self.recip_type.bits
        weighted = x + self.weight_type.bits
        count = self.max_tokens.bit_length()
        num, aligned = weighted + count, weighted + count + recip + self.weight_type.bits + count

        def product(a: int, b: int) -> int:  # open synthesis: 2 LUT per carry-save bit
            return 2 * max(a, b) * (min(a, b) - 1)

        multiply = product(x, self.weight_type.bits) + product(num, recip)
        shift = 3 * aligned  # barrel shifter, rounding, saturation
        # beats, weighted and plain sums; the sums have two readers
        lutram = (x + 2 * (num + x + count)) * 8 / 14 * -(-self.beats // 32)
        return Resources(
            lut=self.simd * (multiply + 3 * num + shift + lutram + 2 * x) + 230,
            ff=self.simd * (6 * x + weighted + 2 * num + recip + aligned) + 190,
        )


def token_select(p: TokenSelectParams, constants: Constants, x: Stream, score: Stream) -> Stream:
    """Golden function. ``weight``: int64 ``[entries]``, ``recip``: int64 ``[2^index_bits]``."""
    if not torch.equal(x.length, score.length):
        raise ValueError("token_select: x and score carry frames of different length")
    keep, part = decide(x, score)
    weight = lookup(score.data, constants["weight"], p.offset, p.shift) * part[..., None]
    den = weight.sum(1)
    zero = den == 0
    num = torch.where(zero, (x.data * part[..., None]).sum(1), (weight * x.data).sum(1))
    den = torch.where(zero, part.sum(1, keepdim=True), den).clamp(min=1)
    index, position = reciprocal_index(den, p.index_bits)
    scaled = num * constants["recip"][index]
    mean = round_shift(scaled, position + p.recip_shift, bool(p.half_up))
    return compact(x, keep, part, saturate(mean, p.x_type))


def decide(x: Stream, score: Stream) -> tuple[Tensor, Tensor]:
    """(kept, takes part in the package), bool ``[B, T]`` each; every token is one of both."""
    token = torch.arange(x.data.shape[1])
    incoming = x.package[:, None] & (token == x.length[:, None] - 1)
    keep = x.valid() & ~incoming & ((token == 0) | (score.data[..., 0] >= 0))
    return keep, x.valid() & ~keep


def compact(x: Stream, keep: Tensor, part: Tensor, package: Tensor) -> Stream:
    """Kept tokens in raster order, then ``package`` int64 or float ``[B, C]`` of any ``part``."""
    _, tokens, channels = x.data.shape
    order = (~keep).long().sort(dim=1, stable=True).indices
    data = torch.gather(x.data, 1, order[..., None].expand(-1, -1, channels))
    kept, has = keep.sum(1), part.any(1)
    length = kept + has
    data = torch.where((torch.arange(tokens) == kept[:, None])[..., None], package[:, None], data)
    return Stream(data, length, has).with_data(data)


def stimuli(
    rng: torch.Generator, p: TokenSelectParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Frames that keep one, none, all or some tokens, tie at 0, and have a denominator of 0."""
    x = random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)
    z = random_frames(rng, p.inputs()[1], frames, p.max_tokens)
    data = torch.nn.functional.pad(z.data, (0, 0, 0, p.max_tokens))[:, : x.data.shape[1]]
    kind = torch.randint(0, 6, (frames, 1, 1), generator=rng)
    data = torch.where(kind == 0, data.abs().clamp(max=p.score_type.max), data)  # keep all
    data = torch.where(kind == 1, p.score_type.min, data)  # drop all; weight may be 0 for all
    data = torch.where(kind == 2, data.clamp(-1, 1), data)  # ties at 0
    w = p.weight_type
    weight = torch.randint(w.min, w.max + 1, (p.entries,), generator=rng)
    weight[0] = 0
    frac = p.recip_shift
    constants = {
        "weight": weight,
        "recip": p.recip_type.check(reciprocal_table(p.index_bits, frac), "recip"),
    }
    flag = torch.zeros_like(x.package)
    return constants, [x, Stream(data, x.length, flag).with_data(data)]
