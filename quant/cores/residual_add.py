# SPDX-License-Identifier: Apache-2.0
"""Sum of two streams of the same frames, one of them rescaled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, rounding_bins, saturation_bins, value_bins
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
from sievit.quant.rounding import round_shift, saturate


@dataclass(frozen=True)
class ResidualAddParams(CoreParams):
    """For every channel::

        a' = round_shift(a * a_mult, a_mult_shift)
        y  = saturate(round_shift((a' << a_shift) + (b << b_shift), shift))

    ``a`` is the skip connection: its ``tuser`` goes on.

    Every set has an ``a_mult`` of its own; that of the parameters is the greatest then.
    """

    SETTINGS: ClassVar[dict[str, IntType]] = {"a_mult": IntType(31, False)}

    channels: int = 4
    simd: int = 2
    a_type: IntType = IntType(12, True)
    b_type: IntType = IntType(12, True)
    out_type: IntType = IntType(12, True)
    a_shift: int = 0
    b_shift: int = 0
    shift: int = 0
    half_up: int = 0
    a_mult: int = 1
    a_mult_shift: int = 0
    #: a' in 0: LUTs, 1: DSP blocks
    mult_dsp: int = 0
    #: layers that share the core
    sets: int = 1

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")
        self.require(0 < self.a_mult < 1 << 31, "a_mult must have 1 to 31 bits")
        bits = max(self.a_type.bits + self.multiplier().b, self.a_mult_shift)
        self.require(not self.scaled or bits <= 61, "a * a_mult must have at most 61 bits")
        self.require(self.a_mult_shift >= 0, "a_mult_shift must not be negative")
        self.require(1 <= self.sets <= 64, "a core has 1 to 64 sets")

    @property
    def scaled(self) -> bool:
        return (self.a_mult, self.a_mult_shift) != (1, 0)

    @property
    def skip_type(self) -> IntType:
        """The smallest type of every a'."""
        ends = torch.tensor([self.a_type.min, self.a_type.max]) * self.a_mult
        low, high = round_shift(ends, self.a_mult_shift, bool(self.half_up)).tolist()
        return IntType.fitting(low, high)

    def multiplier(self) -> BoothMult:
        """Factors of a'. Open synthesis makes a shift of a constant power of two."""
        dsp = self.mult_dsp and (self.sets > 1 or self.a_mult.bit_count() > 1)
        x = self.a_type.bits + (not self.a_type.signed)
        half = self.a_mult_shift + 1 if self.half_up and self.a_mult_shift else 0
        return BoothMult(x, self.a_mult.bit_length() + 1, dsp, c=half)

    @property
    def delay(self) -> int:
        """Cycles of a'."""
        mult = self.multiplier()
        if self.sets > 1 and self.scaled and not mult.in_dsp:
            return 1 + mult.latency
        return self.scaled + mult.in_dsp

    def inputs(self) -> tuple[Port, ...]:
        return (
            Port("s_axis_a", self.channels, self.simd, self.a_type),
            Port("s_axis_b", self.channels, self.simd, self.b_type),
            *self.set_ports(),
        )

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    @classmethod
    def unify(
        cls, layers: list[tuple[Self, dict[str, Tensor]]]
    ) -> list[tuple[Self, dict[str, Tensor]]]:
        """The same ``a_mult_shift``: ``a * m / 2^s`` is ``a * (m << k) / 2^(s + k)``."""
        shift = max(p.a_mult_shift for p, _ in layers)
        return [
            (replace(p, a_mult=p.a_mult << shift - p.a_mult_shift, a_mult_shift=shift), c)
            for p, c in layers
        ]

    def cycles(self, tokens: int) -> int:
        return tokens * (self.channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        return 3 + self.delay

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        total = max(self.skip_type.bits + self.a_shift, self.b_type.bits + self.b_shift) + 1
        out = self.out_type.bits
        skip = self.skip_resources()
        wait = Resources(ff=self.delay * self.b_type.bits)
        if self.delay > 2:  # a shift register
            wait = Resources(lut=self.b_type.bits)
        factor = self.a_mult.bit_length() if self.sets > 1 and self.scaled else 0
        return Resources(  # sum, saturation, skid buffer
            lut=self.simd * (total + 2 * out + skip.lut + wait.lut) + 8 + factor,
            ff=self.simd * (total + 3 * out + skip.ff + wait.ff) + 12 + factor,
            dsp=self.simd * skip.dsp,
        )

    def skip_resources(self) -> Resources:
        """a' of one lane, but not what b waits for it."""
        if not self.scaled:
            return Resources()
        mult, skip, shift = self.multiplier(), self.skip_type.bits, self.a_mult_shift
        # half up is a part of the product, half to even looks at all bits of it
        even = shift > 0 and not self.half_up
        lut, ff = (shift // 5 + 2, shift + skip) if even else (0, skip)
        if mult.in_dsp:
            return Resources(lut=lut, ff=ff + mult.a, dsp=1)
        if self.sets > 1:
            unread = shift if self.half_up else 0
            return mult.resources() + Resources(lut=lut, ff=mult.a - unread)
        if self.a_mult.bit_count() > 1:  # rows of five bits of a, the first of six
            rows = -(-max(mult.a - 1, 5) // 5)
            lut += rows * mult.b + self.a_type.bits - (0 if even else 6)
        return Resources(lut=lut, ff=ff)


def residual_add(p: ResidualAddParams, constants: Constants, a: Stream, b: Stream) -> Stream:
    """Golden function. Raises ValueError if the two streams carry frames of different length."""
    if not torch.equal(a.length, b.length):
        raise ValueError("residual_add: the two inputs carry frames of different length")
    skip = round_shift(a.data * p.a_mult, p.a_mult_shift, bool(p.half_up))
    total = (p.skip_type.check(skip, "a'") << p.a_shift) + (b.data << p.b_shift)
    return a.with_data(saturate(round_shift(total, p.shift, bool(p.half_up)), p.out_type))


def stimuli(
    rng: torch.Generator, p: ResidualAddParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random frames of equal lengths on both ports; some of a make ties of a'."""
    a = random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)
    # the lowest bit that decides on a tie: a_mult may be even
    bit = p.a_mult_shift - (p.a_mult & -p.a_mult).bit_length()
    if 0 <= bit < p.a_type.max.bit_length():
        tie = torch.randint(0, 4, a.data.shape, generator=rng) == 0
        a = a.with_data(torch.where(tie, (a.data >> bit | 1) << bit, a.data))
    b = random_frames(rng, p.inputs()[1], frames, p.max_tokens)
    other = torch.zeros(*a.data.shape[:2], p.channels, dtype=torch.int64)
    shared = min(a.data.shape[1], b.data.shape[1])
    other[:, :shared] = b.data[:, :shared]
    return {}, [a, Stream(other, a.length, torch.zeros_like(a.package)).with_data(other)]


def settings(rng: torch.Generator, p: ResidualAddParams) -> dict[str, Tensor]:
    """Factors up to that of ``p``, which the first set has."""
    a_mult = torch.randint(1, p.a_mult + 1, (p.sets,), generator=rng)
    a_mult[0] = p.a_mult
    return {"a_mult": a_mult}


def bins(p: ResidualAddParams, constants: Constants, a: Stream, b: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    x, z = of(a), of(b)
    scaled = x * p.a_mult
    skip = round_shift(scaled, p.a_mult_shift, bool(p.half_up))
    total = (skip << p.a_shift) + (z << p.b_shift)
    y = round_shift(total, p.shift, bool(p.half_up))
    tokens = len(x)
    return {
        **frame_bins(p, a),
        **value_bins("a", x, p.a_type),
        **value_bins("b", z, p.b_type),
        "sum of the two least values": hits((x == p.a_type.min) & (z == p.b_type.min)),
        "sum of the two greatest values": hits((x == p.a_type.max) & (z == p.b_type.max)),
        "sum of opposite values": hits((total == 0) & (x != 0)),
        "a as it is": 0 if p.scaled else tokens,
        "a scaled up": hits(skip.abs() > x.abs()),
        "a scaled down": hits(skip.abs() < x.abs()),
        "a scaled to zero": hits((skip == 0) & (x != 0)),
        **rounding_bins("a scaled", scaled, p.a_mult_shift),
        "shift to the left": tokens if p.shift < 0 else 0,
        "no shift": tokens if p.shift == 0 else 0,
        "shift to the right": tokens if p.shift > 0 else 0,
        "steps differ": tokens if p.a_shift != p.b_shift else 0,
        **rounding_bins("y", total, p.shift),
        **saturation_bins("y", y, p.out_type),
        **value_bins("y", saturate(y, p.out_type), p.out_type),
    }
