# SPDX-License-Identifier: Apache-2.0
"""Latency and cost of the signed multiplier ``rtl/lib/booth_mult.sv``."""

from __future__ import annotations

from dataclasses import dataclass

from sievit.quant.params import Resources


@dataclass(frozen=True)
class BoothMult:
    """``a * b + c`` on signed integers of ``a`` and ``b`` bits.

    Attributes:
        a, b: bits of the factors.
        dsp: 1: in a DSP block if the factors fit one.
        p: bits of the result, 0: all.
        c: bits of the addend, 0: none.
    """

    a: int
    b: int
    dsp: int = 0
    p: int = 0
    c: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and bits of the factor that they add."""
        by_b, by_a = ((self.b + 1) // 2, self.a), ((self.a + 1) // 2, self.b)
        return by_a if by_a[0] * (by_a[1] + 2) < by_b[0] * (by_b[1] + 2) else by_b

    @property
    def latency(self) -> int:
        """Cycles; four rows stand between registers."""
        return -(-self.shape[0] // 4)

    @property
    def in_dsp(self) -> bool:
        short, long = sorted((self.a, self.b))
        result = min(self.p or self.a + self.b, self.a + self.b)
        return bool(self.dsp) and long <= 27 and short <= 18 and result >= 9

    def resources(self) -> Resources:
        """One LUT per bit of every row; registers behind every fourth row."""
        rows, wide = self.shape
        bits = self.p or self.a + self.b
        if self.in_dsp:
            return Resources(lut=bits if self.c else 0, ff=bits * self.latency, dsp=1)
        left = [max(self.c - 2 * r, 0) for r in range(rows)]
        lut = sum(max(wide, c) + 1 for c in left)
        ff = sum(2 * 4 * s + wide + 2 for s in range(1, self.latency))  # low bits, sum
        ff += sum(wide + 2 * (rows - 4 * s) for s in range(1, self.latency)) + bits  # factors
        return Resources(lut=lut, ff=ff)
