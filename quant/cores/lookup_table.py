# SPDX-License-Identifier: Apache-2.0
"""Any scalar function as a table: GELU, sigmoid, requantisation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, value_bins
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


@dataclass(frozen=True)
class LookupTableParams(CoreParams):
    """``y = T[clamp((x + offset) >> shift, 0, entries - 1)]`` for every channel.

    Every set has a table, an offset and a shift of its own; ``offset`` and ``shift`` are those of
    the greatest magnitude then.
    """

    SETTINGS: ClassVar[dict[str, IntType]] = {
        "offset": IntType(32, True),
        "shift": IntType(6, False),
    }

    channels: int = 4
    simd: int = 2
    in_type: IntType = IntType(8, True)
    out_type: IntType = IntType(8, False)
    #: added to x before the shift
    offset: int = 128
    #: floor shift of the index
    shift: int = 0
    entries: int = 256
    #: layers that share the core
    sets: int = 1

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")
        self.require(self.entries >= 2, "a table has at least 2 entries")
        self.require(1 <= self.sets <= 64, "a core has 1 to 64 sets")

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.channels, self.simd, self.in_type), *self.set_ports())

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``table``: one entry per word."""
        return {
            "table": Memory(self.out_type.bits, pack(constants["table"][:, None], self.out_type))
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {"table": (self.out_type, constants["table"])}

    @classmethod
    def unify(
        cls, layers: list[tuple[Self, dict[str, Tensor]]]
    ) -> list[tuple[Self, dict[str, Tensor]]]:
        """Tables of the same length: what is clamped to the last entry reads copies of it."""
        entries = max(p.entries for p, _ in layers)
        return [
            (replace(p, entries=entries), c | {"table": lengthened(c["table"], entries)})
            for p, c in layers
        ]

    def cycles(self, tokens: int) -> int:
        return tokens * (self.channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        return 3

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        t, index = self.in_type, (self.entries - 1).bit_length()
        inside = (t.min + self.offset) >> self.shift >= 0
        inside &= (t.max + self.offset) >> self.shift < self.entries
        clamp = 0 if inside else index
        if self.sets > 1:
            return self.shared_resources()
        entries = self.out_type.bits * -(-self.entries // 64)  # one LUT6 per 64 entries and bit
        return Resources(
            lut=self.simd * (clamp + entries + self.out_type.bits) + 7,
            ff=self.simd * (index + 3 * self.out_type.bits) + 12,
        )

    def shared_resources(self) -> Resources:
        """With several sets: variable offset and shift, and the tables of all in one memory."""
        index, out = (self.entries - 1).bit_length(), self.out_type.bits
        set_bits = (self.sets - 1).bit_length()
        total = max(abs(self.offset).bit_length() + 1, self.in_type.bits + 1) + 1
        table = rom(((self.sets - 1) << index) + self.entries, out)
        lane = table + Resources(
            lut=total + min(total, index + 2) * self.shift.bit_length() / 2 + total + out,
            ff=index + 2 * out,
        )
        words = abs(self.offset).bit_length() + 1 + self.shift.bit_length()
        everything = Resources(lut=words * -(-self.sets // 64) + 9, ff=set_bits + 12)
        for _ in range(self.simd):
            everything += lane
        return everything


def lengthened(table: Tensor, entries: int) -> Tensor:
    """The table with copies of its last entry behind it."""
    return torch.cat([table, table[-1:].repeat(entries - len(table))])


def lookup(x: Tensor, table: Tensor, offset: int, shift: int) -> Tensor:
    """``T[clamp((x + offset) >> shift, 0, len(T) - 1)]`` on int64 tensors."""
    return table[((x + offset) >> shift).clamp(0, len(table) - 1)]


def lookup_table(p: LookupTableParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``table``: int64 ``[entries]``."""
    values = p.out_type.check(constants["table"], "table")
    return x.with_data(lookup(x.data, values, p.offset, p.shift))


def stimuli(
    rng: torch.Generator, p: LookupTableParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """A random table, with different values at its ends, and frames."""
    t = p.out_type
    values = torch.randint(t.min, t.max + 1, (p.entries,), generator=rng)
    values[-1] = t.min if int(values[0]) > t.min else t.max
    return {"table": values}, [random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)]


def settings(rng: torch.Generator, p: LookupTableParams) -> dict[str, Tensor]:
    """Offsets of both signs and shifts up to those of ``p``, which the first set has."""
    most = abs(p.offset)
    offset = torch.randint(-most, most + 1, (p.sets,), generator=rng)
    shift = torch.randint(max(p.shift - 3, 0), p.shift + 1, (p.sets,), generator=rng)
    offset[0], shift[0] = p.offset, p.shift
    return {"offset": offset, "shift": shift}


def bins(p: LookupTableParams, constants: Constants, x: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    values = of(x)
    index = (values + p.offset) >> p.shift
    read = index.clamp(0, p.entries - 1)
    return {
        **frame_bins(p, x),
        **value_bins("x", values, p.in_type),
        **value_bins("y", constants["table"][read], p.out_type),
        "index clamped to the first entry": hits(index < 0),
        "first entry": hits(index == 0),
        "entry inside": hits((index > 0) & (index < p.entries - 1)),
        "last entry": hits(index == p.entries - 1),
        "index clamped to the last entry": hits(index >= p.entries),
        "every entry read": int(len(read.unique()) == p.entries),
        "shifted bits that are not zero": hits((index << p.shift) != values + p.offset),
    }
