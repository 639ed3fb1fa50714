# SPDX-License-Identifier: Apache-2.0
"""Every core over a grid of parameters: open synthesis beside the cost model, logic depth.

``python -m sievit.rtl.grid`` synthesises what is not yet in ``grid.json``, prints the table and
writes it into ``docs/resources.md``. With names of cores, only their points are synthesised;
the page then holds what is known, and says how much is not.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from sievit.quant.cores.attention import AttentionParams
from sievit.quant.cores.first_token import FirstTokenParams
from sievit.quant.cores.gated_sum import GatedSumParams
from sievit.quant.cores.layernorm import LayernormParams
from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.cores.pos_embed import PosEmbedParams
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.cores.token_mean import TokenMeanParams
from sievit.quant.cores.token_select import TokenSelectParams
from sievit.quant.files import replace_section, write_atomic
from sievit.quant.itype import IntType
from sievit.quant.params import Constants, CoreParams, Resources, load_core
from sievit.quant.sources import ROOT, bare, rtl_sources
from sievit.rtl.netlist import Path as TimedPath
from sievit.rtl.netlist import Timing
from sievit.rtl.synth import RTL, Synthesis, synthesise

STORE = RTL / "grid.json"
PAGE = ROOT / "docs" / "resources.md"
#: of the random constants in the ROMs
SEED = 3
#: what the cost models promise: LUTs within this share plus a few, DSP and RAM blocks exactly
LUT_SHARE, LUT_SLACK = 0.15, 20


def _int(bits: int) -> IntType:
    return IntType(bits, True)


def _uint(bits: int) -> IntType:
    return IntType(bits, False)


#: a 2:4 matrix of a digits network and a 4:16 matrix of DeiT-Tiny
_PRODUCT_48 = NmMatmulParams(
    max_tokens=17, in_channels=48, out_channels=48, simd=8, pe=2, in_type=_int(6),
    bias_type=_int(13), acc_type=_int(13), out_type=_int(6), weight_ram=1,
)  # fmt: skip
_PRODUCT_192 = NmMatmulParams(
    max_tokens=197, in_channels=192, out_channels=192, n=4, m=16, simd=16, pe=4, in_type=_int(6),
    bias_type=_int(14), acc_type=_int(16), out_type=_int(6), weight_ram=1,
)  # fmt: skip
#: a dense matrix of an integer DeiT-Tiny in three bits
_PRODUCT_3 = NmMatmulParams(
    max_tokens=197, in_channels=192, out_channels=192, n=1, m=1, simd=16, pe=4, tp=2, pack=2,
    pack_out=2, in_type=_int(3), weight_type=_int(3), bias_type=_int(10), acc_type=_int(14),
    out_type=_int(3), shift=6, half_up=1, mult_dsp=1, weight_ram=1,
)  # fmt: skip
#: layer normalisation of a digits network (48 channels) and of DeiT-Tiny (192)
_NORM_48 = LayernormParams(
    max_tokens=17, channels=48, in_type=_int(12), out_type=_int(6), mean_mult=21845, mean_shift=20,
    rsqrt_type=_uint(14), bias_type=_int(18),
)  # fmt: skip
_NORM_192 = dataclasses.replace(
    _NORM_48,
    max_tokens=197,
    channels=192,
    in_type=_int(14),
    mean_mult=87381,
    mean_shift=24,
    rsqrt_type=_uint(15),
)


#: attention of the same two networks
_ATTENTION_48 = AttentionParams(
    max_tokens=17, channels=48, heads=3, simd=4, q_type=_int(6), k_type=_int(6), v_type=_int(6),
    out_type=_int(6),
)  # fmt: skip
_ATTENTION_192 = dataclasses.replace(
    _ATTENTION_48, max_tokens=197, channels=192, simd=8, exp_shift=5, exp_offset=16, kv_ram=1
)
#: of an integer DeiT-Tiny in three bits, with two segments of reciprocals
_ATTENTION_3 = AttentionParams(
    max_tokens=40, channels=192, heads=3, simd=8, q_type=_int(3), k_type=_int(3), v_type=_int(3),
    exp_offset=8, exp_shift=4, exp_entries=32, exp_type=_uint(16), recip_type=_uint(9),
    prob_shift=15, prob_type=_uint(3), out_type=_int(14), shift=0, half_up=1, recip_entries=64,
    near_offset=-28706, near_shift=13, far_offset=-359889, far_shift=16, far_prob_shift=4,
)  # fmt: skip


def _vary(base: Any, *changes: dict[str, Any]) -> list[Any]:
    return [dataclasses.replace(base, **change) for change in changes]


#: parameters of every core at sizes of the digits network and of DeiT-Tiny
GRID: dict[str, list[Any]] = {
    "attention": [
        AttentionParams(max_tokens=17),
        *_vary(
            _ATTENTION_48,
            {},
            {"mult_dsp": 1},
            {"tp": 2, "kv_ram": 1},
            {"n": 4, "mult_dsp": 1},
            {"n": 1, "heads_par": 3, "k_type": _int(4), "v_type": _int(5), "kv_ram": 1},
        ),
        AttentionParams(
            max_tokens=20, channels=16, heads=4, simd=2, n=1, heads_par=2, tp=2, mult_dsp=1
        ),
        AttentionParams(max_tokens=65, channels=16, heads=2, simd=2, n=4, m=16, kv_ram=1),
        AttentionParams(
            max_tokens=30, channels=12, heads=2, simd=3, n=3, m=8, tp=3, k_type=_uint(5),
            kv_ram=1, half_up=1,
        ),
        *_vary(
            _ATTENTION_192,
            {"mult_dsp": 1, "kv_ram": 1},
            {"kv_ram": 2},
            {"simd": 2, "m": 16, "q_type": _int(4), "k_type": _int(4), "v_type": _int(4)},
        ),
        *_vary(_ATTENTION_3, {"n": 4}, {}, {"mult_dsp": 1}),
        *_vary(
            dataclasses.replace(_ATTENTION_3, max_tokens=197, kv_ram=1, mult_dsp=1),
            {"n": 4, "tp": 2},
            {"n": 4, "tp": 4},
            {"n": 4, "tp": 4, "pump": 2},
            {"n": 2, "m": 16, "simd": 4, "tp": 2},
            # the blocks of DeiT-Tiny share it
            {"n": 4, "tp": 2, "recip_type": _uint(13), "prob_shift": 20, "far_prob_shift": 0,
             "exp_shift": 5, "exp_offset": 16, "exp_span": 3, "near_shift": 14, "near_span": 1,
             "near_offset": -34000, "far_shift": 17, "far_span": 1, "far_offset": -720000,
             "sets": 12},
        ),
        dataclasses.replace(_ATTENTION_48, mult_dsp=1, exp_span=2, sets=3),
    ],
    "first_token": [
        FirstTokenParams(max_tokens=17, channels=48, simd=1),
        FirstTokenParams(max_tokens=17, channels=48, simd=8),
        FirstTokenParams(max_tokens=197, channels=192, simd=4, in_type=_int(16)),
    ],
    "gated_sum": _vary(
        GatedSumParams(max_tokens=197, channels=3, simd=1, out_type=_int(18)),
        {},
        {"simd": 3},
        {"mult_dsp": 1},
        {"simd": 3, "mult_dsp": 1},
        {"channels": 12, "simd": 4, "out_type": _int(20)},
    ),
    "layernorm": [
        *_vary(
            _NORM_48,
            {"simd": 1},
            {"simd": 3, "out_type": _int(8), "shift": 8},
            {"simd": 4, "mult_dsp": 1},
        ),
        *_vary(
            _NORM_192,
            {"simd": 1},
            {"simd": 4},
            {"simd": 16},
            {"simd": 4, "mult_dsp": 1},
            {"simd": 2, "in_type": _int(16), "mean_shift": 26, "mean_mult": 349525},
            {"simd": 2, "in_type": _int(12), "mean_shift": 22, "mean_mult": 21845,
             "out_type": _int(4), "shift": 12, "half_up": 1},
        ),
        LayernormParams(
            max_tokens=197, channels=768, simd=8, in_type=_int(14), out_type=_int(8),
            mean_mult=87381, mean_shift=26, rsqrt_type=_uint(16), bias_type=_int(18), shift=8,
        ),
        *_vary(
            LayernormParams(
                max_tokens=197, channels=192, in_type=_int(14), out_type=_int(3), mean_mult=43691,
                mean_shift=23, entries=128, table_offset=-8585116, table_shift=17,
                rsqrt_type=_uint(12), norm_shift=0, scale_type=_int(17), bias_type=_int(36),
                shift=33, half_up=1, mult_dsp=1,
            ),
            {"simd": 1},
            {"simd": 2, "mult_dsp": 0},
            {"simd": 2, "out_type": _int(8), "table_shift": 23, "shift": 27},
            {"simd": 4},
            {"simd": 2, "table_shift": 23, "sets": 12},
        ),
        *_vary(_NORM_48, {"simd": 4, "sets": 3}),
    ],
    "lookup_table": _vary(
        LookupTableParams(max_tokens=197, channels=768, in_type=_int(6), out_type=_int(6)),
        {"simd": 1, "entries": 64, "offset": 32},
        {"simd": 4, "in_type": _int(8), "out_type": _uint(8)},
        {"simd": 4, "in_type": _int(8), "entries": 64, "shift": 2},
        {"simd": 12, "in_type": _int(8), "entries": 256},
        {"simd": 4, "in_type": _int(12), "entries": 128, "offset": 100, "shift": 4},
        {"simd": 16, "in_type": _int(4), "out_type": _int(4), "entries": 16, "offset": 8},
        {"simd": 2, "in_type": _int(10), "out_type": _int(8), "entries": 512, "offset": 256},
        {"simd": 4, "in_type": _int(10), "out_type": _int(4), "entries": 64, "offset": 174,
         "shift": 3, "sets": 12},
        {"simd": 2, "in_type": _int(8), "out_type": _uint(8), "sets": 12},
    ),
    "nm_matmul": [
        NmMatmulParams(max_tokens=17),
        *_vary(
            _PRODUCT_48,
            {"weight_ram": 0, "simd": 12, "pe": 4},
            {"weight_ram": 0, "tp": 2},
            {},
            {"mult_dsp": 1},
            {"tp": 2},
            {"tp": 2, "pack": 2, "mult_dsp": 1},
            {"tp": 3, "pack": 3, "mult_dsp": 1},
            {"tp": 4, "pack": 2, "mult_dsp": 1},
            {"entries": 64, "mid_type": _int(6), "table_offset": 32},
            {"n": 1, "m": 16, "simd": 48, "in_type": _int(8)},
            {"n": 1, "m": 1, "groups": 3, "simd": 4},
            {"in_channels": 192, "simd": 4, "pe": 1},
            {"weight_ram": 0, "tp": 2, "sets": 3},
            {"entries": 64, "mid_type": _int(6), "table_offset": 32, "sets": 12},
        ),
        *_vary(
            _PRODUCT_192,
            {},
            {"simd": 32, "tp": 2, "pack": 2, "mult_dsp": 1},
            {"n": 2, "m": 8, "simd": 8, "in_type": _uint(8), "weight_type": _int(8),
             "bias_type": _int(16), "acc_type": _int(20), "shift": 8, "mid_type": _int(10),
             "out_type": _int(8), "entries": 256, "table_offset": 512, "table_shift": 2,
             "mult_dsp": 1},
        ),
        *_vary(
            _PRODUCT_3,
            {},
            {"simd": 8, "pe": 8, "tp": 4},
            {"simd": 8, "pe": 8, "tp": 4, "pump": 2},
            {"simd": 24, "tp": 3, "pack": 3, "pump": 2},
            {"in_channels": 768, "simd": 64, "tp": 4, "mult_dsp": 0, "pack": 1, "pack_out": 1,
             "acc_type": _int(16)},
            {"simd": 32, "out_channels": 576, "tp": 4},
            {"out_channels": 768, "tp": 6, "entries": 8, "mid_type": _int(3), "table_offset": 4},
            {"in_channels": 768, "simd": 8, "tp": 4, "acc_type": _int(16)},
            {"n": 4, "m": 16, "simd": 32, "tp": 3, "pack": 3, "pack_out": 1},
            {"n": 2, "m": 4, "tp": 3, "pack": 3, "pack_out": 1},
            {"n": 4, "m": 16, "simd": 16, "tp": 4, "pack": 4, "pack_out": 1, "pump": 2},
            {"n": 2, "m": 4, "simd": 16, "tp": 3, "pack": 3, "pack_out": 1, "pump": 2},
        ),
    ],
    "pos_embed": [
        *_vary(PosEmbedParams(max_tokens=16, channels=48), {"simd": 1}, {"simd": 4}, {"simd": 16}),
        *_vary(
            PosEmbedParams(max_tokens=196, channels=192),
            {"simd": 1},
            {"simd": 4},
            {"simd": 16},
            {"simd": 4, "in_type": _int(14), "pos_type": _int(8), "out_type": _int(14)},
            {"simd": 4, "in_type": _int(22), "pos_type": _int(19), "out_type": _int(14),
             "shift": 8, "half_up": 1},
        ),
    ],
    "residual_add": _vary(
        ResidualAddParams(max_tokens=197, channels=192),
        {"simd": 1},
        {"simd": 8},
        {"simd": 8, "a_shift": 1, "shift": 2},
        {"simd": 4, "a_type": _int(16), "b_type": _int(16), "out_type": _int(16)},
        {"simd": 4, "a_type": _int(14), "b_type": _int(8), "b_shift": 2, "out_type": _int(14)},
        {"simd": 4, "a_type": _int(14), "b_type": _int(14), "out_type": _int(8), "shift": 5},
        {"simd": 16, "half_up": 1, "shift": 1},
        {"simd": 4, "a_type": _int(14), "b_type": _int(16), "out_type": _int(14), "half_up": 1,
         "a_mult": 986673, "a_mult_shift": 20},
        {"simd": 4, "a_type": _int(14), "b_type": _int(16), "out_type": _int(14), "half_up": 1,
         "a_mult": 986673, "a_mult_shift": 20, "mult_dsp": 1},
        {"simd": 4, "a_type": _int(14), "b_type": _int(16), "out_type": _int(14), "half_up": 1,
         "a_mult": 986673, "a_mult_shift": 20, "sets": 12},
        {"simd": 4, "a_type": _int(14), "b_type": _int(16), "out_type": _int(14), "half_up": 1,
         "a_mult": 986673, "a_mult_shift": 20, "mult_dsp": 1, "sets": 12},
    ),
    "token_mean": [
        *_vary(
            TokenMeanParams(max_tokens=17, channels=24, groups=3, in_type=_int(8)),
            {"simd": 1},
            {"simd": 2},
            {"simd": 4},
            {"simd": 8},
            {"simd": 4, "mult_dsp": 1},
        ),
        *_vary(
            TokenMeanParams(max_tokens=197, channels=96, groups=3, in_type=_int(8)),
            {"simd": 1},
            {"simd": 4},
            {"simd": 16},
            {"simd": 4, "mult_dsp": 1},
            {"simd": 4, "in_type": _int(6)},
        ),
    ],
    "token_select": [
        *_vary(
            TokenSelectParams(max_tokens=17, channels=48),
            {"simd": 1},
            {"simd": 4},
            {"simd": 4, "mult_dsp": 1},
            {"simd": 4, "mult_dsp": 1, "topk": 8, "search": 2},
            {"simd": 1, "topk": 8, "score_type": _int(12), "offset": 2048, "shift": 5},
        ),
        *_vary(
            TokenSelectParams(max_tokens=197, channels=192),
            {"simd": 1},
            {"simd": 4},
            {"simd": 4, "mult_dsp": 1},
            {"simd": 8, "mult_dsp": 1, "x_type": _int(16)},
            {"simd": 1, "mult_dsp": 1, "topk": 98, "frame_ram": 1},
            {"simd": 4, "mult_dsp": 1, "topk": 98, "search": 4, "frame_ram": 1},
        ),
    ],
}  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A core, its parameters and what open synthesis says about it."""

    stem: str
    params: CoreParams
    measured: Synthesis

    @property
    def predicted(self) -> Resources:
        return self.params.resources()

    @property
    def lut_error(self) -> float:
        """Relative error of the predicted LUTs."""
        return self.predicted.lut / self.measured.resources.lut - 1

    def agrees(self) -> bool:
        """LUTs within the promised share, DSP and RAM blocks exact."""
        a, b = self.predicted, self.measured.resources
        lut = abs(a.lut - b.lut) <= LUT_SHARE * b.lut + LUT_SLACK
        return lut and (a.dsp, a.bram36, a.uram) == (b.dsp, b.bram36, b.uram)


def describe(params: CoreParams) -> str:
    """The parameters that differ from the core's defaults."""
    plain = type(params)()
    text = [
        f"{f.name.removesuffix('_type')} {value}"
        for f in fields(params)
        if (value := getattr(params, f.name)) != getattr(plain, f.name)
    ]
    return ", ".join(text)


def constants_of(stem: str, params: CoreParams) -> Constants:
    """Random contents of the core's ROMs."""
    return load_core(stem).stimuli(torch.Generator().manual_seed(SEED), params, 2)[0]


def _key(stem: str, params: CoreParams) -> str:
    """Changes with everything that decides the result."""
    own = [RTL / "synth.py", RTL / "netlist.py", *sorted((RTL / "xilinx").glob("*.sv"))]
    parts = [bare(p) for p in (*rtl_sources(stem), *own)]
    predicted = params.resources()  # yosys is told whether it may use these blocks
    parts += [repr(sorted(params.flat().items()))]
    parts += [repr((stem, SEED, bool(predicted.dsp), bool(predicted.uram)))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


class Store:
    """Results of synthesis by core and parameters, in one file; those of other sources or points do
    not count. Threads may share it."""

    def __init__(self, path: Path = STORE) -> None:
        self.path, self.lock = path, Lock()
        kept = json.loads(path.read_text()) if path.is_file() else {}
        names = {_name(stem, params) for stem, params in every_point()}
        self.rows: dict[str, dict[str, Any]] = {k: v for k, v in kept.items() if k in names}

    def known(self, stem: str, params: CoreParams) -> Synthesis | None:
        """The result of a point, None if there is none for today's sources."""
        row = self.rows.get(_name(stem, params), {})
        if row.get("key") != _key(stem, params):
            return None
        paths = ({**row[name], "via": tuple(row[name]["via"])} for name in ("slowest", "deepest"))
        timing = Timing(*(TimedPath(**path) for path in paths))
        return Synthesis(Resources(**row["resources"]), timing)

    def measure(self, stem: str, params: CoreParams) -> Synthesis:
        """The result of a point; it is synthesised and written if there is none."""
        found = self.known(stem, params)
        if found is not None:
            return found
        key = _key(stem, params)
        result = synthesise(stem, params, constants_of(stem, params))
        with self.lock:
            self.rows[_name(stem, params)] = {
                "key": key,
                "resources": asdict(result.resources),
                "slowest": asdict(result.timing.slowest),
                "deepest": asdict(result.timing.deepest),
            }
            write_atomic(self.path, json.dumps(self.rows, indent=1, sort_keys=True) + "\n")
        return result

    def points(self) -> list[Point]:
        """What is known, in the order of the grid."""
        found = [(stem, params, self.known(stem, params)) for stem, params in every_point()]
        return [Point(stem, params, result) for stem, params, result in found if result]


def every_point() -> list[tuple[str, CoreParams]]:
    """Core and parameters of all points."""
    return [(stem, params) for stem, points in GRID.items() for params in points]


def _name(stem: str, params: CoreParams) -> str:
    return f"{stem}: {describe(params)}"


def _error(predicted: float, measured: float) -> str:
    return f"{100 * (predicted / measured - 1):+.0f} %" if measured else "-"


def table(points: Iterable[Point]) -> Iterator[str]:
    """Markdown lines; measured values first, then the model's."""
    yield (
        "| core | parameters | LUT | model | error | FF | model | error | DSP | BRAM36 | URAM |"
        " LUT levels | slowest path: levels, carry, ns |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for p in points:
        a, b, t = p.measured.resources, p.predicted, p.measured.timing
        cells = [p.stem, describe(p.params)]
        cells += [f"{a.lut:.0f}", f"{b.lut:.0f}", _error(b.lut, a.lut)]
        cells += [f"{a.ff:.0f}", f"{b.ff:.0f}", _error(b.ff, a.ff)]
        cells += [f"{x:g} / {y:g}" for x, y in ((a.dsp, b.dsp), (a.bram36, b.bram36))]
        cells += [f"{a.uram:g} / {b.uram:g}", str(t.levels)]
        cells += [f"{t.slowest.levels}, {t.slowest.carry}, {t.slowest.ns:.1f}"]
        yield "| " + " | ".join(cells) + " |"


def summary(points: list[Point]) -> Iterator[str]:
    """Markdown lines: worst LUT error, block counts and depth of every core."""
    yield "| core | points | worst LUT error | DSP, RAM exact | LUT levels | slowest path, ns |"
    yield "|---|--:|--:|---|--:|--:|"
    for stem in sorted({p.stem for p in points}):
        mine = [p for p in points if p.stem == stem]
        worst = max((p.lut_error for p in mine), key=abs)
        exact = sum(
            (p.predicted.dsp, p.predicted.bram36, p.predicted.uram)
            == (p.measured.resources.dsp, p.measured.resources.bram36, p.measured.resources.uram)
            for p in mine
        )
        yield (
            f"| {stem} | {len(mine)} | {100 * worst:+.0f} % | {exact} of {len(mine)} | "
            f"{max(p.measured.timing.levels for p in mine)} | "
            f"{max(p.measured.timing.ns for p in mine):.1f} |"
        )


def write_page(points: list[Point]) -> None:
    """Replace the tables of the page."""
    lines = [*summary(points), "", *table(points)]
    missing = len(every_point()) - len(points)
    if missing:
        note = f"{missing} points of the grid are not synthesised with today's sources."
        lines[:0] = [note, ""]
    replace_section(PAGE, "grid", "\n" + "\n".join(lines) + "\n")


def run(store: Store, stems: list[str], jobs: int = 1) -> list[Point]:
    """Every point of the cores, in the order of the grid, with progress on standard error."""
    todo = [(stem, params) for stem, params in every_point() if stem in stems]
    began, missing = time.monotonic(), sum(store.known(*item) is None for item in todo)
    print(f"{len(todo)} points, {missing} to synthesise", file=sys.stderr)

    def one(item: tuple[str, CoreParams]) -> Point:
        fresh = store.known(*item) is None
        point = Point(*item, store.measure(*item))
        if fresh:
            seconds = time.monotonic() - began
            print(f"{seconds:6.0f} s  {_name(*item)}", file=sys.stderr, flush=True)
        return point

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, todo))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="sievit.rtl.grid", description=__doc__)
    parser.add_argument("cores", nargs="*", metavar="core", help="default: all")
    parser.add_argument("--jobs", type=int, default=1, help="yosys processes at a time")
    options = parser.parse_args(arguments)
    unknown = set(options.cores) - GRID.keys()
    if unknown:
        parser.error(f"no core {', '.join(sorted(unknown))}; known: {', '.join(GRID)}")
    store = Store()
    points = run(store, options.cores or list(GRID), options.jobs)
    print("\n".join([*table(points), "", *summary(points)]))
    for point in points:
        print(f"{point.stem}: {describe(point.params)}\n    {point.measured.timing.slowest}")
    wrong = [p for p in points if not p.agrees()]
    for p in wrong:
        print(f"the model is off: {p.stem}: {describe(p.params)}", file=sys.stderr)
    write_page(store.points())
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
