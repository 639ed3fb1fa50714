# SPDX-License-Identifier: Apache-2.0
"""Every core against a slow twin in plain Python integers, written from the core's definition."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from sievit.quant.cores.attention import AttentionParams, attention, exp_table
from sievit.quant.cores.gated_sum import GatedSumParams
from sievit.quant.cores.layernorm import LayernormParams, layernorm
from sievit.quant.cores.lookup_table import LookupTableParams, lookup_table
from sievit.quant.cores.nm_matmul import (
    NmMatmulParams,
    accumulator_type,
    field_bits,
    longest_chain,
    nm_matmul,
)
from sievit.quant.cores.pos_embed import PosEmbedParams
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.cores.token_mean import TokenMeanParams, count_reciprocals
from sievit.quant.cores.token_select import TokenSelectParams, token_select
from sievit.quant.itype import IntType
from sievit.quant.params import CoreParams, Stream, core_names, exact_matmul, load_core
from sievit.quant.rounding import reciprocal_table, rsqrt_table

FRAMES = 24

Frame = list[list[int]]
#: tokens, package flag
Result = tuple[Frame, bool]


def s(bits: int) -> IntType:
    return IntType(bits, True)


def u(bits: int) -> IntType:
    return IntType(bits, False)


# -- arithmetic of the twins ---------------------------------------------------------------------
def rounded(x: int, shift: int, half_up: int) -> int:
    """x / 2^shift as a fraction, to the nearest integer."""
    value = Fraction(x) / Fraction(2) ** shift
    return math.floor(value + Fraction(1, 2)) if half_up else round(value)


def limited(x: int, t: IntType) -> int:
    low, high = (-(2 ** (t.bits - 1)), 2 ** (t.bits - 1) - 1) if t.signed else (0, 2**t.bits - 1)
    return max(low, min(high, x))


def entry(table: list[int], x: int, offset: int, shift: int) -> int:
    index = (x + offset) // 2**shift
    return table[max(0, min(len(table) - 1, index))]


def normalised(x: int, bits: int) -> tuple[int, int]:
    """Mantissa bits below the leading one, and the leading one's position."""
    position = len(f"{x:b}") - 1
    return math.floor((Fraction(x, 2**position) - 1) * 2**bits), position


# -- the twins -----------------------------------------------------------------------------------
def twin_attention(
    p: AttentionParams, c: dict[str, Any], flag: bool, q: Frame, k: Frame, v: Frame
) -> Result:
    tokens, dim = len(q), p.channels // p.heads
    out = [[0] * p.channels for _ in q]
    for head in range(p.heads):
        lanes = range(head * dim, (head + 1) * dim)
        for t in range(tokens):
            score = [sum(q[t][i] * k[j][i] for i in lanes) for j in range(tokens)]
            alive = []
            for start in range(0, tokens, p.m):
                group = list(range(start, min(start + p.m, tokens)))
                for _ in range(min(p.n, len(group))):
                    best = group[0]
                    for j in group:
                        if score[j] > score[best]:
                            best = j
                    group.remove(best)
                    alive.append(best)
            top = max(score[j] for j in alive)
            e = {j: entry(c["exp"], top - score[j], p.exp_offset, p.exp_shift) for j in alive}
            total, places = sum(e.values()), 0
            if not p.recip_entries:
                index, places = normalised(total, p.index_bits)
                recip = c["recip"][index]
            elif (total + p.near_offset) // 2**p.near_shift < p.recip_entries:
                recip = entry(c["recip"][: p.recip_entries], total, p.near_offset, p.near_shift)
            else:
                recip = entry(c["recip"][p.recip_entries :], total, p.far_offset, p.far_shift)
                places = p.far_prob_shift
            prob = {
                j: limited(rounded(e[j] * recip, places + p.prob_shift, p.half_up), p.prob_type)
                for j in alive
            }
            for i in lanes:
                total = sum(prob[j] * v[j][i] for j in alive)
                out[t][i] = limited(rounded(total, p.shift, p.half_up), p.out_type)
    return out, flag


def twin_first_token(p: Any, c: dict[str, Any], flag: bool, x: Frame) -> Result:
    return [x[0]], False


def twin_gated_sum(p: Any, c: dict[str, Any], flag: bool, a: Frame, b: Frame) -> Result:
    return [[sum(i * j for i, j in zip(*row, strict=True))] for row in zip(a, b, strict=True)], flag


def twin_layernorm(p: LayernormParams, c: dict[str, Any], flag: bool, x: Frame) -> Result:
    out = []
    for row in x:
        mean = rounded(sum(row) * p.mean_mult, p.mean_shift, p.half_up)
        d = [v - mean for v in row]
        square, e = sum(v * v for v in d), 0
        if p.entries:
            rsqrt = entry(c["rsqrt"], square, p.table_offset, p.table_shift)
        else:
            square = max(square, 1)
            while 4 ** (e + 1) <= square:
                e += 1
            rsqrt = c["rsqrt"][math.floor(Fraction(square, 4**e) * 2**p.index_bits)]
        z = [rounded(v * rsqrt, e + p.norm_shift, p.half_up) for v in d]
        out.append(
            [
                limited(rounded(n * g + b, p.shift, p.half_up), p.out_type)
                for n, g, b in zip(z, c["scale"], c["bias"], strict=True)
            ]
        )
    return out, flag


def twin_lookup_table(p: LookupTableParams, c: dict[str, Any], flag: bool, x: Frame) -> Result:
    return [[entry(c["table"], v, p.offset, p.shift) for v in row] for row in x], flag


def twin_nm_matmul(p: NmMatmulParams, c: dict[str, Any], flag: bool, x: Frame) -> Result:
    inputs, outputs = p.in_channels // p.groups, p.out_channels // p.groups
    out = []
    for row in x:
        line = []
        for o in range(p.out_channels):
            first = o // outputs * inputs
            acc = c["bias"][o] + sum(c["weight"][o][i] * row[first + i] for i in range(inputs))
            z = limited(rounded(acc, p.shift, p.half_up), p.mid_type if p.entries else p.out_type)
            line.append(entry(c["table"], z, p.table_offset, p.table_shift) if p.entries else z)
        out.append(line)
    return out, flag


def twin_pos_embed(p: Any, c: dict[str, Any], flag: bool, x: Frame) -> Result:
    rows = [[0] * p.channels, *x]
    return [
        [
            limited(rounded(a + b, p.shift, p.half_up), p.out_type)
            for a, b in zip(row, c["pos"][t], strict=True)
        ]
        for t, row in enumerate(rows)
    ], flag


def twin_residual_add(p: Any, c: dict[str, Any], flag: bool, a: Frame, b: Frame) -> Result:
    def add(i: int, j: int) -> int:
        skip = rounded(i * p.a_mult, p.a_mult_shift, p.half_up)
        total = skip * 2**p.a_shift + j * 2**p.b_shift
        return limited(rounded(total, p.shift, p.half_up), p.out_type)

    return [
        [add(i, j) for i, j in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)
    ], flag


def twin_token_mean(p: Any, c: dict[str, Any], flag: bool, x: Frame) -> Result:
    others = x[1:]
    recip = c["recip"][len(others)]
    size = p.channels // p.groups
    mean = [
        limited(rounded(sum(row[i] for row in others) * recip, p.shift, p.half_up), p.in_type)
        for i in range(p.channels)
    ]
    out = []
    for row in x:
        line: list[int] = []
        for g in range(p.groups):
            line += row[g * size : (g + 1) * size] + mean[g * size : (g + 1) * size]
        out.append(line)
    return out, flag


def twin_token_select(
    p: TokenSelectParams, c: dict[str, Any], flag: bool, x: Frame, score: Frame
) -> Result:
    candidates = range(1, len(x) - int(flag))
    if p.topk == 0:
        stay = {t for t in candidates if score[t][0] >= 0}
    else:
        stay = set(sorted(candidates, key=lambda t: (-score[t][0], t))[: p.topk])
    if not (flag and len(x) == 1):
        stay.add(0)
    kept, part = [], []
    for t, row in enumerate(x):
        if t in stay:
            kept.append(row)
        else:
            part.append((row, entry(c["weight"], score[t][0], p.offset, p.shift)))
    if not part:
        return kept, False
    den = sum(w for _, w in part)
    num = [sum(w * row[i] for row, w in part) for i in range(p.channels)]
    if den == 0:
        den = len(part)
        num = [sum(row[i] for row, _ in part) for i in range(p.channels)]
    index, position = normalised(den, p.index_bits)
    package = [
        limited(rounded(n * c["recip"][index], position + p.recip_shift, p.half_up), p.x_type)
        for n in num
    ]
    return [*kept, package], True


TWINS: dict[str, Callable[..., Result]] = {
    name: globals()[f"twin_{name}"] for name in core_names() if f"twin_{name}" in globals()
}

CASES: dict[str, list[dict[str, Any]]] = {
    "attention": [
        {"max_tokens": 9},
        {"channels": 6, "heads": 3, "n": 1, "max_tokens": 7, "simd": 1},
        {"channels": 12, "heads": 1, "n": 4, "max_tokens": 10, "half_up": 1},
        {"channels": 4, "heads": 4, "simd": 1, "n": 1, "m": 1, "max_tokens": 5},
        {"channels": 8, "n": 3, "m": 8, "max_tokens": 17, "q_type": u(4), "k_type": s(3)},
        {"channels": 8, "v_type": s(5), "out_type": s(4), "prob_shift": -2, "max_tokens": 6},
        {"exp_shift": 2, "exp_offset": 3, "exp_entries": 16, "q_type": s(3), "k_type": s(3)},
        {"channels": 4, "n": 2, "m": 16, "tp": 3, "max_tokens": 35, "v_type": u(3), "shift": 5},
        {"channels": 2, "simd": 1, "n": 16, "m": 16, "k_type": u(8), "max_tokens": 33},
        {
            **{"max_tokens": 9, "recip_entries": 8, "near_offset": -1100, "near_shift": 8},
            **{"far_offset": -3500, "far_shift": 7, "far_prob_shift": 1, "prob_shift": 15},
        },
        {
            **{"channels": 6, "heads": 3, "n": 1, "m": 3, "simd": 1, "max_tokens": 7},
            **{"exp_type": u(3), "recip_type": u(4), "recip_entries": 3, "near_offset": 2},
            **{"near_shift": 2, "far_offset": -8, "far_shift": 2, "far_prob_shift": 3},
            **{"prob_shift": -2, "half_up": 1},
        },
        {
            **{"channels": 192, "heads": 3, "simd": 16, "n": 4, "m": 16, "max_tokens": 40},
            **{"q_type": s(3), "k_type": s(3), "v_type": s(3), "exp_offset": 8, "exp_shift": 4},
            **{"exp_entries": 32, "exp_type": u(16), "recip_type": u(9), "recip_entries": 64},
            **{"near_offset": -28706, "near_shift": 13, "far_offset": -359889, "far_shift": 16},
            **{"prob_shift": 15, "far_prob_shift": 4, "prob_type": u(3), "out_type": s(14)},
            **{"shift": 0, "half_up": 1},
        },
    ],
    "first_token": [{"max_tokens": 6}, {"channels": 3, "simd": 1, "in_type": u(5)}],
    "gated_sum": [
        {"max_tokens": 6},
        {"channels": 3, "simd": 3, "a_type": u(6), "b_type": u(7), "out_type": u(15)},
        {"channels": 1, "simd": 1, "max_tokens": 3},
    ],
    "layernorm": [
        {"max_tokens": 6},
        {"channels": 12, "in_type": s(10), "mean_mult": 5461, "rsqrt_type": s(16), "half_up": 1},
        {"channels": 48, "mean_mult": 1365, "in_type": u(9), "out_type": u(5), "index_bits": 4},
        {"channels": 3, "simd": 1, "mean_mult": 21845, "index_bits": 7, "shift": 6},
        {"channels": 16, "mean_mult": 4096, "in_type": s(4), "norm_shift": 0, "max_tokens": 9},
        {
            **{"channels": 12, "in_type": u(6), "mean_mult": 5461, "entries": 50, "shift": 9},
            **{"table_offset": -150, "table_shift": 6, "rsqrt_type": u(8), "max_tokens": 9},
        },
        {
            **{"channels": 192, "in_type": s(14), "out_type": s(8), "mean_mult": 43691},
            **{"mean_shift": 23, "entries": 128, "table_offset": -8585116, "table_shift": 23},
            **{"rsqrt_type": u(12), "norm_shift": 0, "scale_type": s(17), "bias_type": s(36)},
            **{"shift": 28, "half_up": 1, "max_tokens": 3},
        },
    ],
    "lookup_table": [
        {"max_tokens": 6},
        {"in_type": s(16), "out_type": s(9), "offset": 3000, "shift": 5, "entries": 100},
        {"in_type": s(20), "out_type": s(12), "offset": -700, "shift": 3, "entries": 37},
        {"in_type": u(1), "out_type": s(40), "offset": 0, "entries": 2},
    ],
    "nm_matmul": [
        {"max_tokens": 5},
        {"n": 1, "in_channels": 16, "out_channels": 6, "simd": 8},
        {"n": 1, "m": 1, "in_channels": 3, "out_channels": 5, "simd": 1, "pe": 1, "shift": 0},
        {"n": 3, "m": 8, "in_channels": 16, "simd": 8, "half_up": 1, "out_type": u(6)},
        {"n": 1, "m": 1, "in_channels": 12, "out_channels": 6, "groups": 3, "shift": -2},
        {
            **{"in_channels": 16, "out_channels": 4, "groups": 2, "pe": 1, "out_type": u(7)},
            **{"weight_type": s(17), "in_type": s(16), "bias_type": s(30), "acc_type": s(40)},
            **{"shift": 20},
        },
        {
            **{"n": 4, "m": 16, "in_channels": 32, "simd": 32, "weight_type": s(8)},
            **{"in_type": u(8), "bias_type": s(14), "shift": 9, "tp": 3, "max_tokens": 7},
        },
        {
            **{"entries": 37, "table_offset": 100, "table_shift": 3, "mid_type": s(9)},
            **{"out_type": u(6), "bias_type": s(12)},
        },
        {
            **{"entries": 64, "table_offset": 32, "mid_type": s(6), "out_type": s(14), "shift": 5},
            **{"bias_type": s(11), "half_up": 1, "tp": 2, "pack": 2, "mult_dsp": 1},
            **{"max_tokens": 5},
        },
    ],
    "pos_embed": [
        {"max_tokens": 6},
        {"channels": 3, "simd": 1, "pos_type": s(9), "out_type": s(8)},
        {"in_type": u(8), "out_type": u(8), "max_tokens": 5},
        {"pos_type": s(9), "out_type": s(6), "shift": 3, "max_tokens": 5},
        {
            **{"in_type": s(22), "pos_type": s(19), "out_type": s(14), "shift": 8, "half_up": 1},
            **{"max_tokens": 5},
        },
    ],
    "residual_add": [
        {"max_tokens": 6},
        {"a_type": s(8), "b_type": u(10), "out_type": s(9), "a_shift": 3, "shift": 2},
        {"a_shift": 1, "b_shift": 4, "shift": 3, "half_up": 1},
        {"a_type": u(7), "b_type": u(9), "out_type": u(8), "shift": -1},
        {"a_type": u(7), "b_type": s(6), "out_type": s(6), "a_mult": 5, "a_mult_shift": 4},
        {
            **{"a_type": s(9), "out_type": s(12), "a_mult": 12, "a_mult_shift": 3, "a_shift": 1},
            **{"b_shift": 2, "shift": 2, "half_up": 1},
        },
        {"a_type": s(3), "out_type": s(20), "a_mult": 1, "a_mult_shift": 5},
        {"a_type": s(28), "b_type": s(40), "out_type": s(44), "a_mult": 2**31 - 1, "shift": 20},
    ],
    "token_mean": [
        {"max_tokens": 6},
        {"channels": 6, "groups": 3, "simd": 1, "half_up": 1, "max_tokens": 17},
        {"channels": 2, "groups": 1, "in_type": u(4), "shift": 8, "recip_type": u(9)},
    ],
    "token_select": [
        {"max_tokens": 9},
        {"channels": 3, "simd": 1, "max_tokens": 17, "half_up": 1},
        {"x_type": u(6), "score_type": s(6), "offset": 32, "shift": 0, "entries": 64},
        {"score_type": s(10), "offset": 512, "shift": 7, "entries": 8, "index_bits": 3},
        {"channels": 2, "score_type": s(4), "offset": 8, "shift": 1, "entries": 8, "max_tokens": 4},
        {"topk": 4, "max_tokens": 9},
        {"topk": 3, "score_type": s(2), "offset": 2, "shift": 0, "entries": 4, "max_tokens": 17},
        {"topk": 1, "x_type": u(5), "score_type": s(8), "offset": 128, "shift": 1, "max_tokens": 6},
    ],
}
SETS = [
    pytest.param(stem, case, id=f"{stem}-{i}")
    for stem, cases in CASES.items()
    for i, case in enumerate(cases)
]


def test_every_core_has_a_twin() -> None:
    assert set(TWINS) == set(CASES) == set(core_names())


def results(y: Stream) -> list[Result]:
    return [(y.frame(i).tolist(), bool(flag)) for i, flag in enumerate(y.package)]


def twins(stem: str, p: CoreParams, constants: dict[str, Tensor], xs: list[Stream]) -> list[Result]:
    plain = {k: v.tolist() for k, v in constants.items()}
    return [
        TWINS[stem](p, plain, bool(xs[0].package[i]), *(x.frame(i).tolist() for x in xs))
        for i in range(len(xs[0].length))
    ]


def check(stem: str, p: CoreParams, constants: dict[str, Tensor], xs: list[Stream]) -> Stream:
    y = load_core(stem).golden(p, constants, *xs)
    assert results(y) == twins(stem, p, constants, xs)
    assert not bool(y.data[~y.valid()].any()), "rows past the length must be 0"
    assert y.data.dtype == torch.int64
    p.output().itype.check(y.data, stem)
    assert int(y.length.max()) <= p.out_tokens(p.max_tokens)
    return y


@pytest.mark.parametrize(("stem", "case"), SETS)
def test_equals_the_twin(stem: str, case: dict[str, Any], rng: torch.Generator) -> None:
    core = load_core(stem)
    p = core.params(**case)
    for _ in range(10):
        constants, xs = core.stimuli(rng, p, FRAMES)
        y = check(stem, p, constants, xs)
        if len(y.data[y.valid()].unique()) > 1:
            return
    pytest.fail("a constant output, which proves nothing, ten times")


@pytest.mark.parametrize(("stem", "case"), SETS)
def test_frames_do_not_influence_each_other(
    stem: str, case: dict[str, Any], rng: torch.Generator
) -> None:
    """f(cat(a, b)) == cat(f(a), f(b)), and a frame alone gives the same as in a batch."""
    core = load_core(stem)
    p = core.params(**case)
    constants, xs = core.stimuli(rng, p, FRAMES)

    def part(start: int, stop: int) -> list[Result]:
        cut = [Stream(x.data[start:stop], x.length[start:stop], x.package[start:stop]) for x in xs]
        return results(core.golden(p, constants, *cut))

    whole = part(0, FRAMES)
    assert whole == part(0, 10) + part(10, FRAMES)
    for i in range(FRAMES):
        short = [Stream(x.data[i : i + 1, : int(x.length[i])], x.length[i : i + 1],
                        x.package[i : i + 1]) for x in xs]  # fmt: skip
        assert results(core.golden(p, constants, *short)) == whole[i : i + 1]


# -- layers that share a core ----------------------------------------------------------------------
#: core, what is common to the layers, what is not
SHARED: list[tuple[str, dict[str, Any], list[dict[str, Any]]]] = [
    (
        "lookup_table",
        {"in_type": s(9), "out_type": s(5), "max_tokens": 3},
        [
            {"offset": 25, "entries": 64},
            {"offset": 174, "shift": 3, "entries": 50},
            {"offset": -9, "shift": 1, "entries": 64},
        ],
    ),
    *(
        (
            "residual_add",
            {"a_type": s(14), "b_type": s(16), "out_type": s(14), "half_up": half_up},
            [
                {"a_mult": 986673, "a_mult_shift": 20},
                {"a_mult": 3, "a_mult_shift": 2},
                {},
                {"a_mult": 1234567, "a_mult_shift": 22},
            ],
        )
        for half_up in (0, 1)
    ),
    *(
        (
            "layernorm",
            {"channels": 6, "mean_mult": 10923, "half_up": half_up, "max_tokens": 5},
            [
                {"shift": 9, "scale_type": s(7)},
                {"shift": 12, "bias_type": s(18)},
                {"shift": -2, "scale_type": s(3), "bias_type": s(5)},
            ],
        )
        for half_up in (0, 1)
    ),
    (
        "layernorm",
        {"channels": 6, "mean_mult": 10923, "rsqrt_type": u(9), "norm_shift": 3, "max_tokens": 5},
        [
            {"entries": 37, "table_offset": -9001, "table_shift": 11},
            {"entries": 64, "table_offset": 500, "table_shift": 17, "shift": 11},
            {"entries": 64, "table_offset": 0, "table_shift": 15, "scale_type": s(5)},
        ],
    ),
]


@pytest.mark.parametrize(("stem", "common", "changes"), SHARED)
def test_a_set_is_its_layer(
    stem: str, common: dict[str, Any], changes: list[dict[str, Any]], rng: torch.Generator
) -> None:
    """Stacked layers, made alike where they differ, give bit for bit what each of them gives."""
    core = load_core(stem)
    layers = [core.params(**common, **change) for change in changes]
    drawn = [core.stimuli(rng, p, FRAMES) for p in layers]
    p, constants = core.params.stack([(a, c) for a, (c, _) in zip(layers, drawn, strict=True)])
    assert p.sets == len(layers)
    images = p.images(constants)  # every constant fits its type
    assert len(images["settings"].words) == p.sets
    p.tables(constants)

    want = [core.golden(a, c, *xs) for a, (c, xs) in zip(layers, drawn, strict=True)]
    for i, (_, xs) in enumerate(drawn):
        number = Stream.full(torch.full((FRAMES, 1, 1), i))
        assert results(core.golden(p, constants, *xs, number)) == results(want[i])

    # frame by frame in turn
    tokens = p.max_tokens
    mixed = []
    for many in zip(*(xs for _, xs in drawn), strict=True):
        data = [torch.nn.functional.pad(x.data, (0, 0, 0, tokens - x.data.shape[1])) for x in many]
        mixed.append(
            Stream(
                torch.stack(data, 1).flatten(0, 1),
                torch.stack([x.length for x in many], 1).flatten(),
                torch.stack([x.package for x in many], 1).flatten(),
            )
        )
    number = Stream.full(torch.arange(p.sets).repeat(FRAMES)[:, None, None])
    each = [results(y) for y in want]
    assert results(core.golden(p, constants, *mixed, number)) == [
        row[i] for i in range(FRAMES) for row in each
    ]


@pytest.mark.parametrize(
    ("stem", "changes", "reason"),
    [
        ("residual_add", [{"a_mult": 1 << 30}, {"a_mult_shift": 3}], "1 to 31 bits"),
        ("residual_add", [{"shift": 1}, {"shift": 2}], "shift differs"),
        ("lookup_table", [{"out_type": s(4)}, {"out_type": s(5)}], "out_type differs"),
        ("layernorm", [{"shift": 10}, {"shift": 55}], "bias of these layers would have"),
        ("layernorm", [{"shift": 10}, {"shift": 75}], "constants of"),
        ("layernorm", [{"norm_shift": 2}, {"norm_shift": 1}], "norm_shift differs"),
        ("layernorm", [{"entries": 8}, {}], "entries differs"),
    ],
)
def test_layers_that_cannot_share_a_core(
    stem: str, changes: list[dict[str, Any]], reason: str, rng: torch.Generator
) -> None:
    core = load_core(stem)
    layers = [core.params(**change) for change in changes]
    with pytest.raises(ValueError, match=reason):
        core.params.stack([(p, core.stimuli(rng, p, 1)[0]) for p in layers])


@pytest.mark.parametrize("stem", ["layernorm", "lookup_table", "residual_add"])
@pytest.mark.parametrize("sets", [0, 65])
def test_number_of_sets(stem: str, sets: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 sets"):
        load_core(stem).params(sets=sets)


# -- edge cases ----------------------------------------------------------------------------------
def stream(frames: list[Frame], flags: list[bool] | None = None) -> Stream:
    tokens = max(len(f) for f in frames)
    data = torch.zeros(len(frames), tokens, len(frames[0][0]), dtype=torch.int64)
    for i, f in enumerate(frames):
        data[i, : len(f)] = torch.tensor(f)
    length = torch.tensor([len(f) for f in frames])
    return Stream(data, length, torch.tensor(flags or [False] * len(frames)))


def attention_constants(p: AttentionParams, step: float) -> dict[str, Tensor]:
    return {
        "exp": exp_table(p.exp_entries, step, p.exp_type),
        "recip": reciprocal_table(p.index_bits, p.recip_type.bits - 1),
    }


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (4, 4), (1, 1), (3, 8)])
def test_attention_all_scores_equal(n: int, m: int, rng: torch.Generator) -> None:
    """Ties go to the lower index: of every group the first n keys count, all alike."""
    p = AttentionParams(channels=2, heads=1, simd=1, n=n, m=m, max_tokens=13)
    for tokens in range(1, 14):
        zero = torch.zeros(1, tokens, 2, dtype=torch.int64)
        v = torch.randint(-128, 128, (1, tokens, 2), generator=rng)
        xs = [Stream.full(x) for x in (zero, zero, v)]
        y = check("attention", p, attention_constants(p, 0.1), xs)
        lost = torch.tensor([j % m >= n for j in range(tokens)])
        other = torch.where(lost[:, None], -v - 1, v)
        changed = attention(p, attention_constants(p, 0.1), *xs[:2], Stream.full(other))
        assert changed == y, "a key that does not survive had influence"


@pytest.mark.parametrize(("n", "m"), [(1, 4), (2, 4), (3, 4), (4, 4)])
def test_attention_every_order_of_four_scores(n: int, m: int) -> None:
    """All 4^4 rows of scores 0..3, ties of every kind among them."""
    p = AttentionParams(channels=1, heads=1, simd=1, n=n, m=m, max_tokens=4, exp_shift=0,
                        exp_offset=0, exp_entries=4)  # fmt: skip
    rows = torch.cartesian_prod(*[torch.arange(4)] * 4)[..., None]
    q = torch.ones_like(rows)
    v = torch.tensor([1, 10, 60, 120]).reshape(1, 4, 1).expand_as(rows)
    check("attention", p, attention_constants(p, 1.0), [Stream.full(x) for x in (q, rows, v)])


def test_attention_packing() -> None:
    """Keys and tokens share DSP blocks where the fields of their products fit."""
    ports = (27, 18)
    tiny = AttentionParams(
        max_tokens=197, channels=192, heads=3, simd=8, tp=2, n=4, m=4, mult_dsp=1,
        q_type=s(3), k_type=s(3), v_type=s(3), prob_type=u(3),
    )  # fmt: skip
    # eight products of up to 16, four of up to 28
    assert tiny.packings(ports) == ((2, 2, 9), (2, 2, 8))
    assert tiny.resources().dsp == 4 * 8 * 2 / 4 + 4 * 8 * 2 / 4 + 2
    assert dataclasses.replace(tiny, tp=3).packings(ports) == ((2, 1, 9), (2, 1, 8)), (
        "tokens come in pairs"
    )
    assert dataclasses.replace(tiny, n=2).packings(ports)[1] == (2, 1, 7), (
        "rows choose their own values"
    )
    assert dataclasses.replace(tiny, m=5, n=5, simd=1).packings(ports) == ((1, 2, 6), (1, 2, 9))
    wide = dataclasses.replace(tiny, q_type=s(8), k_type=s(8), v_type=s(12))
    assert wide.packings(ports) == ((1, 1, 19), (1, 1, 17)), "28 bits of two keys"
    assert dataclasses.replace(wide, simd=4).packings(ports)[0] == (2, 1, 18)
    # a block multiplies with up to 18 bits
    assert {f["mult_dsp"] for f in tiny.foldings()} == {0, 1}
    with pytest.raises(ValueError, match="suit no DSP block"):
        dataclasses.replace(tiny, q_type=s(19))
    assert {
        f["mult_dsp"] for f in dataclasses.replace(tiny, q_type=s(19), mult_dsp=0).foldings()
    } == {0}


SEGMENTS: dict[str, Any] = {
    **{"exp_type": u(12), "recip_type": u(8), "recip_entries": 16, "near_offset": -2600},
    **{"near_shift": 9, "far_offset": -12000, "far_shift": 11, "max_tokens": 14},
    **{"q_type": s(3), "k_type": s(3)},
}


@pytest.mark.parametrize("half_up", [0, 1])
@pytest.mark.parametrize(
    ("common", "own", "new"),
    [
        # (prob_shift, far_prob_shift) of the layers; prob_shift, far_prob_shift, bits of the table
        (SEGMENTS, [(12, 4), (14, 3), (13, 5), (14, 4)], (18, 0, 14)),
        # the near entries would need 21 bits
        (SEGMENTS, [(12, 4), (12, 13), (10, 5)], (12, 13, 18)),
        (SEGMENTS, [(-3, 1), (2, 0), (0, 3)], (3, 0, 14)),
        (SEGMENTS, [(12, 4), (12, 4)], (12, 4, 8)),
        ({"max_tokens": 9}, [(4, 0), (6, 0), (-1, 0)], (6, 0, 19)),
    ],
)
def test_attention_stack(
    common: dict[str, Any], own: list[tuple[int, int]], new: tuple[int, int, int], half_up: int,
    rng: torch.Generator,
) -> None:  # fmt: skip
    """Layers with shifts of their own compute the same as sets of one core."""
    core = load_core("attention")
    layers, frames = [], []
    for i, (prob, far) in enumerate(own):
        p = AttentionParams(
            **{"exp_shift": 3 + i, "exp_offset": 7 - i, **common, "half_up": half_up},
            prob_shift=prob,
            far_prob_shift=far,
        )
        constants, xs = core.stimuli(rng, p, 6)
        layers.append((p, constants))
        frames.append((xs, core.golden(p, constants, *xs)))
    stacked, constants = AttentionParams.stack(layers)
    bits = stacked.recip_type.bits
    assert (stacked.prob_shift, stacked.far_prob_shift, bits) == new
    assert (stacked.sets, stacked.exp_span, stacked.near_span) == (len(own), len(own) - 1, 0)
    assert (stacked.exp_shift, stacked.exp_offset) == (2 + len(own), 7)
    stacked.recip_type.check(constants["recip"], "recip")
    for i, (xs, y) in enumerate(frames):
        chosen = Stream.full(torch.full((6, 1, 1), i))
        assert core.golden(stacked, constants, *xs, chosen) == y


def test_attention_saturated_scores() -> None:
    """Largest positive against largest negative score: the table's last entry, no overflow."""
    p = AttentionParams(channels=8, heads=1, max_tokens=4, n=2, m=2)
    q = torch.full((1, 4, 8), -128)
    k = torch.tensor([-128, 127, 127, -128]).reshape(1, 4, 1).expand(1, 4, 8)
    v = torch.tensor([127, -128, -128, 127]).reshape(1, 4, 1).expand(1, 4, 8)
    y = check("attention", p, attention_constants(p, 0.1), [Stream.full(x) for x in (q, k, v)])
    assert bool((y.data == 127).all())


@pytest.mark.parametrize("in_type", [s(12), u(9), s(2)])
def test_layernorm_zero_variance(in_type: IntType, rng: torch.Generator) -> None:
    """All channels equal: the result is the bias alone, whatever the mean."""
    p = LayernormParams(channels=8, in_type=in_type, max_tokens=4)
    constants, _ = load_core("layernorm").stimuli(rng, p, 1)
    rows = [[[v] * 8] for v in (in_type.min, in_type.min + 1, in_type.max - 1, in_type.max)]
    y = check("layernorm", p, constants, [stream(rows)])
    want = [limited(rounded(b, p.shift, 0), p.out_type) for b in constants["bias"].tolist()]
    assert y.data[:, 0].tolist() == [want] * 4


def test_layernorm_extremes(rng: torch.Generator) -> None:
    p = LayernormParams(channels=8, max_tokens=8)
    constants, _ = load_core("layernorm").stimuli(rng, p, 1)
    low, high = p.in_type.min, p.in_type.max
    rows = [[high] * i + [low] * (8 - i) for i in range(9)] + [[low] * 7 + [low + 1]]
    check("layernorm", p, constants, [stream([[row] for row in rows])])


@pytest.mark.parametrize(
    ("in_type", "offset", "shift", "entries"),
    [
        (s(8), 128, 0, 256),
        (u(8), 0, 0, 256),
        (s(8), 0, 3, 5),
        (s(12), -100, 2, 77),
        (s(16), 32768, 8, 256),
        (u(16), 5, 0, 2),
    ],
)
def test_lookup_table_every_input(
    in_type: IntType, offset: int, shift: int, entries: int, rng: torch.Generator
) -> None:
    p = LookupTableParams(channels=1, simd=1, in_type=in_type, out_type=s(10), offset=offset,
                          shift=shift, entries=entries)  # fmt: skip
    table = torch.randint(-512, 512, (entries,), generator=rng)
    x = torch.arange(in_type.min, in_type.max + 1).reshape(-1, 1, 1)
    y = lookup_table(p, {"table": table}, Stream.full(x)).data.flatten().tolist()
    values = table.tolist()
    assert y == [entry(values, v, offset, shift) for v in range(in_type.min, in_type.max + 1)]


def test_residual_add_every_pair() -> None:
    """All pairs of two 4-bit values under shifts to both sides and both roundings."""
    a, b = (g.reshape(-1, 1, 1) for g in torch.meshgrid(
        torch.arange(-8, 8), torch.arange(16), indexing="ij"))  # fmt: skip
    streams = [Stream.full(a), Stream.full(b)]
    for shift in range(-2, 7):
        for half_up in (0, 1):
            for out in (s(4), s(6), u(3)):
                p = ResidualAddParams(channels=1, simd=1, a_type=s(4), b_type=u(4), out_type=out,
                                      a_shift=1, b_shift=shift % 3, shift=shift,
                                      half_up=half_up)  # fmt: skip
                check("residual_add", p, {}, streams)


def test_residual_add_every_scaled_value() -> None:
    """All 8-bit values under factors and shifts that make ties, zeros and larger values."""
    for a_type, shift, half_up in itertools.product((s(8), u(8)), range(7), (0, 1)):
        a = torch.arange(a_type.min, a_type.max + 1).reshape(-1, 1, 1)
        for mult in (1, 3, 12, 200):
            p = ResidualAddParams(channels=1, simd=1, a_type=a_type, b_type=s(1), out_type=s(18),
                                  a_mult=mult, a_mult_shift=shift, half_up=half_up)  # fmt: skip
            y = check("residual_add", p, {}, [Stream.full(a), Stream.full(torch.zeros_like(a))])
            assert p.skip_type == IntType.fitting(int(y.data.min()), int(y.data.max()))


@pytest.mark.parametrize("shift", [18, 19, 20, 21])
def test_residual_add_of_hg_pipe(shift: int, rng: torch.Generator) -> None:
    """``o + ((x * RM + 2^(RS-1)) >> RS)`` for all 14-bit values of x."""
    p = ResidualAddParams(channels=1, simd=1, a_type=s(14), b_type=s(16), out_type=s(14),
                          half_up=1, a_mult=986673, a_mult_shift=shift)  # fmt: skip
    x = torch.arange(-8192, 8192).reshape(-1, 1, 1)
    o = torch.randint(-32768, 32768, x.shape, generator=rng)
    y = check("residual_add", p, {}, [Stream.full(x), Stream.full(o)])
    want = o + ((x * 986673 + 2 ** (shift - 1)) >> shift)
    assert torch.equal(y.data, want.clamp(-8192, 8191))


@pytest.mark.parametrize(("shift", "half_up"), [(0, 0), (3, 0), (3, 1)])
def test_pos_embed_every_pair(shift: int, half_up: int) -> None:
    """Every 8-bit value of a token and of a position: 65,536 sums."""
    p = PosEmbedParams(channels=256, simd=1, in_type=s(8), pos_type=s(8),
                       out_type=s(5 if shift else 8), shift=shift, half_up=half_up)  # fmt: skip
    pos = torch.arange(-128, 128).repeat(2, 1)
    x = torch.arange(-128, 128).reshape(-1, 1, 1).repeat(1, 1, 256)
    check("pos_embed", p, {"pos": pos}, [Stream.full(x)])


@pytest.mark.parametrize("b_type", [s(4), u(4)], ids=str)
def test_gated_sum_every_token(b_type: IntType) -> None:
    """Two channels of 4-bit values: all 65,536 tokens."""
    p = GatedSumParams(channels=2, simd=1, a_type=s(4), b_type=b_type, max_tokens=256)
    side = torch.arange(-8, 8), torch.arange(b_type.min, b_type.max + 1)
    a = torch.cartesian_prod(side[0], side[0])
    b = torch.cartesian_prod(side[1], side[1])
    streams = [Stream.full(a[:, None].repeat(1, 256, 1)), Stream.full(b.repeat(256, 1, 1))]
    check("gated_sum", p, {}, streams)


@pytest.mark.parametrize("half_up", [0, 1])
@pytest.mark.parametrize("table", [{}, {"entries": 11, "table_offset": -30, "table_shift": 3}])
def test_layernorm_every_row(half_up: int, table: dict[str, int], rng: torch.Generator) -> None:
    """Three channels of 4-bit values: all 4,096 rows."""
    p = LayernormParams(channels=3, simd=1, in_type=s(4), out_type=s(4), mean_mult=21845,
                        index_bits=4, rsqrt_type=u(12), shift=9, half_up=half_up,
                        **table)  # fmt: skip
    constants, _ = load_core("layernorm").stimuli(rng, p, 1)
    values = torch.arange(-8, 8)
    rows = torch.cartesian_prod(values, values, values)
    check("layernorm", p, constants, [Stream.full(rows[:, None])])


@pytest.mark.parametrize("half_up", [0, 1])
def test_token_mean_every_frame(half_up: int) -> None:
    """One channel of 2-bit values: all frames of one to six tokens."""
    p = TokenMeanParams(channels=1, groups=1, simd=1, in_type=s(2), max_tokens=6, shift=5,
                        recip_type=u(6), half_up=half_up)  # fmt: skip
    constants = {"recip": count_reciprocals(6, 5)}
    for tokens in range(1, 7):
        frames = torch.cartesian_prod(*[torch.arange(-2, 2)] * tokens).reshape(-1, tokens, 1)
        check("token_mean", p, constants, [Stream.full(frames)])


def test_nm_matmul_every_requantisation() -> None:
    """One input, weight 1: every 8-bit accumulator under every shift and both roundings."""
    x = Stream.full(torch.arange(-128, 128).reshape(-1, 1, 1))
    for shift in range(-3, 11):
        for half_up in (0, 1):
            for out in (s(8), s(3), u(4)):
                p = NmMatmulParams(in_channels=1, out_channels=1, n=1, m=1, simd=1, pe=1,
                                   out_type=out, shift=shift, half_up=half_up)  # fmt: skip
                constants = {"weight": torch.ones(1, 1).long(), "bias": torch.zeros(1).long()}
                check("nm_matmul", p, constants, [x])


@pytest.mark.parametrize(("n", "m"), [(1, 2), (1, 4), (2, 4), (3, 4), (3, 8), (7, 8)])
def test_nm_matmul_every_index_pattern(n: int, m: int) -> None:
    """Groups with 0..n nonzeros in every slot keep their weights through compression."""
    patterns = [i for i in range(1 << m) if i.bit_count() <= n]
    weight = torch.tensor([[(w + 2) * (i >> w & 1) for w in range(m)] for i in patterns])
    p = NmMatmulParams(in_channels=m, out_channels=len(patterns), n=n, m=m, simd=m, pe=1, shift=0)
    constants = {"weight": weight, "bias": torch.zeros(len(patterns), dtype=torch.int64)}
    values, index = p.compressed(weight)
    back = torch.zeros_like(weight).scatter_(1, index[:, 0], values[:, 0])
    assert torch.equal(back, weight)
    assert bool((index[..., 1:] > index[..., :-1]).all()), "indices ascend, none twice"
    check("nm_matmul", p, constants, [Stream.full(torch.eye(m).long()[:, None])])
    if n < m:
        weight[0] = 1
        with pytest.raises(ValueError, match=rf"break {n}:{m}: output 0, inputs 0..{m - 1}"):
            nm_matmul(p, constants, Stream.full(torch.eye(m).long()[:, None]))


def test_nm_matmul_table_is_the_lookup_table(rng: torch.Generator) -> None:
    """With a table the core equals itself without one, followed by a lookup_table; every 9-bit
    sum under tables that clamp on no, on one and on both sides."""
    x = Stream.full(torch.arange(-256, 256).reshape(-1, 1, 1))
    weight = {"weight": torch.ones(1, 1).long(), "bias": torch.zeros(1).long()}
    for mid in (s(8), u(6), s(4)):
        for offset, shift, entries in ((128, 0, 256), (0, 0, 256), (-20, 1, 9), (40, 3, 5)):
            plain = NmMatmulParams(in_channels=1, out_channels=1, n=1, m=1, simd=1, pe=1,
                                   in_type=s(9), out_type=mid, shift=1)  # fmt: skip
            fused = dataclasses.replace(
                plain, mid_type=mid, out_type=s(12), entries=entries, table_offset=offset,
                table_shift=shift,
            )  # fmt: skip
            table = LookupTableParams(channels=1, simd=1, in_type=mid, out_type=s(12),
                                      offset=offset, shift=shift, entries=entries)  # fmt: skip
            values = {"table": torch.randint(-2048, 2048, (entries,), generator=rng)}
            y = check("nm_matmul", fused, {**weight, **values}, [x])
            assert y == lookup_table(table, values, nm_matmul(plain, weight, x))


def test_nm_matmul_sets_are_cores_of_their_own(rng: torch.Generator) -> None:
    """Every frame gets what a core with the constants of its set alone makes of it; the memories of
    all sets hold those of each where the addresses of the RTL core point to."""
    p = NmMatmulParams(in_channels=12, out_channels=6, m=2, n=1, simd=4, pe=2, max_tokens=4,
                       bias_type=s(10), mid_type=s(6), entries=20, table_offset=16, table_shift=1,
                       sets=3)  # fmt: skip
    core = load_core("nm_matmul")
    constants, (x, chosen) = core.stimuli(rng, p, FRAMES)
    number = chosen.data[:, 0, 0]
    assert number.unique().tolist() == [0, 1, 2]
    y = core.golden(p, constants, x, chosen)
    images = p.images(constants)
    for index in range(p.sets):
        own = {name: values[index] for name, values in constants.items()}
        alone = dataclasses.replace(p, sets=1)
        want = check("nm_matmul", alone, own, [x])
        for i in (number == index).nonzero()[:, 0].tolist():
            assert torch.equal(y.frame(i), want.frame(i))
            assert bool(y.package[i]) == bool(want.package[i])
        for name, stride in (("weights", 9), ("bias", 4), ("table", 32)):
            words = alone.memories(own)[name].words
            at = index * stride
            assert images[name].words[at : at + len(words)] == words
        for name in images["weights"].files("w"):
            lines = images["weights"].files("w")[name].splitlines()
            one = alone.memories(own)["weights"].files("w")[name].splitlines()
            assert lines[index * 9 : index * 9 + 9] == one


def test_nm_matmul_folding_does_not_change_a_value(rng: torch.Generator) -> None:
    p = NmMatmulParams(in_channels=16, out_channels=8, max_tokens=7, bias_type=s(10))
    constants, (x,) = load_core("nm_matmul").stimuli(rng, p, FRAMES)
    want = check("nm_matmul", p, constants, [x])
    for changes in p.foldings():
        assert nm_matmul(dataclasses.replace(p, **changes), constants, x) == want


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tp": 3, "pack": 2, "mult_dsp": 1}, "pack 2 must divide tp 3"),
        ({"tp": 2, "pack": 2}, "multipliers in LUTs are not shared"),
        ({"tp": 5, "pack": 5, "mult_dsp": 1}, "5 tokens per multiplier: 1 to 4 are"),
        ({"tp": 3, "pack": 3, "mult_dsp": 1}, "pack 3 of int8 x int4 suits no DSP block"),
        ({"pack_out": 3, "mult_dsp": 1}, "3 outputs per multiplier: 1 or 2 are"),
        ({"pack_out": 2, "mult_dsp": 1}, "N:M outputs share no multiplier"),
        ({"pack_out": 2, "pe": 1}, "pack_out must divide pe 1"),
        (
            {"pack_out": 2, "mult_dsp": 1, "n": 1, "m": 1, "in_type": s(16), "weight_type": s(9)},
            "suits no DSP block",
        ),
        ({"mult_dsp": 1, "in_type": s(28)}, "suits no DSP block"),
        ({"pump": 3, "mult_dsp": 1}, "pump 3: 1 or 2 are"),
        ({"pump": 2}, "multipliers in LUTs have one clock"),
        ({"pump": 2, "mult_dsp": 1, "pe": 1}, "must divide pe 1"),
        ({"entries": 1}, "a table has at least 2 entries"),
        ({"weight_ram": 3}, "weight_ram is 0, 1 or 2"),
        ({"sets": 0}, "0 sets: 1 to 64 are"),
        ({"sets": 65}, "65 sets: 1 to 64 are"),
        ({"n": 4}, "dense is n = m = 1"),
    ],
)
def test_nm_matmul_refuses(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        NmMatmulParams(**changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"entries": 1}, "a table has at least 2 entries"),
        ({"entries": 8, "table_shift": -1}, "table_shift must not be negative"),
        ({"entries": 8, "table_offset": 1 << 31}, "table_offset has 32 bits"),
    ],
)
def test_layernorm_refuses(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        LayernormParams(**changes)


@pytest.mark.parametrize("x", [s(4), u(4), s(3), u(3)])
@pytest.mark.parametrize("w", [s(4), u(3), s(2)])
@pytest.mark.parametrize(("pack", "pack_out"), [(2, 1), (3, 1), (1, 2), (2, 2)])
def test_nm_matmul_fields_of_a_dsp_block(x: IntType, w: IntType, pack: int, pack_out: int) -> None:
    """The fields of sum (x0 + x1 2^F + ...) (w0 + w1 2^(pack F)) over the longest chain, each plus
    one where what stands below it is negative, are the sums of the products; operands and sum have
    as many bits as their ports."""
    chain = longest_chain(x, w, pack, pack_out, 32)
    field = field_bits(x, w, chain)
    ends = [[t.min, t.max] for t in [x] * pack + [w] * pack_out]
    ports = (26, 17) if pack_out == 1 else (17, 26)
    for values in itertools.product(*ends):
        tokens, weights = values[:pack], values[pack:]
        a = sum(v << i * field for i, v in enumerate(tokens))
        b = sum(v << i * pack * field for i, v in enumerate(weights))
        assert all(-(1 << p) <= v < 1 << p for v, p in zip((a, b), ports, strict=True))
        for first in (0, 1, chain):  # products of all blocks alike, or one of another sign
            other = [t.max + t.min - v for t, v in zip([x] * pack, tokens, strict=True)]
            c = sum(v << i * field for i, v in enumerate(other))
            total = first * a * b + (chain - first) * c * b
            assert -(1 << 47) <= total < 1 << 47
            for i, (weight, i_token) in enumerate(itertools.product(weights, range(pack))):
                want = (first * tokens[i_token] + (chain - first) * other[i_token]) * weight
                found = (total >> i * field) % (1 << field)
                found += total >> i * field - 1 & 1 if i else 0
                assert (found - want) % (1 << field) == 0
                assert -(1 << field - 1) <= want < 1 << field - 1


def select_constants(p: TokenSelectParams, weight: int) -> dict[str, Tensor]:
    return {
        "weight": torch.full((p.entries,), weight),
        "recip": reciprocal_table(p.index_bits, p.recip_shift),
    }


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("weight", [0, 1, 255])
def test_token_select_every_decision(weight: int, flag: bool, rng: torch.Generator) -> None:
    """All 2^5 score signs of five tokens; a denominator of 0 among them."""
    p = TokenSelectParams(max_tokens=5)
    sign = torch.cartesian_prod(*[torch.tensor([-1, 0])] * 5)[..., None]
    x = torch.randint(-2048, 2048, (32, 5, 4), generator=rng)
    full = torch.full((32,), 5)
    xs = [
        Stream(x, full, torch.full((32,), flag)),
        Stream(sign, full, torch.zeros(32, dtype=torch.bool)),
    ]
    y = check("token_select", p, select_constants(p, weight), xs)
    for i in range(32):
        candidates = sign[i, 1:4, 0] if flag else sign[i, 1:, 0]
        dropped = int((candidates < 0).sum()) + flag
        assert int(y.length[i]) == 5 - dropped + (dropped > 0)
        assert bool(y.package[i]) == (dropped > 0)


def test_token_select_class_token_alone() -> None:
    p = TokenSelectParams(max_tokens=1)
    x, score = stream([[[1, 2, 3, 4]]]), stream([[[p.score_type.min]]])
    y = token_select(p, select_constants(p, 9), x, score)
    assert results(y) == [([[1, 2, 3, 4]], False)]


def test_token_select_gather_is_a_matrix_product(rng: torch.Generator) -> None:
    """The kept tokens are R @ x with a 0/1 selection matrix R of orthonormal rows in raster order.

    With one participant of weight 1 the package is that token, up to the reciprocal's table.
    """
    p = TokenSelectParams(channels=4, max_tokens=17)
    constants, (x, score) = load_core("token_select").stimuli(rng, p, 64)
    y = token_select(p, constants, x, score)
    for i in range(64):
        tokens = int(x.length[i])
        keep = [
            t
            for t in range(tokens)
            if not (bool(x.package[i]) and t == tokens - 1)
            and (t == 0 or int(score.data[i, t, 0]) >= 0)
        ]
        r = torch.zeros(len(keep), tokens, dtype=torch.int64)
        r[torch.arange(len(keep)), keep] = 1
        assert torch.equal(r @ r.T, torch.eye(len(keep), dtype=torch.int64))
        assert torch.equal(y.frame(i)[: len(keep)], r @ x.frame(i))
        assert len(y.frame(i)) == len(keep) + bool(y.package[i])


# -- float reference -----------------------------------------------------------------------------
def test_attention_close_to_float(rng: torch.Generator) -> None:
    """Dense attention of 8-bit values, 8-bit probabilities: within 4 output steps of the softmax.

    At 16 keys: probabilities are off by at most 1/512 from rounding and about 1.5 % from the two
    tables, and values are at most 128.
    """
    p = AttentionParams(channels=8, heads=2, n=4, m=4, max_tokens=16, exp_shift=6, exp_offset=32,
                        recip_type=u(13), prob_shift=4)  # fmt: skip
    step = 10.0 / p.exp_entries
    q, k, v = (torch.randint(-40, 41, (64, 16, 8), generator=rng) for _ in range(3))
    got = attention(p, attention_constants(p, step), *(Stream.full(x) for x in (q, k, v))).data
    qh, kh, vh = (x.double().unflatten(-1, (2, 4)).transpose(1, 2) for x in (q, k, v))
    prob = (qh @ kh.transpose(-2, -1) * step / 2**p.exp_shift).softmax(-1)
    want = (prob @ vh).transpose(1, 2).flatten(2)
    assert float((got - want).abs().max()) < 4
    assert float(got.double().std()) > 3, "a constant output proves nothing"


@pytest.mark.parametrize("channels", [8, 16, 48])
def test_layernorm_close_to_float(channels: int, rng: torch.Generator) -> None:
    """Output steps of 1/32: within 4 steps of the float result for a standard deviation >= 20.

    Largest |z| is sqrt(channels) <= 7; the table is off by at most 1/64, 3.5 steps at |z| = 7, the
    mean by half an input step, and the rounding by half a step.
    """
    fraction = 8
    mean_shift = 12 + channels.bit_length() + 2
    gain_bits = math.ceil(math.log2(channels) / 2)
    p = LayernormParams(channels=channels, in_type=s(12), out_type=s(10), max_tokens=8,
                        mean_mult=round(2**mean_shift / channels), mean_shift=mean_shift,
                        index_bits=5, rsqrt_type=u(fraction + 3 + gain_bits), norm_shift=2,
                        scale_type=s(8), bias_type=s(18), shift=5 + fraction - 5)  # fmt: skip
    x = torch.randint(-1000, 1001, (200, 8, channels), generator=rng)
    x = x // torch.tensor([1, 2, 4, 8])[torch.randint(0, 4, (200, 8, 1), generator=rng)]
    x = x[(x.double().std(-1, unbiased=False) >= 20).all(1)]
    assert len(x) > 100
    constants = {
        "rsqrt": rsqrt_table(p.index_bits, fraction + 2, channels),
        "scale": torch.full((channels,), 32),
        "bias": torch.zeros(channels, dtype=torch.int64),
    }
    got = layernorm(p, constants, Stream.full(x)).data
    want = torch.nn.functional.layer_norm(x.double(), (channels,), eps=0.0) * 32
    assert float((got - want).abs().max()) < 4
    assert float(got.double().std()) > 20


# -- overflow ------------------------------------------------------------------------------------
def test_overflow_raises() -> None:
    one = Stream.full(torch.full((1, 1, 8), 2047))
    p = NmMatmulParams(
        n=1, m=1, simd=1, pe=1, in_type=s(12), out_channels=1, acc_type=s(17), shift=4
    )
    constants = {"weight": torch.full((1, 8), 7), "bias": torch.zeros(1).long()}
    with pytest.raises(OverflowError, match=r"accumulator: 114632\.\.114632 does not fit int17"):
        nm_matmul(p, constants, one)
    fits = dataclasses.replace(p, acc_type=s(18))
    assert nm_matmul(fits, constants, one).data.tolist() == [[[127]]]

    core = load_core("gated_sum")
    a, b = (Stream.full(torch.full((1, 1, 4), v)) for v in (-128, 255))
    with pytest.raises(OverflowError, match="gated_sum"):
        core.golden(core.params(out_type=s(17)), {}, a, b)
    assert core.golden(core.params(out_type=s(18)), {}, a, b).data.tolist() == [[[-130560]]]

    q = LayernormParams(rsqrt_type=u(8))
    affine = {"scale": torch.ones(8).long(), "bias": torch.zeros(8).long()}
    x = Stream.full(torch.tensor([[[2047] * 7 + [-2048]]]))
    with pytest.raises(OverflowError, match="layernorm normalised value"):
        layernorm(q, {"rsqrt": torch.full((128,), 2000), **affine}, x)
    with pytest.raises(OverflowError, match="layernorm difference"):
        steep = dataclasses.replace(q, mean_mult=4 * q.mean_mult)
        layernorm(steep, {"rsqrt": torch.full((128,), 200), **affine}, one)

    t = LookupTableParams(out_type=u(4))
    with pytest.raises(OverflowError, match="table"):
        lookup_table(t, {"table": torch.full((256,), 16)}, Stream.full(torch.zeros(1, 1, 4).long()))


def test_inexact_double_products_are_refused() -> None:
    x = torch.ones(1, 1, dtype=torch.int64)
    assert exact_matmul(x, x, (1 << 53) - 1).tolist() == [[1]]
    with pytest.raises(OverflowError, match="not exact in double"):
        exact_matmul(x, x, 1 << 53)


def test_accumulator_type_is_tight(rng: torch.Generator) -> None:
    """The type holds the worst inputs and is the smallest that does."""
    for _ in range(50):
        weight = torch.randint(-8, 8, (4, 6), generator=rng)
        bias = torch.randint(-100, 101, (4,), generator=rng)
        for t in (s(5), u(4)):
            highs, lows = [], []
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True):
                highs.append(sum(max(w * t.min, w * t.max) for w in row) + max(b, 0))
                lows.append(sum(min(w * t.min, w * t.max) for w in row) + min(b, 0))
            assert accumulator_type(weight, bias, t) == IntType.fitting(
                min(min(lows), -1), max(highs)
            )


def test_streams_of_different_length_are_refused() -> None:
    for stem in ("attention", "gated_sum", "residual_add", "token_select"):
        core = load_core(stem)
        p = core.params(max_tokens=3)
        constants, xs = core.stimuli(torch.Generator().manual_seed(0), p, 4)
        xs[1] = Stream(xs[1].data, xs[1].length % 3 + 1, xs[1].package)
        with pytest.raises(ValueError, match=f"{stem}: .* different length"):
            core.golden(p, constants, *xs)
