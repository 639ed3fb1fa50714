# SPDX-License-Identifier: Apache-2.0
"""Integer layer normalisation of every token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, rounding_bins, saturation_bins, value_bins
from sievit.quant.cores.lookup_table import lengthened
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
from sievit.quant.rounding import round_shift, rsqrt_index, rsqrt_table, saturate

#: table_shift of a set is at least the greatest one less this, as far as the cost is concerned
SHIFTS = 6


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

    With ``entries`` the table is addressed linearly; then nothing else changes, but ``e = 0`` and::

        i    = clamp((sum(d * d) + table_offset) >> table_shift, 0, entries - 1)

    Every set has tables, ``table_offset`` and ``table_shift`` of its own; those of the parameters
    are the ones of the greatest magnitude then.
    """

    SETTINGS: ClassVar[dict[str, IntType]] = {
        "table_offset": IntType(32, True),
        "table_shift": IntType(6, False),
    }

    channels: int = 8
    simd: int = 2
    in_type: IntType = IntType(12, True)
    out_type: IntType = IntType(8, True)
    #: about 2^mean_shift / channels
    mean_mult: int = 8192
    mean_shift: int = 16
    #: bits below the leading one that address the 1/sqrt table
    index_bits: int = 5
    #: of a table addressed linearly, 0: it is addressed by the leading one
    entries: int = 0
    #: added to the sum of squares before the shift
    table_offset: int = 0
    #: floor shift of the index
    table_shift: int = 0
    rsqrt_type: IntType = IntType(13, False)
    norm_shift: int = 2
    scale_type: IntType = IntType(8, True)
    bias_type: IntType = IntType(16, True)
    shift: int = 10
    half_up: int = 0
    #: multipliers in 0: LUTs, 1: DSP blocks
    mult_dsp: int = 0
    #: layers that share the core
    sets: int = 1

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")
        self.require(self.norm_shift >= 0, "norm_shift must not be negative")
        self.require(self.entries == 0 or self.entries >= 2, "a table has at least 2 entries")
        self.require(self.table_shift >= 0, "table_shift must not be negative")
        self.require(-(1 << 31) <= self.table_offset < 1 << 31, "table_offset has 32 bits")
        self.require(1 <= self.sets <= 64, "a core has 1 to 64 sets")

    @property
    def beats(self) -> int:
        return self.channels // self.simd

    @property
    def norm_bits(self) -> int:
        """Bits of ``z``: |z| <= sqrt(C) * 2^frac, with a bit of slack for the table's error. A
        linear table promises nothing: |z| <= |d| * rsqrt.
        """
        frac_gain = self.rsqrt_type.bits - self.norm_shift
        return frac_gain + (self.in_type.bits + 1 if self.entries else 2)

    @property
    def square_bits(self) -> int:
        """Bits of ``v`` <= C * 4^in_type.bits, or of ``v + table_offset``, signed."""
        if self.entries:
            most = (self.channels << 2 * self.in_type.bits) + abs(self.table_offset)
            return most.bit_length() + 1
        return 2 * self.in_type.bits + (self.channels - 1).bit_length() + 1

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.channels, self.simd, self.in_type), *self.set_ports())

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``rsqrt``: an entry per word. ``scale``, ``bias``: a word per beat."""
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

    @classmethod
    def unify(
        cls, layers: list[tuple[Self, dict[str, Tensor]]]
    ) -> list[tuple[Self, dict[str, Tensor]]]:
        """The same ``shift`` and types of ``scale`` and ``bias``, as ``v / 2^s`` is ``(v << k) /
        2^(s + k)``; and linear tables of the same length, as what is clamped to the last entry
        reads copies of it.

        Raises ValueError if the product and its addend are wider than 63 bits then.
        """
        ps = [p for p, _ in layers]
        shift, entries = (max(getattr(p, name) for p in ps) for name in ("shift", "entries"))
        linear = all(p.entries for p in ps)
        out = []
        for p, c in layers:
            most = max(int(c[key].abs().max()) for key in ("scale", "bias"))
            bits = most.bit_length() + shift - p.shift
            p.require(bits <= 61, f"shift {shift} of another layer makes constants of {bits} bits")
            new = {key: c[key] << shift - p.shift for key in ("scale", "bias")}
            if linear:
                new["rsqrt"] = lengthened(c["rsqrt"], entries)
                p = replace(p, entries=entries)
            out.append((replace(p, shift=shift), c | new))
        for key in ("scale_type", "bias_type"):
            if all(p.shift == shift and getattr(p, key) == getattr(ps[0], key) for p in ps):
                continue
            values = torch.stack([c[key.removesuffix("_type")] for _, c in out])
            t = IntType.fitting(int(values.min()), int(values.max()))
            changed: dict[str, Any] = {key: t}
            out = [(replace(p, **changed), c) for p, c in out]
        for p, _ in out:
            bits = p.multipliers()[-1].p
            p.require(bits <= 63, f"z * scale + bias of these layers would have {bits} bits")
        return out

    def cycles(self, tokens: int) -> int:
        return tokens * self.beats

    def head_latency(self, tokens: int) -> int:
        return self.beats + sum(self.latencies())

    def latencies(self) -> tuple[int, int]:
        """Cycles from a token's last beat to its statistics, and of a beat through the rest."""
        square, mean, cross, norm, affine = self.multipliers()
        sums = square.latency + (self.simd - 1).bit_length()
        statistics = sums + mean.latency + cross.latency + (7 if self.entries else 9)
        return statistics, norm.latency + affine.latency + (4 if self.entries else 5)

    def multipliers(self) -> tuple[BoothMult, BoothMult, BoothMult, BoothMult, BoothMult]:
        """x * x and once per token sum * mean_mult and mean * (C * mean - 2 * sum); per value
        d * rsqrt and z * scale + bias.
        """
        x = self.in_type.bits + (not self.in_type.signed)
        log_c = (self.channels - 1).bit_length()
        scale, bias = (t.bits + (not t.signed) for t in (self.scale_type, self.bias_type))
        affine = max(self.norm_bits + scale, bias) + 1
        dsp = self.mult_dsp
        return (
            BoothMult(x, x, dsp, 2 * x - 1),
            BoothMult(x + log_c, self.mean_mult.bit_length() + 1, dsp),
            BoothMult(x + log_c + 2, x + 2, dsp, self.square_bits),
            BoothMult(self.in_type.bits + 1, self.rsqrt_type.bits + 1, dsp),
            BoothMult(self.norm_bits, scale, dsp, affine, bias),
        )

    def macs(self, tokens: int) -> int:
        return tokens * self.channels * 3

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        square, mean, cross, norm, affine = self.multipliers()
        v, lanes, beats, out = cross.p, self.simd, self.beats, self.out_type.bits
        statistics, _ = self.latencies()
        stat_bits = mean.a + (self.in_type.bits + 2) + self.rsqrt_type.bits
        aligned, words, find = self.alignment()

        # once per token: accumulators, delays in shift registers, C * mean, v
        token = Resources(
            lut=mean.a + v  # accumulators
            + mean.a + v + cross.b  # shift registers
            + self.channels.bit_count() * cross.a + v + 48,
            ff=2 * (mean.a + v + cross.b) + cross.a + stat_bits + 110,
        )  # fmt: skip
        constant = mean.resources()
        if not mean.in_dsp:  # the first row adds nothing, nor does a digit 0 of the constant
            rows = mean.shape[0]
            share = self.mean_digits() * (rows - 1) / rows
            constant = Resources(constant.lut * share, constant.ff)
        token += find + constant + cross.resources()
        if self.sets > 1:
            token += self.sets_resources(words)
        else:
            token += rom(words, self.rsqrt_type.bits)
            token += rom(beats, lanes * (self.scale_type.bits + self.bias_type.bits))
        token += ram(1 << (beats + statistics - 1).bit_length(), lanes * self.in_type.bits + 2)
        token += Resources(lut=8 * -(-(cross.b + self.rsqrt_type.bits + 5) // 14))

        # sums of the beat: adders of growing width
        levels = [(-(-lanes // (1 << k)) // 2, k) for k in range((lanes - 1).bit_length())]
        tree = sum(pairs * (square.a + square.p + 2 * (k + 1)) for pairs, k in levels)
        lane = aligned + Resources(
            lut=norm.a + max(affine.p - self.shift, 0) + self.shift // 5 + 3 * out,
            ff=square.latency * square.a + norm.a + 3 * out - norm.b,  # 1 / sqrt is shared
        )
        for part in (square, norm, affine):
            lane += part.resources()
        total = token + Resources(lut=tree, ff=tree)
        for _ in range(lanes):
            total += lane
        return total

    def sets_resources(self, words: int) -> Resources:
        """The tables of ``words`` entries, scales and biases of all sets, what every set has of its
        own for the table, and the way of its number.
        """
        each = [(words, self.rsqrt_type.bits)]
        each += [(self.beats, self.simd * t.bits) for t in (self.scale_type, self.bias_type)]
        total = Resources()
        for size, bits in each:
            total += rom(((self.sets - 1) << (size - 1).bit_length()) + size, bits)
        second = self.simd * (self.scale_type.bits + self.bias_type.bits)
        bits = (self.sets - 1).bit_length()
        total += Resources(lut=6 * bits, ff=4 * bits + second)
        if self.entries:
            v = self.square_bits
            offset = abs(self.table_offset).bit_length() + 1
            least = max(self.table_shift - SHIFTS, 0)
            shift = (least ^ self.table_shift).bit_length()  # that differ between the sets
            total += Resources(
                lut=v + offset + shift + 0.8 * (v - least) * shift,
                ff=offset + shift + self.table_shift - least,
            )
        return total

    def alignment(self) -> tuple[Resources, int, Resources]:
        """Per lane, from the product by 1 / sqrt to ``z``; entries of the table; the search for the
        one to take.
        """
        square, mean, cross, norm, affine = self.multipliers()
        v, z, index = cross.p, self.norm_bits, self.index_bits
        if not self.entries:
            exponents, groups = (v - 1) // 2, -(-v // 8)
            product = norm.a + norm.b + exponents
            kept = exponents + self.norm_shift + z  # bits of the aligned product
            lane = Resources(2 * min(product, kept) + kept // 5 + z, min(product, kept) + z)
            leading_one = 3 * groups + (8 + index) * -(-groups // 2) + index
            return lane, 4 << index, Resources(leading_one, 2 * v + 2 * index)

        index = (self.entries - 1).bit_length()
        clamp = max(v - self.table_shift - index, 0) // 5 + index
        clamp += index if self.entries != 1 << index else 0
        lane = Resources(z + self.norm_shift // 5 if self.norm_shift else 0, z)
        token = Resources(clamp, v - self.table_shift + index)
        if norm.in_dsp and not self.norm_shift:  # all behind the product is a shift register
            lane = Resources(z, z - norm.resources().ff)
        if square.in_dsp:  # the blocks hold a register
            lane += Resources(ff=-square.p)
            token += Resources(ff=-mean.a - mean.b - cross.p)
        if self.half_up:  # nobody reads what is below the half
            lane += Resources(-(self.shift // 5), -max(self.shift - 1, 0) * affine.latency)
            token += Resources(ff=-max(self.mean_shift - 1, 0) * mean.latency)
        return lane, self.entries, token

    def mean_digits(self) -> float:
        """Share of the Booth digits of ``mean_mult`` that are not zero."""
        bits = self.mean_mult << 1
        digits = [bits >> (2 * r) & 7 for r in range(self.mean_mult.bit_length() // 2 + 1)]
        return sum(d not in (0, 7) for d in digits) / len(digits)


def layernorm(p: LayernormParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``rsqrt``: int64 ``[4 * 2^index_bits]`` or ``[entries]``; ``scale``,
    ``bias``: ``[channels]``.
    """
    up = bool(p.half_up)
    total = x.data.sum(-1, keepdim=True)
    mean = round_shift(total * p.mean_mult, p.mean_shift, up)
    d = IntType(p.in_type.bits + 1, True).check(x.data - mean, "layernorm difference")
    index, e = table_index(p, (d * d).sum(-1, keepdim=True))
    z = round_shift(d * constants["rsqrt"][index], e + p.norm_shift, up)
    IntType(p.norm_bits, True).check(z, "layernorm normalised value")
    y = round_shift(z * constants["scale"] + constants["bias"], p.shift, up)
    return x.with_data(saturate(y, p.out_type))


def table_index(p: LayernormParams, v: Tensor) -> tuple[Tensor, Tensor]:
    """Index into the 1/sqrt table for sums of squares, and the exponent."""
    if p.entries:
        return linear_index(p, v).clamp(0, p.entries - 1), torch.zeros_like(v)
    return rsqrt_index(v.clamp(min=1), p.index_bits)


def linear_index(p: LayernormParams, v: Tensor) -> Tensor:
    """Before it is clamped."""
    return (v + p.table_offset) >> p.table_shift


def stimuli(
    rng: torch.Generator, p: LayernormParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random affine constants and frames; some tokens are constant or nearly so, others small:
    their variances are of every size. A linear table falls, at random."""
    if p.entries:
        draw = torch.randint(0, p.rsqrt_type.max + 1, (p.entries,), generator=rng)
        rsqrt = draw.sort(descending=True).values
    else:
        frac = p.rsqrt_type.bits - 1 - -(-(p.channels - 1).bit_length() // 2)
        rsqrt = rsqrt_table(p.index_bits, frac, p.channels)
    s, b = p.scale_type, p.bias_type
    scale = torch.randint(s.min, s.max + 1, (p.channels,), generator=rng)
    bias = torch.randint(b.min, b.max + 1, (p.channels,), generator=rng)
    x = random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)
    kind = torch.randint(0, 5, (*x.data.shape[:2], 1), generator=rng)
    near = x.data[..., :1] + torch.randint(0, 2, x.data.shape, generator=rng)
    if p.entries:
        data = spread(rng, p, x.data)
    else:
        small = x.data >> torch.randint(1, p.in_type.bits, kind.shape, generator=rng)
        data = torch.where(kind >= 3, small, x.data)
    data = torch.where(kind == 0, x.data[..., :1], torch.where(kind == 1, near, data))
    x = x.with_data(saturate(data, p.in_type))
    return {"rsqrt": p.rsqrt_type.check(rsqrt, "rsqrt"), "scale": scale, "bias": bias}, [x]


def settings(rng: torch.Generator, p: LayernormParams) -> dict[str, Tensor]:
    """Offsets of both signs and shifts up to those of ``p``, which the first set has."""
    most = abs(p.table_offset) if p.entries else 0
    least = max(p.table_shift - SHIFTS, 0) if p.entries else p.table_shift
    offset = torch.randint(-most, most + 1, (p.sets,), generator=rng)
    shift = torch.randint(least, p.table_shift + 1, (p.sets,), generator=rng)
    offset[0], shift[0] = p.table_offset, p.table_shift
    return {"table_offset": offset, "table_shift": shift}


def spread(rng: torch.Generator, p: LayernormParams, data: Tensor) -> Tensor:
    """Rows made smaller, so that their sums of squares address the whole linear table and a bit
    beyond.
    """
    beyond = p.entries // 8 + 1
    index = torch.randint(-beyond, p.entries + beyond, (*data.shape[:2], 1), generator=rng)
    v = ((data - data.double().mean(-1, keepdim=True)) ** 2).sum(-1, keepdim=True).clamp(min=1)
    wanted = ((index << p.table_shift) - p.table_offset).clamp(min=0)
    return (data * (wanted / v).sqrt().clamp(max=1)).round().long()


def bins(p: LayernormParams, constants: Constants, x: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    values, up = of(x), bool(p.half_up)
    total = values.sum(-1, keepdim=True)
    mean = round_shift(total * p.mean_mult, p.mean_shift, up)
    d = values - mean
    v = (d * d).sum(-1, keepdim=True)
    index, e = table_index(p, v)
    product = d * constants["rsqrt"][index]
    none = v[:0]  # nothing to count in the other addressing
    normal, exponent, linear = (none, none, linear_index(p, v)) if p.entries else (index, e, none)
    z = round_shift(product, e + p.norm_shift, up)
    affine = z * constants["scale"] + constants["bias"]
    return {
        **frame_bins(p, x),
        **value_bins("x", values, p.in_type),
        **value_bins("mean", mean, p.in_type),
        **rounding_bins("mean", total * p.mean_mult, p.mean_shift),
        "row of equal values": hits((values == values[:, :1]).all(-1)),
        "variance 0": hits(v == 0),
        "variance 1 to 3": hits((v > 0) & (v < 4)),
        "difference above the type of x": hits(d > p.in_type.max),
        "difference below the type of x": hits(d < p.in_type.min),
        "1/sqrt: first entry": hits(normal == 1 << p.index_bits),
        "1/sqrt: leading one at an odd place": hits(normal >= 2 << p.index_bits),
        "1/sqrt: last entry": hits(normal == (4 << p.index_bits) - 1),
        "1/sqrt: exponent 0": hits(exponent == 0),
        "1/sqrt: exponent above the bits of x": hits(exponent > p.in_type.bits),
        "1/sqrt, linear: clamped to the first entry": hits(linear < 0),
        "1/sqrt, linear: entry inside": hits((linear >= 0) & (linear < p.entries)),
        "1/sqrt, linear: clamped to the last entry": hits(linear >= p.entries),
        "z: zero": hits(z == 0),
        "z: negative": hits(z < 0),
        **rounding_bins("z", product, (e + p.norm_shift).expand_as(product)),
        **rounding_bins("y", affine, p.shift),
        **saturation_bins("y", round_shift(affine, p.shift, up), p.out_type),
    }
