# SPDX-License-Identifier: Apache-2.0
"""Rates of the cores, measured in Verilator: steady state, no stalls, sizes of DeiT-Tiny.

``python -m sievit.sim.throughput`` simulates every row, compares its values with the golden
function, prints the tables and writes them into ``docs/throughput.md``. A wrong value, a rate below
the promised one or a miss of a bound ends the command with an error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from sievit.quant.cores.attention import AttentionParams
from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.cores.token_select import TokenSelectParams
from sievit.quant.files import replace_section
from sievit.quant.params import Constants, CoreParams, Stream, load_core
from sievit.sim.harness import build_folder, compare
from sievit.sim.runner import run_core

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "throughput.md"
SEED = 1
TOKENS, CHANNELS, HEADS = 197, 192, 3
#: cycles over the multiplications per multiplier that a large frame may take
SLACK = 1.03
#: cycles over tokens x beats that a frame of token_select may take
SELECT_CONSTANT = 64

# The first and the last have the same length, so that both end in the same way.
#: frames as a token selector leaves them; each has its keys while the one before is computed
SELECTED = (197, 140, 119, 168, 101, 131, 111, 197)
#: neighbours as different as can be
EXTREME = (197, 1, 197, 1, 64, 1, 2, 197)

Row = tuple[str, ...]


@dataclass(frozen=True)
class Measured:
    """Cycles of one simulation, from 0 = end of reset.

    Attributes:
        period: between the last beats of the last two frames.
        total: between the last beats of the first and the last frame.
        first: from the first beat in to the first beat out, of the first frame.
        last: from the first beat in to the last beat out, of the first frame.
    """

    period: int
    total: int
    first: int
    last: int


def measure(params: CoreParams, constants: Constants, inputs: list[Stream]) -> Measured:
    """Simulate frames back to back without stalls. Raises AssertionError for a wrong value."""
    stem = params.stem()
    golden = load_core(stem).golden(params, constants, *inputs)
    result = run_core(stem, params, constants, inputs, build_folder(stem, params), "none", SEED)
    compare(f"{stem}, {params.to_dict()}", golden, result.output)
    start, ends = result.in_first[0], result.out_last
    return Measured(
        ends[-1] - ends[-2], ends[-1] - ends[0], result.out_first[0] - start, ends[0] - start
    )


def equal_frames(params: CoreParams, tokens: int, frames: int = 3) -> Measured:
    """Steady state: random frames of equal length.

    A core that answers before the frame has ended, first_token, gets a last frame of one token: the
    frames before it must have passed when that one's answer comes.
    """
    early = (1,) if params.out_tokens(tokens) < tokens else ()
    return measure(params, *stimuli(params, (tokens,) * frames + early))


def stimuli(params: CoreParams, lengths: Sequence[int]) -> tuple[Constants, list[Stream]]:
    """The core's own random stimuli with frames of the given lengths; no package tokens."""
    rng = torch.Generator().manual_seed(SEED)
    constants, found = load_core(params.stem()).stimuli(rng, params, len(lengths))
    return constants, [cut(s.data, torch.tensor(lengths)) for s in found]


def cut(data: Tensor, length: Tensor) -> Stream:
    """Frames of other lengths; tokens that the data lack (zeros) are those of frame 0, which has
    all."""
    full = torch.where(data.any(-1, keepdim=True), data, data[:1])[:, : int(length.max())]
    return Stream(full, length, torch.zeros(len(data), dtype=torch.bool)).with_data(full)


def table(head: Sequence[str], rows: Sequence[Row]) -> str:
    """Markdown; columns with numbers alone are right-aligned."""
    width = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    numbers = [
        all(c.lstrip("+-").replace(",", "").replace(".", "").isdigit() for c in column)
        for column in zip(*rows, strict=True)
    ]

    def line(cells: Sequence[str]) -> str:
        pairs = zip(cells, width, numbers, strict=True)
        return "| " + " | ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in pairs) + " |"

    rule = ["-" * (w - 1) + (":" if n else "-") for w, n in zip(width, numbers, strict=True)]
    return "\n".join([line(head), line(rule), *(line(row) for row in rows)])


def demand(holds: bool, text: str) -> None:
    """Raise AssertionError with the text if a bound is missed."""
    if not holds:
        raise AssertionError(text)


# -- the cores -----------------------------------------------------------------------------------


def nm_matmul_params(n: int, m: int, tp: int, pack: int = 1) -> NmMatmulParams:
    """A projection of a block with 256 products per cycle, ``pack`` of them per DSP block.

    ``pe`` is wide enough for the beats of ``tp`` tokens to leave while the next are computed.
    """
    terms = 8 if tp == 4 else 16
    return NmMatmulParams(
        in_channels=CHANNELS, out_channels=CHANNELS, n=n, m=m, simd=terms * m // n,
        pe=256 // terms // tp, tp=tp, pack=pack, mult_dsp=1, max_tokens=TOKENS,
    )  # fmt: skip


def nm_matmul() -> str:
    """Patterns x token parallelism, all on the same number of multipliers."""
    rows: list[Row] = []
    dense: dict[int, int] = {}
    patterns = ((1, 1), (1, 2), (2, 4), (1, 4), (2, 8), (4, 16))
    grid = [(n, m, tp, 1) for n, m in patterns for tp in (1, 2, 4)]
    for n, m, tp, pack in [*grid, (2, 4, 2, 2), (4, 16, 4, 2)]:
        p = nm_matmul_params(n, m, tp, pack)
        products = p.tp * p.multipliers
        found = equal_frames(p, TOKENS)
        ideal = TOKENS * (CHANNELS * n / m) * CHANNELS / products
        dense.setdefault(tp, found.period)
        gain, want = dense[tp] / found.period, m / n
        name = "dense" if m == 1 else f"{n}:{m}"
        ratio = found.period / ideal
        demand(ratio <= SLACK, f"nm_matmul {name}, tp {tp}: {ratio:.3f} times the ideal")
        demand(gain >= want / SLACK, f"nm_matmul {name}, tp {tp}: {gain:.2f} times dense")
        rows.append((
            name, f"{p.simd}", f"{p.pe}", f"{tp}", f"{products}", f"{products // pack}",
            f"{found.period:,}", f"{ideal:,.0f}", f"{ratio:.3f}", f"{gain:.2f}",
            f"{found.first:,}", f"{found.last:,}",
        ))  # fmt: skip
    head = ("weights", "simd", "pe", "tp", "products", "multipliers", "cycles", "ideal", "ratio",
            "times dense", "first out", "last out")  # fmt: skip
    return table(head, rows)


def attention_params(n: int, m: int, tp: int, simd: int, heads_par: int) -> AttentionParams:
    return AttentionParams(
        channels=CHANNELS, heads=HEADS, n=n, m=m, simd=simd, heads_par=heads_par, tp=tp,
        mult_dsp=1, max_tokens=TOKENS,
    )  # fmt: skip


def attention() -> str:
    """Patterns, foldings, token counts."""
    rows: list[Row] = []
    for n, m, tp, simd, heads_par, lengths in (
        (16, 16, 1, 8, 3, (TOKENS,)),
        (4, 16, 1, 8, 3, (TOKENS,)),
        (2, 16, 1, 8, 3, (17, 64, TOKENS)),
        (4, 4, 1, 16, 3, (TOKENS,)),
        (2, 4, 1, 16, 3, (17, 64, TOKENS)),
        (2, 4, 4, 8, 3, (64, TOKENS)),
        (2, 4, 1, 32, 1, (17, 64)),
    ):
        p = attention_params(n, m, tp, simd, heads_par)
        rows_at_once = tp * heads_par
        for tokens in lengths:
            found = equal_frames(p, tokens)
            groups = -(-tokens // m)
            products = -(-tokens // tp) * (HEADS // heads_par) * groups
            larger = products * (CHANNELS // HEADS // simd)  # both have that many steps
            ideal = tokens * tokens * CHANNELS / (rows_at_once * m * simd)
            what = f"attention {n}:{m}, {tokens} tokens"
            demand(found.period <= p.cycles(tokens), f"{what}: {found.period} cycles")
            if tokens == TOKENS:
                demand(
                    found.period <= SLACK * larger,
                    f"{what}: {found.period} cycles, its products take {larger}",
                )
            rows.append((
                "dense" if n == m else f"{n}:{m}", f"{m}", f"{simd}", f"{heads_par}", f"{tp}",
                f"{tokens}", f"{rows_at_once * m * simd:,}", f"{rows_at_once * n * simd:,}",
                f"{found.period:,}", f"{larger:,}", f"{found.period / larger:.3f}",
                f"{found.period / ideal:.3f}", f"{found.first:,}", f"{found.last:,}",
            ))  # fmt: skip
    head = ("rows", "m", "simd", "heads_par", "tp", "tokens", "multipliers QK", "PV", "cycles",
            "larger product", "ratio", "to ideal", "first out", "last out")  # fmt: skip
    return table(head, rows)


def select_params(topk: int, simd: int = 8) -> TokenSelectParams:
    return TokenSelectParams(channels=CHANNELS, simd=simd, topk=topk, mult_dsp=1, max_tokens=TOKENS)


def select_inputs(
    p: TokenSelectParams, lengths: Sequence[int], kept: Callable[[Tensor], Tensor]
) -> tuple[Constants, list[Stream]]:
    """Stimuli whose score is negative where ``kept`` (bool of int64 token numbers) is false."""
    constants, (x, score) = stimuli(p, lengths)
    size = score.data.abs().clamp(max=p.score_type.max)
    sign = torch.where(kept(torch.arange(size.shape[1]))[None, :, None], size, -size - 1)
    return constants, [x, score.with_data(sign.clamp(min=p.score_type.min))]


def token_select() -> str:
    """What is kept, and whether a package token leaves."""
    rows: list[Row] = []
    for what, topk, simd, kept in (
        ("sign of the score: the class token alone", 0, 8, lambda t: t < 0),
        ("one token more", 0, 8, lambda t: t == 100),
        ("every second token", 0, 8, lambda t: t % 2 == 0),
        ("all tokens, no package token", 0, 8, lambda t: t >= 0),
        ("every second token", 0, 48, lambda t: t % 2 == 0),
        ("largest 98 scores", 98, 8, lambda t: t % 2 == 0),
        ("the largest score", 1, 8, lambda t: t % 2 == 0),
        ("largest 196 scores: all tokens", 196, 8, lambda t: t % 2 == 0),
    ):
        p = select_params(topk, simd)
        found = measure(p, *select_inputs(p, (TOKENS,) * 3, kept))
        least = TOKENS * p.beats
        demand(
            found.period - least < SELECT_CONSTANT,
            f"token_select, {what}: {found.period} cycles, {least} beats",
        )
        rows.append((
            what, f"{topk}", f"{simd}", f"{found.period:,}", f"{least:,}",
            f"{found.period - least:+d}", f"{found.first:,}", f"{found.last:,}",
        ))  # fmt: skip
    head = ("kept", "topk", "simd", "cycles", "tokens x beats", "more", "first out", "last out")
    return table(head, rows)


def other_params() -> Iterator[CoreParams]:
    """The other cores, as one block of DeiT-Tiny asks for them."""
    mean = round(65536 / CHANNELS)
    for core, values in (
        ("layernorm", {"channels": CHANNELS, "simd": 8, "mean_mult": mean}),
        ("layernorm", {"channels": CHANNELS, "simd": 24, "mean_mult": mean}),
        ("lookup_table", {"channels": 4 * CHANNELS, "simd": 16}),
        ("residual_add", {"channels": CHANNELS, "simd": 8}),
        ("pos_embed", {"channels": CHANNELS, "simd": 8}),
        ("token_mean", {"channels": CHANNELS, "groups": HEADS, "simd": 8}),
        ("gated_sum", {"channels": HEADS, "simd": 1}),
        ("first_token", {"channels": CHANNELS, "simd": 8}),
    ):
        tokens = TOKENS - 1 if core == "pos_embed" else TOKENS
        kind = load_core(core).params
        dsp = {"mult_dsp": 1} if any(f.name == "mult_dsp" for f in fields(kind)) else {}
        yield kind(max_tokens=tokens, **values, **dsp)


def others() -> str:
    """One or two rows each."""
    rows: list[Row] = []
    for p in other_params():
        found = equal_frames(p, p.max_tokens)
        beats = max(
            p.max_tokens * p.inputs()[0].beats, p.out_tokens(p.max_tokens) * p.output().beats
        )
        promised = p.cycles(p.max_tokens)
        demand(found.period <= promised, f"{p.stem()}: {found.period} cycles, not {promised}")
        rows.append((
            p.stem(), f"{p.inputs()[0].channels}", f"{p.inputs()[0].lanes}", f"{found.period:,}",
            f"{beats:,}", f"{found.period - beats:+d}", f"{found.first:,}", f"{found.last:,}",
        ))  # fmt: skip
    head = ("core", "channels", "simd", "cycles", "beats", "more", "first out", "last out")
    return table(head, rows)


def lengths() -> str:
    """Frames of different lengths back to back."""
    rows: list[Row] = []
    for p in (
        nm_matmul_params(2, 4, 1), nm_matmul_params(2, 4, 4), attention_params(2, 4, 1, 16, 3),
        attention_params(2, 4, 4, 8, 3), select_params(0), select_params(98),
    ):  # fmt: skip
        for name, sizes in (("selected", SELECTED), ("extreme", EXTREME)):
            if isinstance(p, TokenSelectParams):
                inputs = select_inputs(p, sizes, lambda t: t % 2 == 0)
            else:
                inputs = stimuli(p, sizes)
            found = measure(p, *inputs)
            single = sum(p.cycles(t) for t in sizes[1:])
            dead = (found.total - single) / (len(sizes) - 1)
            what = p.stem() + (f", tp {p.tp}" if hasattr(p, "tp") else f", topk {p.topk}")
            rows.append((what, name, f"{found.total:,}", f"{single:,}", f"{dead:+.1f}"))
    return table(("core", "lengths", "cycles", "sum of the frames", "dead per frame"), rows)


SECTIONS: dict[str, Callable[[], str]] = {
    "nm_matmul": nm_matmul,
    "attention": attention,
    "token_select": token_select,
    "others": others,
    "lengths": lengths,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if a row fails."""
    parser = argparse.ArgumentParser(prog="python -m sievit.sim.throughput", description=__doc__)
    parser.add_argument("--only", choices=sorted(SECTIONS), action="append", help="these tables")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name, measured in SECTIONS.items():
        if options.only and name not in options.only:
            continue
        start = time.monotonic()
        try:
            text = measured()
        except AssertionError as error:
            print(f"FAILED {name}: {error}", file=sys.stderr)
            return 1
        print(f"{name} ({time.monotonic() - start:.0f} s)\n\n{text}\n", flush=True)
        replace_section(DOCUMENT, name, f"\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
