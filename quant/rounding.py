# SPDX-License-Identifier: Apache-2.0
"""The one definition of rounding, saturation and the normalised tables.

Its counterparts are ``rtl/lib/num_pkg.sv`` and ``hls/lib/rounding.hpp``. All functions take and
return int64 tensors of any shape.

==========  =======================================  ==============================
mode        value of x / 2^s                          -2.5  -1.5  -0.5  0.5  1.5  2.5
==========  =======================================  ==============================
half_even   (x + 2^(s-1) - 1 + bit_s(x)) >> s           -2    -2     0    0    2    2
half_up     (x + 2^(s-1)) >> s                          -2    -1     0    1    2    3
==========  =======================================  ==============================

half_even is what torch.round, Brevitas ROUND, QONNX ROUND and AP_RND_CONV mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sievit.quant.itype import IntType


def round_shift(x: Tensor, s: int | Tensor, half_up: bool = False) -> Tensor:
    """``x / 2^s`` rounded to an integer; ``s = 0`` is the identity, ``s < 0`` an exact left shift.

    ``s`` is an int or an int64 tensor that broadcasts with ``x``.
    """
    if isinstance(s, int):  # the usual case, without temporaries for the shift
        if s <= 0:
            return x << -s if s else x
        step = 1 << (s - 1)
        return (x + step if half_up else x + (step - 1) + ((x >> s) & 1)) >> s
    right = s.clamp(min=0)
    half = torch.where(right > 0, torch.bitwise_left_shift(torch.ones_like(right), right) >> 1, 0)
    odd = torch.where(right > 0, (x >> right) & 1, 0)
    carry = half if half_up else torch.where(right > 0, half - 1 + odd, 0)
    return ((x + carry) >> right) << (-s).clamp(min=0)


def saturate(x: Tensor, t: IntType) -> Tensor:
    """Clamp ``x`` to the range of ``t``."""
    return x.clamp(t.min, t.max)


def leading_one(x: Tensor) -> Tensor:
    """Position of the leading one of ``x >= 1`` (0 for x = 1), exact for all of 1..2^62."""
    p = torch.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        high = (x >> p) >= (1 << step)
        p = torch.where(high, p + step, p)
    return p


def reciprocal_index(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Normalised index of ``x >= 1``: (the ``bits`` bits below the leading one, its position p).

    ``1/x ~ reciprocal_table(bits, frac)[index] / 2^(frac + p)``.
    """
    p = leading_one(x)
    index = torch.where(p >= bits, x >> (p - bits).clamp(min=0), x << (bits - p).clamp(min=0))
    return index - (1 << bits), p


def reciprocal_table(bits: int, frac: int) -> Tensor:
    """``T[i] = round(2^frac / (1 + (i + 1/2) / 2^bits))``, int64 ``[2^bits]``, < 2^(frac) + 1.

    Computed in integers, so that it is the same everywhere: ``round(a/b) = (2a + b) // (2b)``.
    """
    num = [1 << (frac + bits + 1)] * (1 << bits)
    den = [(2 << bits) + 2 * i + 1 for i in range(1 << bits)]
    return torch.tensor([(2 * a + b) // (2 * b) for a, b in zip(num, den, strict=True)])


def rsqrt_index(x: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Normalised index of ``x >= 1``: (``floor(x / 4^e * 2^bits)``, e) with x / 4^e in [1, 4).

    The index lies in ``2^bits .. 4 * 2^bits - 1``; ``1/sqrt(x) ~ T[index] / 2^(frac + e)``.
    """
    e = leading_one(x) >> 1
    index = torch.where(
        2 * e >= bits, x >> (2 * e - bits).clamp(min=0), x << (bits - 2 * e).clamp(min=0)
    )
    return index, e


def rsqrt_table(bits: int, frac: int, gain: int = 1) -> Tensor:
    """``T[i] = round(2^frac * sqrt(gain / ((i + 1/2) / 2^bits)))``, int64 ``[4 * 2^bits]``.

    Entries below ``2^bits`` cannot be addressed and are 0. Integer square roots: no float.
    """
    from math import isqrt

    table = [0] * (4 << bits)
    for i in range(1 << bits, 4 << bits):
        # value^2 = 4^frac * gain * 2^(bits+1) / (2i+1); round(sqrt(v)) = (isqrt(4v) + 1) // 2
        square = (gain << (2 * frac + bits + 1 + 2)) // (2 * i + 1)
        table[i] = (isqrt(square) + 1) // 2
    return torch.tensor(table)
