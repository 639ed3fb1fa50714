# SPDX-License-Identifier: Apache-2.0
"""Integer layer normalisation of every token."""

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
from sievit.quant.rounding import round_shift, rsqrt_index, rsqrt_table, saturate


@dataclass(frozen=True)
class LayernormParams(CoreParams):
    """Layer normalisation in integers; ``C = channels``.

    ::

        mean = round_shift(sum(x) * mean_mult, mean_shift)
        d    = x - mean                                # in_type.bits + 1 bits, signed
        v    = max(sum(d * d), 1)                      # exact
        i, e = rsqrt_index(v, index_bits)              # v / 4^e in [1, 4)
        z    = round_shift(d * rsqrt[i], e + norm_shift)
        y    = saturate(round_shift(z * scale[c] + bias[c], shift))
    """

    channels: int = 8
    simd: int = 2
    in_type: IntType = IntType(12, True)
    out_type: IntType = IntType(8, True)
    #: about 2^mean_shift / channels
    mean_mult: int = 8192
    mean_shift: int = 16
    #: bits below the leading one that address the 1/sqrt table
    index_bits: int = 5
    rsqrt_type: IntType = IntType(13, False)
    norm_shift: int = 2
    scale_type: IntType = IntType(8, True)
    bias_type: IntType = IntType(16, True)
    shift: int = 10
    half_up: int = 0

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")
        self.require(self.norm_shift >= 0, "norm_shift must not be negative")

    @property
    def beats(self) -> int:
        return self.channels // self.simd

    @property
    def norm_bits(self) -> int:
        """Bits of ``z``: |z| <= sqrt(C) * 2^frac, with a bit of slack for the table's error."""
        frac_gain = self.rsqrt_type.bits - self.norm_shift
        return frac_gain + 2

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.channels, self.simd, self.in_type),)

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``rsqrt``: an entry per word (4 * 2^index_bits). ``scale``, ``bias``: a word per beat."""
        scale = constants["scale"].reshape(-1, self.simd)
        bias = constants["bias"].reshape(-1, self.simd)
        rsqrt = constants["rsqrt"][:, None]
        return {
            "rsqrt": Memory(self.rsqrt_type.bits, pack(rsqrt, self.rsqrt_type)),
            "scale": Memory(self.simd * self.scale_type.bits, pack(scale, self.scale_type)),
            "bias": Memory(self.simd * self.bias_type.bits, pack(bias, self.bias_type)),
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {
            "rsqrt": (self.rsqrt_type, constants["rsqrt"]),
            "scale": (self.scale_type, constants["scale"]),
            "bias": (self.bias_type, constants["bias"]),
        }

    def cycles(self, tokens: int) -> int:
        return tokens * self.beats

    def head_latency(self, tokens: int) -> int:
        return self.beats + 17

    def macs(self, tokens: int) -> int:
        return tokens * self.channels * 3

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        x, z, r = self.in_type.bits, self.norm_bits, self.rsqrt_type.bits
        s, out = self.scale_type.bits, self.out_type.bits
        log_c = (self.channels - 1).bit_length()
        square = 2 * x + log_c + 1  # bits of the sum of squares
        aligned, affine = x + r + square // 2 + 1, max(z + s, self.bias_type.bits) + 1

        def product(a: int, b: int) -> int:  # open synthesis: 2 LUT per carry-save bit
            return 2 * max(a, b) * (min(a, b) - 1)

        # once per token: mean, sum * mean, mean^2, variance, leading one, 1 / sqrt
        token = product(x + log_c, x + 2) + product(x + 2, x + 2) + 20 * square
        lane = product(x, x) + product(x + 1, r) + product(z, s)
        lane += x + log_c + square + 3 * aligned + affine + 3 * out  # sums, shifts, rounding
        rom = self.simd * (s + self.bias_type.bits) * max(1.0, self.beats / 14)
        fifo = self.simd * x * 8 / 14 * -(-(self.beats + 16) // 32)
        return Resources(
            lut=self.simd * lane + rom + fifo + token,
            ff=self.simd * (3 * x + (x + r) + aligned + z + affine + 2 * out) + 420,
        )


def layernorm(p: LayernormParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``rsqrt``: int64 ``[4 * 2^index_bits]``; ``scale``, ``bias``:
    ``[channels]``.
    """
    up = bool(p.half_up)
    total = x.data.sum(-1, keepdim=True)
    mean = round_shift(total * p.mean_mult, p.mean_shift, up)
    d = IntType(p.in_type.bits + 1, True).check(x.data - mean, "layernorm difference")
    v = (d * d).sum(-1, keepdim=True).clamp(min=1)
    index, e = rsqrt_index(v, p.index_bits)
    z = round_shift(d * constants["rsqrt"][index], e + p.norm_shift, up)
    IntType(p.norm_bits, True).check(z, "layernorm normalised value")
    y = round_shift(z * constants["scale"] + constants["bias"], p.shift, up)
    return x.with_data(saturate(y, p.out_type))


def stimuli(
    rng: torch.Generator, p: LayernormParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random affine constants and frames; some tokens are constant or nearly so."""
    frac = p.rsqrt_type.bits - 1 - -(-(p.channels - 1).bit_length() // 2)
    rsqrt = rsqrt_table(p.index_bits, frac, p.channels)
    s, b = p.scale_type, p.bias_type
    scale = torch.randint(s.min, s.max + 1, (p.channels,), generator=rng)
    bias = torch.randint(b.min, b.max + 1, (p.channels,), generator=rng)
    x = random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)
    kind = torch.randint(0, 4, (*x.data.shape[:2], 1), generator=rng)
    near = x.data[..., :1] + torch.randint(0, 2, x.data.shape, generator=rng)
    data = torch.where(kind == 0, x.data[..., :1], torch.where(kind == 1, near, x.data))
    x = x.with_data(saturate(data, p.in_type))
    return {"rsqrt": p.rsqrt_type.check(rsqrt, "rsqrt"), "scale": scale, "bias": bias}, [x]
