# SPDX-License-Identifier: Apache-2.0
"""Rounding, saturation, table indices and integer types against Python's big integers."""

from __future__ import annotations

import random
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from math import floor

import pytest
import torch

from sievit.quant.itype import IntType
from sievit.quant.rounding import (
    leading_one,
    reciprocal_index,
    reciprocal_table,
    round_shift,
    rsqrt_index,
    rsqrt_table,
    saturate,
)


def exact_round(x: int, s: int, half_up: bool) -> int:
    """x / 2^s as a fraction, rounded: Python's round() is half to even."""
    value = Fraction(x) / Fraction(2) ** s
    return floor(value + Fraction(1, 2)) if half_up else round(value)


@pytest.mark.parametrize("half_up", [False, True])
@pytest.mark.parametrize("s", range(-8, 21))
def test_round_shift_every_int8(s: int, half_up: bool) -> None:
    values = range(-128, 256)
    x = torch.tensor(values)
    want = [exact_round(v, s, half_up) for v in values]
    assert round_shift(x, s, half_up).tolist() == want
    assert round_shift(x, torch.tensor(s), half_up).tolist() == want


def test_round_shift_table_of_the_documentation() -> None:
    x = torch.tensor([-5, -3, -1, 1, 3, 5])
    assert round_shift(x, 1).tolist() == [-2, -2, 0, 0, 2, 2]
    assert round_shift(x, 1, half_up=True).tolist() == [-2, -1, 0, 1, 2, 3]


def test_half_even_is_torch_round() -> None:
    x = torch.arange(-4096, 4096)
    for s in range(1, 10):
        assert torch.equal(round_shift(x, s), (x.double() / 2**s).round().long()), s


@pytest.mark.parametrize("half_up", [False, True])
def test_round_shift_wide(seed: int, half_up: bool) -> None:
    """Values up to 61 bits, one shift for all and a shift of its own for each."""
    rng = random.Random(seed)
    values = [rng.randrange(-1 << 61, 1 << 61) >> rng.randrange(62) for _ in range(800)]
    values += [-1 << 61, (1 << 61) - 1, 0, 1, -1]
    for s in range(62):
        got = round_shift(torch.tensor(values), s, half_up).tolist()
        assert got == [exact_round(v, s, half_up) for v in values], s
    shifts = [rng.randrange(62) for _ in values]
    got = round_shift(torch.tensor(values), torch.tensor(shifts), half_up).tolist()
    want = [exact_round(v, s, half_up) for v, s in zip(values, shifts, strict=True)]
    assert got == want


def test_round_shift_mixed_left_and_right(seed: int) -> None:
    rng = random.Random(seed)
    values = [rng.randrange(-1 << 40, 1 << 40) for _ in range(2000)]
    shifts = [rng.randrange(-20, 41) for _ in values]
    got = round_shift(torch.tensor(values), torch.tensor(shifts)).tolist()
    assert got == [exact_round(v, s, False) for v, s in zip(values, shifts, strict=True)]


def test_round_shift_broadcasts_the_shift() -> None:
    x = torch.arange(-6, 6).reshape(3, 4)
    s = torch.tensor([[0], [1], [2]])
    want = [[exact_round(int(v), i, False) for v in row] for i, row in enumerate(x)]
    assert round_shift(x, s).tolist() == want


@pytest.mark.parametrize("text", ["int1", "uint1", "int2", "int8", "uint8", "int62", "uint62"])
def test_saturate(text: str, seed: int) -> None:
    t = IntType.parse(text)
    rng = random.Random(seed)
    edges = [t.min - 1, t.min, t.min + 1, t.max - 1, t.max, t.max + 1, -1, 0, 1]
    values = edges + [rng.randrange(-1 << 62, 1 << 62) >> rng.randrange(62) for _ in range(1000)]
    want = [t.min if v < t.min else t.max if v > t.max else v for v in values]
    assert saturate(torch.tensor(values), t).tolist() == want


def positives(rng: random.Random) -> list[int]:
    """1..4096, the neighbours of every power of two up to 2^62, and random ones."""
    near = {(1 << p) + d for p in range(63) for d in (-1, 0, 1)}
    values = {*range(1, 4097), *(v for v in near if 1 <= v <= 1 << 62)}
    values |= {rng.randrange(1, 1 << 62) >> rng.randrange(61) or 1 for _ in range(2000)}
    return sorted(values)


def test_leading_one(seed: int) -> None:
    values = positives(random.Random(seed))
    assert leading_one(torch.tensor(values)).tolist() == [v.bit_length() - 1 for v in values]


@pytest.mark.parametrize("bits", [1, 4, 6, 9])
def test_reciprocal_index(bits: int, seed: int) -> None:
    values = positives(random.Random(seed))
    index, position = reciprocal_index(torch.tensor(values), bits)
    for v, i, p in zip(values, index.tolist(), position.tolist(), strict=True):
        mantissa = Fraction(v, 1 << p)
        assert 1 <= mantissa < 2 and i == floor((mantissa - 1) * (1 << bits)), v


@pytest.mark.parametrize("bits", [1, 4, 5, 8])
def test_rsqrt_index(bits: int, seed: int) -> None:
    values = positives(random.Random(seed))
    index, e = rsqrt_index(torch.tensor(values), bits)
    for v, i, k in zip(values, index.tolist(), e.tolist(), strict=True):
        mantissa = Fraction(v, 4**k)
        assert 1 <= mantissa < 4 and i == floor(mantissa * (1 << bits)), v
        assert 1 << bits <= i < 4 << bits


@pytest.mark.parametrize(("bits", "frac"), [(1, 4), (4, 10), (6, 12), (8, 16), (6, 20)])
def test_reciprocal_table(bits: int, frac: int) -> None:
    table = reciprocal_table(bits, frac).tolist()
    assert len(table) == 1 << bits and max(table) <= 1 << frac
    for i, value in enumerate(table):
        middle = 1 + (i + Fraction(1, 2)) / (1 << bits)
        assert value == floor((1 << frac) / middle + Fraction(1, 2)), i


@pytest.mark.parametrize(
    ("bits", "frac", "gain"), [(1, 4, 1), (4, 10, 8), (5, 10, 48), (5, 12, 3), (7, 14, 192)]
)
def test_rsqrt_table(bits: int, frac: int, gain: int) -> None:
    table = rsqrt_table(bits, frac, gain).tolist()
    assert len(table) == 4 << bits and table[: 1 << bits] == [0] * (1 << bits)
    with localcontext() as context:
        context.prec = 60
        for i in range(1 << bits, 4 << bits):
            middle = Decimal(2 * i + 1) / Decimal(2 << bits)
            root = (Decimal(gain) / middle).sqrt() * (1 << frac)
            # an irrational root has no ties, so the kind of rounding does not matter
            assert table[i] == int(root.to_integral_value(ROUND_HALF_EVEN)), i


def test_reciprocal_error_bound() -> None:
    """|table / 2^(frac + p) - 1/x| * x <= 2^-bits / 2 + 2^-frac for every x up to 2^14."""
    bits, frac = 6, 12
    x = torch.arange(1, 1 << 14)
    index, p = reciprocal_index(x, bits)
    value = reciprocal_table(bits, frac)[index].double() / 2.0 ** (frac + p)
    assert float((value * x - 1).abs().max()) <= 2.0**-bits / 2 + 2.0**-frac


# -- integer types -------------------------------------------------------------------------------
def test_itype_parse_and_print() -> None:
    for bits in range(1, 63):
        for signed in (False, True):
            t = IntType(bits, signed)
            assert IntType.parse(str(t)) == t
            assert (t.min, t.max) == (
                (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
            )


@pytest.mark.parametrize("text", ["", "int", "8", "float8", "int8 ", "Int8", "int-8", "iint8"])
def test_itype_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an integer type"):
        IntType.parse(text)


@pytest.mark.parametrize("bits", [-1, 0, 63, 64])
def test_itype_width(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 62 bits"):
        IntType(bits, True)


def test_itype_fitting(seed: int) -> None:
    rng = random.Random(seed)
    pairs = [(0, 0), (0, 1), (-1, 0), (-1, -1), (-128, 127), (-129, 0), (0, 128), (-1, 128)]
    pairs += [
        tuple(sorted(rng.randrange(-1 << 60, 1 << 60) >> rng.randrange(60) for _ in range(2)))
        for _ in range(2000)
    ]
    for low, high in pairs:
        t = IntType.fitting(low, high)
        assert t.min <= low and high <= t.max and t.signed == (low < 0)
        if t.bits > 1:
            smaller = IntType(t.bits - 1, t.signed)
            assert low < smaller.min or high > smaller.max, (low, high)


@pytest.mark.parametrize("text", ["int1", "uint1", "int5", "uint8", "int12", "int62", "uint62"])
def test_itype_codes(text: str, seed: int) -> None:
    t = IntType.parse(text)
    rng = random.Random(seed)
    values = [t.min, t.max, *(rng.randint(t.min, t.max) for _ in range(500))]
    x = torch.tensor(values)
    assert t.encode(x).tolist() == [v % (1 << t.bits) for v in values]
    assert torch.equal(t.decode(t.encode(x)), x)
    for bad in (t.min - 1, t.max + 1):
        with pytest.raises(OverflowError, match=f"stream: .* does not fit {t}"):
            t.check(torch.tensor([0, bad]), "stream")
        with pytest.raises(OverflowError):
            t.encode(torch.tensor([bad]))
