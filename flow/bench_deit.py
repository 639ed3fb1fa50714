# SPDX-License-Identifier: Apache-2.0
"""Pruned variants of DeiT-Tiny on one board, side by side: folded, simulated, tabulated, drawn.

``sievit bench-deit FILE`` writes one record per variant, ``build/BOARD/MODEL/bench.json``, takes up
an interrupted run where it stopped, and writes ``docs/deit.md`` and ``docs/deit.svg`` from the
records. A design that does not fit the board is a row that says what does not fit.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from rich.console import Console

from sievit.boards.board import Board
from sievit.flow.imported import ImportedBuild
from sievit.models import hgpipe, variants
from sievit.models.imported import Imported
from sievit.quant import fold
from sievit.quant.cores.attention import AttentionParams
from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.cores.token_select import TokenSelectParams
from sievit.quant.files import replace_section, write_atomic
from sievit.quant.graph import Graph, Node
from sievit.quant.params import CoreParams, Resources
from sievit.quant.roll import roll, rolled_lengths
from sievit.quant.sources import folders_digest
from sievit.rtl import synth
from sievit.sim.throughput import equal_frames, table

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "deit.md"
#: initiation interval that is aimed at, in cycles
AIM = 30_000
#: cycles may miss the proportion that the pruning promises by this share
SLACK = 0.10
#: LUTs that a DSP block counts for in the picture
DSP_LUTS = 100
#: distance of two labels in the picture, as a factor of images per second
LABELS = 1.32

#: what the designs and their figures come from
SOURCES = (
    *(f"models/{name}.py" for name in ("hgpipe", "imported", "pruning", "selector", "variants")),
    "quant", "hls", "rtl", "sim",
)  # fmt: skip

Record = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A published design; ``lut`` 0: not published, the picture shows a lower bound."""

    name: str
    board: str
    precision: str
    fps: float
    lut: int
    dsp: int
    note: str
    source: str


PUBLISHED = (
    Point("HG-PIPE", "VCK190", "3 bit", 7118, 669_000, 312, "II 57,624 cycles, 425 MHz",
          "arXiv 2407.17879 and its repository"),
    Point("HG-PIPE", "ZCU102", "4 bit", 1579, 212_700, 78, "clock and resources not confirmed",
          "arXiv 2407.17879"),
    Point("HeatViT", "ZCU102", "8 bit, tokens pruned", 271.2, 0, 1968,
          "images/s and DSP blocks not confirmed", "HPCA'23, arXiv 2211.08110"),
    Point("integer-only systolic", "ZCU102", "8 bit, dense", 245.3, 0, 1268,
          "DSP blocks: 616.1 GOPS / 0.486 GOPS per block",
          "TCAS-I'23, doi 10.1109/TCSI.2023.3312775"),
    Point("HeatViT, open RTL", "xc7k325t", "8 bit, tokens pruned", 0.468, 85_959, 65,
          "213.76 M cycles, 100 MHz", "github.com/YOUXINYANG/HeatViT"),
)  # fmt: skip


# -- one variant ---------------------------------------------------------------------------------
def run(
    file: Path, board: Board, only: Sequence[str], simulate: bool, cores: bool, largest: int,
    frames: int, folder: Path, console: Console, document: Path = DOCUMENT,
) -> dict[str, Record]:  # fmt: skip
    """Record every variant in ``only`` (empty: all), then write the document of all records.

    Args:
        file: the .npz of HG-PIPE.
        simulate: build the design, all its comparisons, and measure it in Verilator.
        cores: simulate cores of the first block of every stage alone, too.
        largest: as many cores, those of the most LUTs, go through open synthesis, too.
        frames: images that are compared, in the RTL simulation back to back, without stalls.
        folder: of all builds.

    Raises FormatError, VariantError, BuildError.
    """
    model = hgpipe.load(file)
    sources = folders_digest(*SOURCES, suffixes=(".py", ".sv", ".svh", ".hpp"))
    common = [hashlib.sha256(file.read_bytes()).hexdigest(), sources, astuple(board)]
    key = hashlib.sha256(json.dumps(common).encode()).hexdigest()
    records = {}
    for name in variants.VARIANTS:
        title = variants.title(model, name)
        target = folder / board.name / title
        kept = target / "bench.json"
        record = _load(kept, key)
        missing = not record or (simulate and not record["refused"] and not record["measured"])
        if not only or name in only:
            if missing:
                console.rule(title)
                source = folder / "imported" / title
                made = variants.make(model, name)
                made.save(source)
                record = _record(made, source, target, board, simulate, frames, console)
                _save(kept, key, record)
            if cores and "alone" not in record:
                record["alone"] = _alone(target / "design", record, console)
                _save(kept, key, record)
            for core in _largest(record, largest):
                made_of = record.setdefault("synthesis", {})
                if core not in made_of:
                    made_of[core] = _synthesised(target / "design", core, console)
                    _save(kept, key, record)
        if record:
            records[name] = record
            console.print(f"{title:<24} {_line(record)}")
    write_document(records, board, document)
    console.print(f"{document}")
    return records


def _load(path: Path, key: str) -> Record:
    """An earlier record of the same file, sources and board; empty if there is none."""
    record = json.loads(path.read_text()) if path.is_file() else {}
    return record if record.pop("key", "") == key else {}


def _save(path: Path, key: str, record: Record) -> None:
    write_atomic(path, json.dumps({"key": key, **record}, indent=1))


def _record(
    made: Imported, source: Path, target: Path, board: Board, simulate: bool, frames: int,
    console: Console,
) -> Record:  # fmt: skip
    """Fold, and if it fits and ``simulate`` build, a variant; the unfolded graph is in ``made``."""
    build = ImportedBuild(
        name=made.graph.name, source=source, board=board, folder=target, console=console,
        rtl_images=frames, random_images=frames - 1, stalls=("none",),
    )  # fmt: skip
    build.front()
    plain, lengths, refused = build.graph, build.lengths, ""
    measured: Record = {}
    try:
        build.fold()
    except fold.BudgetError as error:
        refused = str(error)
        console.print(f"does not fit: {refused}")
    fits = not refused
    if fits and simulate:
        build.generate()
        build.run_hls()
        build.run_rtl()
        build.finish()
        measured = {"ii": round(build.ii, 1), "latency": build.latency}
        measured["frame_ends"] = build.rtl.out_last
        measured["cores"] = {c["name"]: c["cycles_measured"] for c in build.details().cores}
    out: Record = {"name": made.graph.name, "refused": refused, "measured": measured}
    if fits:
        out["design"] = describe(build.graph, build.lengths)
    if not fits or out["design"]["ii"] > AIM:
        with build.step("fold for aim") as note:
            wide, own = aimed(plain, board, lengths)
            out["aim"] = describe(wide, own)
            note["text"] = _resources(out["aim"]["resources"])
    design = build.graph if fits else wide
    design.save(target / "design")
    out["proportion"] = proportion(design, build.lengths if fits else own)
    return out


def aimed(
    graph: Graph, board: Board, lengths: fold.Lengths
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """The design that reaches the aim and goes least beyond the board's budget, with layers that
    share cores; lengths of frames on its edges."""
    rolled = roll(graph)
    own = rolled_lengths(rolled, lengths)
    design = fold.fold(rolled, board.budget(), own, float(AIM), board.device(), within=False)
    return design, own


def describe(graph: Graph, lengths: fold.Lengths) -> Record:
    """Figures of a folded design: predicted cycles, resources, what every core takes."""
    ii, slowest = fold.interval(graph, lengths)
    tokens = {k: int(v[0]) for k, v in lengths.items()}
    cores = []
    for node in graph.nodes:
        p, passes = node.params, _passes(graph, lengths, node)
        cores.append({
            "name": node.name, "core": node.core, "tokens": passes, "layers": len(passes),
            "cycles": sum(p.cycles(t) for t in passes), "products": products(p),
            "macs": sum(p.macs(t) for t in passes) if products(p) else 0,
            "folding": " ".join(f"{k}={v}" for k, v in fold.describe(p).items()),
            **{k: round(v, 1) for k, v in asdict(p.resources()).items()},
        })  # fmt: skip
    return {
        "ii": round(ii), "slowest": slowest, "latency": round(fold.latency(graph, tokens)),
        "resources": {k: round(v, 1) for k, v in asdict(fold.total(graph)).items()},
        "plumbing": {k: round(v, 1) for k, v in asdict(fold.plumbing(graph)).items()},
        "products": sum(c["products"] for c in cores), "macs": sum(c["macs"] for c in cores),
        "cores": cores,
    }  # fmt: skip


def _passes(graph: Graph, lengths: fold.Lengths, node: Node) -> list[int]:
    """Tokens of the first image in every pass of a node."""
    first = fold.frame_lengths(graph, lengths, node.inputs[0])[0]
    return [int(t) for t in first]


def products(p: CoreParams) -> int:
    """Multiplications per cycle of a matrix core or of attention; 0 for other cores."""
    if isinstance(p, NmMatmulParams):
        return p.tp * p.multipliers
    if isinstance(p, AttentionParams):
        return p.tp * p.heads_par * p.simd * (p.m + p.n)
    return 0


# -- proportion ----------------------------------------------------------------------------------
def proportion(graph: Graph, lengths: fold.Lengths) -> list[Record]:
    """Cycles of every core of the blocks against an un-pruned one with as many multipliers.

    Expected is N / M times the share of tokens in a matrix, the square of that share in attention,
    whose queries and keys both get fewer, and the share elsewhere.
    """
    out, stage = [], 0
    whole = graph.input_tokens + 1
    for node in graph.nodes:
        p, loop = node.params, graph.loop_around(node.name)
        stage += isinstance(p, TokenSelectParams)
        if not node.name.startswith("blocks_"):
            continue
        full: CoreParams = replace(p, max_tokens=whole)
        if isinstance(p, NmMatmulParams):
            full = replace(p, n=1, m=1, simd=p.simd * p.n // p.m, max_tokens=whole)
        passes = _passes(graph, lengths, node)
        for detours, start in enumerate(loop.starts if loop else (0,)):
            share = passes[start] / whole
            if isinstance(p, NmMatmulParams):
                expected = share * p.n / p.m
            else:
                expected = share**2 if isinstance(p, AttentionParams) else share
            out.append({
                "core": node.core, "name": node.name, "stage": stage + detours,
                "tokens": passes[start], "expected": round(expected, 4),
                "found": round(p.cycles(passes[start]) / full.cycles(whole), 4),
            })  # fmt: skip
    return out


def _alone(folder: Path, record: Record, console: Console) -> list[Record]:
    """Cycles per frame and layer of cores of the first block of every stage, each simulated
    alone."""
    graph, out, seen = Graph.load(folder), list[Record](), set[tuple[int, str]]()
    for found in record["proportion"]:
        node, part = graph.node(found["name"]), found["name"].split("_")[-1]
        if part not in ("q", "attention", "proj", "fc1", "fc2") or (found["stage"], part) in seen:
            continue
        seen.add((found["stage"], part))
        p, t = node.params, found["tokens"]
        if p.can_share():  # of one set: the cycles are those of any
            p, _ = p.one({}, 0)
        measured = equal_frames(p, t).period
        out.append({"name": node.name, "tokens": t, "measured": measured, "predicted": p.cycles(t)})
        console.print(f"{node.name}: {measured:,} cycles, predicted {out[-1]['predicted']:,}")
    return out


def _largest(record: Record, count: int) -> list[str]:
    """Names of the cores that ask for the most LUTs."""
    cores = (record["aim"] if record["refused"] else record["design"])["cores"]
    return [c["name"] for c in sorted(cores, key=lambda c: -c["lut"])[:count]]


def _synthesised(folder: Path, core: str, console: Console) -> Record:
    """What open synthesis makes of a core with its weights, beside the cost model; only the latter
    if yosys fails, which runs out of memory in the widest ones."""
    node = Graph.load(folder).node(core)
    out: Record = {"predicted": asdict(node.params.resources())}
    console.print(f"{core}: open synthesis ...")
    try:
        made = synth.synthesise(node.core, node.params, node.constants)
    except synth.SynthesisError as error:
        console.print(f"{core}: {str(error).splitlines()[0]}")
        return out
    found = asdict(made.resources)
    console.print(f"{core}: {found['lut']:,.0f} LUT, predicted {out['predicted']['lut']:,.0f}")
    return {**out, "found": found, "levels": made.timing.levels, "ns": made.timing.ns}


# -- document ------------------------------------------------------------------------------------
def write_document(records: Mapping[str, Record], board: Board, document: Path) -> None:
    """Replace the tables of the document and the picture beside it."""
    sections = {
        "results": _results(records, board),
        "published": _published(),
        "limits": _limits(records, board),
        "synthesis": _synthesis(records),
        "proportion": _proportions(records),
    }
    for name, text in sections.items():
        replace_section(document, name, f"\n{text}\n")
    write_atomic(document.with_suffix(".svg"), picture(records, board))


def _results(records: Mapping[str, Record], board: Board) -> str:
    budget, rows = asdict(board.budget()), []
    for name in variants.VARIANTS:
        record = records.get(name)
        title = f"deit_tiny_{name}"
        if not record or record["refused"]:
            rows.append((title, "not run" if not record else "does not fit", *["-"] * 10))
            continue
        d, m = record["design"], record["measured"]
        ii = m.get("ii", d["ii"])
        used = [
            f"{d['resources'][k]:,.0f} ({100 * d['resources'][k] / budget[k]:.0f} %)"
            for k in ("lut", "ff", "dsp", "bram36")
        ]
        rows.append((
            title, f"{len(m['frame_ends'])}" if m else "-", f"{d['ii']:,}",
            f"{m['ii']:,.0f}" if m else "-", f"{d['latency']:,}",
            f"{m['latency']:,}" if m else "-", f"{board.clock_mhz * 1e6 / ii:,.0f}", *used,
            f"{100 * d['macs'] / (d['products'] * ii):.0f} %",
        ))  # fmt: skip
    head = ("variant", "images", "II predicted", "II measured", "latency predicted",
            "latency measured", "img/s", "LUT", "FF", "DSP", "BRAM36",
            "multipliers busy")  # fmt: skip
    text = f"{board.title}, {board.clock_mhz:g} MHz; percent of the usable budget.\n\n"
    text += table(head, rows)
    for name, record in records.items():
        if record["refused"]:
            text += f"\n\n`deit_tiny_{name}`: {record['refused']}."
    return text


def _published() -> str:
    rows = [
        (p.name, p.board, p.precision, f"{p.fps:,g}", f"{p.lut:,}" if p.lut else "-", f"{p.dsp:,}",
         p.note, p.source)
        for p in PUBLISHED
    ]  # fmt: skip
    return table(("design", "board", "precision", "img/s", "LUT", "DSP", "note", "source"), rows)


def _limits(records: Mapping[str, Record], board: Board) -> str:
    """Per variant, resources and cycles by kind of core: of the design on the board, or of the one
    that reaches the aim."""
    parts = []
    for name, record in records.items():
        for what in ("design", "aim"):
            if what not in record:
                continue
            d = record[what]
            where = f"on {board.title}" if what == "design" else f"II {AIM:,} or less, any size"
            parts.append(
                f"#### deit_tiny_{name}, {where}\n\n"
                f"II {d['ii']:,}, set by `{d['slowest']}`.\n\n{_kinds(d, asdict(board.budget()))}"
            )
    return "\n\n".join(parts) or "No variant was run."


def _kinds(design: Record, budget: Mapping[str, float]) -> str:
    kinds: dict[str, list[Record]] = {}
    for core in design["cores"]:
        kinds.setdefault(_kind(core), []).append(core)
    names = [f.name for f in fields(Resources) if budget[f.name]]

    def cells(values: Mapping[str, float]) -> list[str]:
        return [f"{values[k]:,.0f}" for k in names]

    rows = []
    for kind, cores in sorted(kinds.items(), key=lambda k: -sum(c["lut"] for c in k[1])):
        slow = max(cores, key=lambda c: c["cycles"])
        total = {k: sum(c[k] for c in cores) for k in names}
        layers = sum(c["layers"] for c in cores)
        rows.append((kind, f"{len(cores)}", f"{layers}", f"{slow['cycles']:,}", f"{slow['name']}",
                     f"{sum(c['products'] for c in cores):,}", *cells(total)))  # fmt: skip
    rows.append(("FIFOs, forks, loops", "-", "-", "-", "-", "-", *cells(design["plumbing"])))
    layers = sum(c["layers"] for c in design["cores"])
    rows.append(("all", f"{len(design['cores'])}", f"{layers}", f"{design['ii']:,}",
                 design["slowest"], f"{design['products']:,}",
                 *cells(design["resources"])))  # fmt: skip
    rows.append(("budget", "-", "-", "-", "-", "-", *cells(budget)))
    head = (
        "cores",
        "number",
        "layers",
        "most cycles",
        "in",
        "products",
        *(n.upper() for n in names),
    )
    return table(head, rows)


def _kind(core: Mapping[str, Any]) -> str:
    """Matrices by their place in the network, other cores by their stem."""
    if core["name"].startswith("selectors_"):
        return "selector"
    if core["core"] != "nm_matmul":
        return str(core["core"])
    place = core["name"].split("_")[-1]
    return f"nm_matmul {place if core['name'].startswith('blocks_') else core['name']}"


def _synthesis(records: Mapping[str, Record]) -> str:
    rows = []
    for name, record in records.items():
        for core, r in record.get("synthesis", {}).items():
            title, model = f"deit_tiny_{name}", r["predicted"]
            if "found" not in r:
                rows.append((title, core, "yosys failed", f"{model['lut']:,.0f}", *["-"] * 6))
                continue
            found = r["found"]
            rows.append((
                title, core, f"{found['lut']:,.0f}", f"{model['lut']:,.0f}",
                f"{100 * (model['lut'] / found['lut'] - 1):+.0f} %",
                *(f"{found[k]:,g} / {model[k]:,g}" for k in ("ff", "dsp", "bram36")),
                f"{r['levels']}", f"{r['ns']:.1f}",
            ))  # fmt: skip
    head = ("variant", "core", "LUT", "model", "error", "FF / model", "DSP / model",
            "BRAM36 / model", "LUT levels", "slowest path, ns")  # fmt: skip
    return table(head, rows) if rows else "No core was synthesised."


def _proportions(records: Mapping[str, Record]) -> str:
    rows, wrong = [], []
    for name, record in records.items():
        groups: dict[tuple[int, str], list[Record]] = {}
        for core in record["proportion"]:
            groups.setdefault((core["stage"], core["core"]), []).append(core)
        for (stage, kind), cores in groups.items():
            far = max(cores, key=lambda c: abs(c["found"] / c["expected"] - 1))
            miss = far["found"] / far["expected"] - 1
            if abs(miss) > SLACK:
                wrong.append(f"`{far['name']}` of deit_tiny_{name} by {100 * miss:+.0f} %")
            if stage or kind == "nm_matmul":
                rows.append((
                    f"deit_tiny_{name}", str(stage), str(far["tokens"]), kind, str(len(cores)),
                    f"{far['expected']:.3f}", f"{far['found']:.3f}", f"{100 * miss:+.1f} %",
                    far["name"],
                ))  # fmt: skip
    head = ("variant", "selectors before", "tokens", "core", "number", "expected", "found", "miss",
            "farthest")  # fmt: skip
    text = table(head, rows) + "\n\n" if rows else ""
    text += (
        f"Beyond {100 * SLACK:.0f} %: {', '.join(wrong)}."
        if wrong
        else f"Every core is within {100 * SLACK:.0f} % of what is expected."
    )
    alone = [
        (f"deit_tiny_{name}", c["name"], f"{c['tokens']}", f"{c['predicted']:,}",
         f"{c['measured']:,}")
        for name, record in records.items()
        for c in record.get("alone", [])
    ]  # fmt: skip
    if alone:
        text += "\n\nCores alone, in Verilator, three frames back to back:\n\n"
        text += table(("variant", "core", "tokens", "cycles predicted", "measured"), alone)
    return text


def _line(record: Record) -> str:
    if record["refused"]:
        return f"does not fit; II {record['aim']['ii']:,} takes " + _resources(
            record["aim"]["resources"]
        )
    d, m = record["design"], record["measured"]
    shown = f"{m['ii']:,.0f} measured" if m else "not measured"
    return f"II {d['ii']:,} predicted, {shown}; {_resources(d['resources'])}"


def _resources(r: Mapping[str, float]) -> str:
    return f"{r['lut']:,.0f} LUT, {r['dsp']:,.0f} DSP, {r['bram36']:,.0f} BRAM36"


# -- picture -------------------------------------------------------------------------------------
def picture(records: Mapping[str, Record], board: Board) -> str:
    """Images per second against area, both logarithmic, as SVG; the same records, the same text."""
    style = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "sievit",
             "axes.spines.top": False, "axes.spines.right": False}  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(8.6, 5.2), layout="constrained")
        axis = figure.add_subplot()
        axis.set_xscale("log")
        axis.set_yscale("log")
        for kind, colour, marker, points in _points(records, board):
            above = 0.0
            for i, (name, x, y) in enumerate(sorted(points, key=lambda p: p[2])):
                face = "none" if kind.startswith(("predicted", "needed")) else colour
                label = kind if i == 0 else None
                axis.scatter(
                    x, y, 42, face, marker=marker, edgecolors=colour, label=label, zorder=3
                )
                if kind.startswith("published"):
                    axis.annotate(name, (x, y), (0, 7), textcoords="offset points", ha="center",
                                  fontsize=7.5)  # fmt: skip
                    continue
                above = max(y, LABELS * above)  # ours are close to each other
                line = {"arrowstyle": "-", "lw": 0.4, "color": colour, "shrinkA": 0, "shrinkB": 4}
                axis.annotate(name, (x, y), (1.06 * x, above), va="center", fontsize=7.5,
                              arrowprops=line)  # fmt: skip
        b = board.budget()
        axis.axvline(b.lut + DSP_LUTS * b.dsp, color="#b3261e", lw=1, ls=":")
        axis.annotate(f"budget of {board.title}", (b.lut + DSP_LUTS * b.dsp, 0.02),
                      (-4, 0), textcoords="offset points", xycoords=("data", "axes fraction"),
                      rotation=90, ha="right", fontsize=7.5, color="#b3261e")  # fmt: skip
        axis.set_xlabel(f"LUT + {DSP_LUTS} x DSP")
        axis.set_ylabel("images/s")
        axis.grid(True, which="major", color="#e4e7eb")
        axis.margins(x=0.16, y=0.08)
        axis.legend(loc="lower right", fontsize=8, frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _points(
    records: Mapping[str, Record], board: Board
) -> Iterable[tuple[str, str, str, list[tuple[str, float, float]]]]:
    """(what, colour, marker, (name, area, images per second)) of every group that has points."""
    clock = board.clock_mhz * 1e6

    def area(r: Mapping[str, float]) -> float:
        return r["lut"] + DSP_LUTS * r["dsp"]

    groups: dict[str, list[tuple[str, float, float]]] = {}
    for name, record in records.items():
        if record["refused"]:
            d, what, ii = record["aim"], f"needed for II {AIM:,}: does not fit", record["aim"]["ii"]
        else:
            d, m = record["design"], record["measured"]
            what, ii = ("measured", m["ii"]) if m else ("predicted", d["ii"])
        groups.setdefault(what, []).append((name, area(d["resources"]), clock / ii))
    groups["published"] = [
        (f"{p.name} {p.board}", area(asdict(p)), p.fps) for p in PUBLISHED if p.lut
    ]
    groups["published, LUTs unknown: at least"] = [
        (f"{p.name} {p.board}", area(asdict(p)), p.fps) for p in PUBLISHED if not p.lut
    ]
    for what, points in groups.items():
        ours = not what.startswith("published")
        colour = "#2f6fb0" if ours else "#616e7c"
        marker = "X" if what.startswith("needed") else "o" if ours else ">" if "," in what else "s"
        yield what, colour, marker, points
