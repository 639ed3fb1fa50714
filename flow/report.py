# SPDX-License-Identifier: Apache-2.0
"""The result of a build: ``report.json``, ``report.html`` and the closing terminal table."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.ticker
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from sievit.quant.files import write_atomic
from sievit.quant.graph import Graph

PAIRS = {
    "qat_qonnx": "QAT model = QONNX",
    "qonnx_graph": "QONNX = integer graph",
    "published": "published = integer graph",
    "graph_hls": "integer graph = HLS C++",
    "graph_rtl": "integer graph = RTL",
}
RESOURCES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram36": "BRAM36", "uram": "URAM"}

INK, MUTED, GRID = "#1f2933", "#616e7c", "#e4e7eb"
BLUE, GREEN, AMBER, RED = "#2f6fb0", "#2d7a4b", "#b7791f", "#b3261e"


@dataclass(frozen=True)
class ReportDetails:
    """What the pictures show. Everything may be empty; its section is then left out.

    Attributes:
        images: uint8 ``[n, C, H, W]``, a few examples.
        levels: largest possible pixel value.
        grid: patches per column and per row.
        labels: true class of each example, int ``[n]``.
        predictions: class that the accelerator gives, int ``[n]``.
        classes: names of the classes.
        alive: by selector, in order: bool ``[n, gh*gw]``, the patch is still there behind it.
        kept: by selector: int ``[images]``, patch tokens behind it over the compared images.
        fires: bool ``[cycles, edges]``, a beat moved over the edge in that cycle.
        edges: name of each column of ``fires``, in the order of the network.
        frame_ends: cycles in which the last beat of a frame left.
        cores: one row per node: ``name``, ``core``, ``folding``, ``cycles_predicted``,
            ``cycles_measured`` (or None), ``utilisation`` (busy fraction of the initiation
            interval), ``lut``, ``ff``, ``dsp``, ``bram36``, ``share`` (largest fraction of one
            resource's budget), ``fifos`` (most beats in simulation and depth of those in front).
    """

    images: Tensor = field(default_factory=lambda: torch.zeros(0, 1, 1, 1, dtype=torch.uint8))
    levels: int = 255
    grid: tuple[int, int] = (1, 1)
    labels: Sequence[int] = ()
    predictions: Sequence[int] = ()
    classes: Sequence[str] = ()
    alive: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    fires: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), bool))
    edges: Sequence[str] = ()
    frame_ends: Sequence[int] = ()
    cores: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Verdict:
    """``kind`` is ``good``, ``open`` or ``bad``."""

    kind: str
    text: str


def verdict(result: Mapping[str, Any]) -> Verdict:
    """Are all views of the network equal? A comparison that did not run does not count as equal."""
    equal = result.get("equal") or {}
    wrong = [p for p, e in equal.items() if e and e["mismatches"]]
    if wrong:
        return Verdict("bad", "NOT equal: " + ", ".join(PAIRS.get(p, p) for p in wrong))
    pairs = result.get("pairs") or []
    missing = [PAIRS.get(p, p) for p in pairs if not (equal.get(p) or {}).get("images")]
    if missing or not pairs:
        return Verdict("open", "Not compared: " + (", ".join(missing) or "nothing is known"))
    return Verdict("good", "All equal, every logit of every compared image")


# -- files ---------------------------------------------------------------------------------------
def write_report(
    result: Mapping[str, Any], graph: Graph, details: ReportDetails, folder: Path
) -> None:
    """Write ``report.json`` (the result as it is) and ``report.html`` (one file, nothing external).

    Raises:
        TypeError: the result holds something that JSON cannot.
        ValueError: masks, labels or edges in ``details`` do not fit together.
    """
    data = json.dumps(result, indent=1) + "\n"
    page = render_html(result, graph, details)
    for name, text in (("report.json", data), ("report.html", page)):
        write_atomic(folder / name, text)


def render_html(result: Mapping[str, Any], graph: Graph, details: ReportDetails) -> str:
    """The page. Raises like ``write_report``."""
    _check(details)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).resolve().parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    with matplotlib.rc_context(_STYLE):
        pictures = {
            "survivors": _survivors(details),
            "kept": _kept(details),
            "occupancy": _occupancy(details),
            "cores": _cores(result, details),
            "budget": _budget(result),
        }
    return environment.get_template("report.html.j2").render(
        result=result,
        verdict=verdict(result),
        summary=summary(result),
        pairs=_pairs(result),
        resources=_resources(result),
        cores=_core_rows(graph, details),
        nodes=len(graph.nodes),
        pictures=pictures,
        times=_times(result),
    )


def _check(d: ReportDetails) -> None:
    n, patches = len(d.images), d.grid[0] * d.grid[1]
    for name, mask in d.alive.items():
        if tuple(mask.shape) != (n, patches):
            raise ValueError(f"alive[{name!r}] is {tuple(mask.shape)}, expected {(n, patches)}")
    for what, values in (("labels", d.labels), ("predictions", d.predictions)):
        if len(values) != n:
            raise ValueError(f"{len(values)} {what} for {n} images")
    if d.fires.ndim != 2 or d.fires.shape[1] != len(d.edges):
        raise ValueError(f"fires is {d.fires.shape}, but there are {len(d.edges)} edge names")
    if n and (d.images.shape[2] % d.grid[0] or d.images.shape[3] % d.grid[1]):
        raise ValueError(f"a grid of {d.grid} does not divide {tuple(d.images.shape[2:])}")


# -- figures in words ----------------------------------------------------------------------------
def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float) and not value.is_integer():
        digits = 1 if abs(value) >= 10 or (10 * value).is_integer() else 2
        return f"{value:,.{digits}f}"
    return f"{int(value):,}"


def _percent(value: Any) -> str:
    return "-" if value is None else f"{100 * value:.2f}%"


def summary(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value) rows that open the page and the terminal table."""
    empty: dict[str, Any] = {}
    accuracy, cycles = result.get("accuracy") or empty, result.get("cycles") or empty
    tokens, macs = result.get("tokens") or empty, result.get("macs") or empty
    clock = float(result["clock_mhz"])
    rows = [
        ("Model", str(result["model"])),
        ("Board", f"{result['board']} at {_number(clock)} MHz"),
    ]
    names = {
        "float": "float",
        "qat_dense": "QAT dense",
        "qat_pruned": "QAT pruned",
        "integer": "integer",
    }
    shown = [f"{names[k]} {_percent(accuracy[k])}" for k in names if accuracy.get(k) is not None]
    if shown:
        images = f" ({_number(accuracy['images'])} images)" if accuracy.get("images") else ""
        rows.append(("Accuracy", ", ".join(shown) + images))
    if tokens.get("stages"):
        kept = " → ".join(_number(float(x)) for x in tokens["stages"])
        rows.append(("Patch tokens kept, mean", kept))
    if macs.get("dense"):
        executed = macs.get("executed")
        share = "" if executed is None else f" ({_percent(executed / macs['dense'])})"
        rows.append(
            (
                "Multiplications",
                f"dense {_number(macs['dense'])}, executed {_number(executed)}{share}",
            )
        )
    for key, name in (("ii", "Initiation interval"), ("latency", "Latency")):
        if cycles.get(key) is None and cycles.get(f"{key}_predicted") is None:
            continue
        measured, predicted = cycles.get(key), cycles.get(f"{key}_predicted")
        known: Any = predicted if measured is None else measured
        time = f", {_number(known / clock)} µs"
        figure = "not measured" if measured is None else f"{_number(measured)} cycles"
        rows.append((name, f"{figure} (predicted {_number(predicted)}){time}"))
    if result.get("fps") is not None:
        rows.append(("Throughput", f"{_number(float(round(result['fps'])))} images/s"))
    return rows


def _pairs(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    equal = result.get("equal") or {}
    rows = []
    for key in result.get("pairs") or []:
        entry = equal.get(key) or {}
        stalled = entry.get("stalled", False)
        run = bool(entry.get("images"))
        pressure = "yes" if stalled is True else "no" if not stalled else _number(stalled)
        rows.append(
            {
                "pair": PAIRS.get(key, key),
                "images": _number(entry["images"]) if run else "not run",
                "mismatches": _number(entry["mismatches"]) if run else "-",
                "stalled": pressure if run else "-",
                "kind": "bad" if entry.get("mismatches") else "good" if run else "open",
            }
        )
    return rows


def _resources(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    used: Mapping[str, Any] = result.get("resources") or {}
    budget: Mapping[str, Any] = result.get("budget") or {}
    rows: list[dict[str, Any]] = []
    for key, name in RESOURCES.items():
        if key not in used or used[key] is None:
            continue
        limit: Any = budget.get(key)
        amount = float(used[key])
        fraction = None if limit is None else amount / limit if limit else float(amount > 0)
        rows.append(
            {
                "name": name,
                "used": _number(_rounded(amount)),
                "budget": _number(_rounded(limit)),
                "fraction": fraction,
                "percent": "-" if fraction is None else f"{100 * fraction:.1f}%",
                "over": limit is not None and amount > limit,
            }
        )
    return rows


def _times(result: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    times = result.get("time") or {}
    total = sum(times.values()) or 1
    return [(step, _seconds(seconds), seconds / total) for step, seconds in times.items()]


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


def _core_rows(graph: Graph, details: ReportDetails) -> list[dict[str, Any]]:
    known = {node.name: node for node in graph.nodes}
    rows = []
    for row in details.cores:
        node = known.get(row["name"])
        stream = ""
        if node is not None:
            port = node.params.output()
            stream = f"{graph.max_tokens(node.name)} x {port.channels} {port.itype}"
        shown = {key: _number(row.get(key)) for key in ("cycles_predicted", "cycles_measured")}
        shown |= {key: _number(_rounded(row.get(key))) for key in ("lut", "ff", "dsp", "bram36")}
        shown |= {key: _whole_percent(row.get(key)) for key in ("utilisation", "share")}
        texts = ("name", "core", "folding", "fifos")
        rows.append({key: row.get(key, "") for key in texts} | shown)
        rows[-1]["stream"] = stream
    return rows


def _rounded(value: float | None) -> float | None:
    """Whole numbers, except halves of a block RAM."""
    return None if value is None else round(2 * value) / 2 if value < 100 else float(round(value))


def _whole_percent(value: float | None) -> str:
    return (
        "-" if value is None else f"{100 * value:.0f}%" if value >= 0.1 else f"{100 * value:.1f}%"
    )


# -- terminal ------------------------------------------------------------------------------------
def terminal_table(result: Mapping[str, Any]) -> RenderableType:
    """The closing table of a build, for ``rich.print``."""
    colours = {"good": "green", "open": "yellow", "bad": "bold red"}
    final = verdict(result)
    table = Table(box=box.SIMPLE_HEAD, show_header=False, pad_edge=False, title_justify="left")
    table.title = Text(final.text, style=colours[final.kind])
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for what, value in summary(result):
        table.add_row(what, Text(value))
    table.add_section()
    for row in _pairs(result):
        text = row["images"]
        if row["kind"] != "open":
            text = f"{row['images']} images, {row['mismatches']} mismatches"
            text += {"no": "", "yes": ", under back-pressure"}.get(
                row["stalled"], f", {row['stalled']} under back-pressure"
            )
        table.add_row(row["pair"], Text(text, style=colours[row["kind"]]))
    table.add_section()
    for row in _resources(result):
        text = f"{row['used']} of {row['budget']} ({row['percent']})"
        table.add_row(row["name"], Text(text, style=colours["bad"] if row["over"] else ""))
    source = (result.get("resources") or {}).get("source")
    if source:
        table.add_row("Resources from", Text(str(source)))
    for group in ("artefacts", "vendor"):
        if result.get(group):
            table.add_section()
            for name, value in result[group].items():
                table.add_row(str(name), Text(str(value)))
    times = _times(result)
    if times:
        table.add_section()
        table.add_row("Time", Text(", ".join(f"{step} {shown}" for step, shown, _ in times)))
    return table


# -- pictures ------------------------------------------------------------------------------------
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "svg.hashsalt": "sievit",
    "svg.fonttype": "path",
}


def _uri(figure: Figure, kind: str) -> str:
    """The drawing as a data URI; the same drawing gives the same bytes."""
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(buffer, format=kind, dpi=140, metadata=metadata)
    media = "image/svg+xml" if kind == "svg" else "image/png"
    return f"data:{media};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _survivors(d: ReportDetails) -> str:
    if not d.alive or not len(d.images):
        return ""
    n, channels, height, width = d.images.shape
    stages = list(d.alive)
    pixels = d.images.float().permute(0, 2, 3, 1).numpy() / d.levels
    pixels = np.repeat(pixels, 3, -1) if channels == 1 else pixels[..., :3]
    rows, columns = height // d.grid[0], width // d.grid[1]
    edge = 1.3
    figure = Figure(
        figsize=(edge * (len(stages) + 1) * width / height + 1.6, edge * n + 0.35),
        layout="constrained",
    )
    axes = figure.subplots(n, len(stages) + 1, squeeze=False)
    for i in range(n):
        for column, axis in enumerate(axes[i]):
            picture = pixels[i]
            if column:
                mask = d.alive[stages[column - 1]][i].reshape(d.grid).numpy().astype(bool)
                kept = np.kron(mask, np.ones((rows, columns), bool))[..., None]
                grey = 0.80 + 0.13 * picture.mean(-1, keepdims=True).repeat(3, -1)
                picture = np.where(kept, picture, grey)
                axis.set_xlabel(f"{int(mask.sum())} of {mask.size}", fontsize=7, labelpad=2)
            axis.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            if column:
                for y, x in zip(*np.nonzero(mask), strict=True):
                    corner = (x * columns - 0.5, y * rows - 0.5)
                    axis.add_patch(
                        Rectangle(corner, columns, rows, fill=False, ec=BLUE, lw=0.6, alpha=0.7)
                    )
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
            if i == 0:
                title = "input" if column == 0 else f"after {stages[column - 1]}"
                axis.set_title(title, fontsize=8)
        right = d.labels[i] == d.predictions[i]
        text = _class(d, d.labels[i])
        if not right:
            text += f"\nseen as {_class(d, d.predictions[i])}"
        axes[i, 0].set_ylabel(
            text,
            rotation=0,
            ha="right",
            va="center",
            color=INK if right else RED,
            labelpad=8,
            fontsize=8,
        )
    return _uri(figure, "png")


def _class(d: ReportDetails, label: int) -> str:
    return d.classes[label] if 0 <= label < len(d.classes) else str(label)


def _kept(d: ReportDetails) -> str:
    stages = [name for name in d.kept if len(d.kept[name])]
    if not stages:
        return ""
    patches = d.grid[0] * d.grid[1]
    figure = Figure(figsize=(3.1 * len(stages) + 0.6, 2.3), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(stages), squeeze=False)[0], stages, strict=True):
        kept = d.kept[name].numpy()
        step = max(1, -(-(patches + 1) // 66))
        bins = np.arange(0, patches + 1 + step, step) - 0.5
        axis.hist(kept, bins=bins, color=BLUE, rwidth=0.9)
        axis.axvline(kept.mean(), color=AMBER, lw=1.3)
        axis.set_title(f"after {name}: mean {kept.mean():.1f} of {patches}")
        axis.set_xlabel("patch tokens kept")
        axis.set_ylabel("images")
        axis.set_xlim(-0.5 - 0.01 * patches, patches + 0.5 + 0.01 * patches)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.yaxis.get_major_locator().set_params(integer=True)
    return _uri(figure, "svg")


def _occupancy(d: ReportDetails) -> str:
    cycles, edges = d.fires.shape
    if not cycles or not edges:
        return ""
    step = max(1, -(-cycles // 600))
    starts = np.arange(0, cycles, step)
    busy = np.add.reduceat(d.fires, starts, axis=0, dtype=np.int64)
    width = np.diff(np.append(starts, cycles))[:, None]
    figure = Figure(figsize=(10.4, min(40, 0.9 + max(1.2, 0.17 * edges))), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(
        (busy / width).T,
        aspect="auto",
        interpolation="nearest",
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(0, len(starts) * step, edges - 0.5, -0.5),
    )
    for end in d.frame_ends:
        axis.axvline(end + 1, color=AMBER, lw=0.9, alpha=0.9)
    axis.set_xlim(0, cycles)
    axis.set_yticks(range(edges), list(d.edges), fontsize=7)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("clock cycle" if step == 1 else f"clock cycle (bins of {step})")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    bar = figure.colorbar(image, ax=axis, fraction=0.015, pad=0.01)
    bar.set_label("cycles with a beat", fontsize=8)
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    bar.ax.spines["outline"].set_visible(False)
    return _uri(figure, "png")


def _cores(result: Mapping[str, Any], d: ReportDetails) -> str:
    if not d.cores:
        return ""
    budget = result.get("budget") or {}
    shown = [key for key in ("lut", "ff", "dsp", "bram36") if budget.get(key)]
    figure = Figure(figsize=(10.4, min(60, 0.85 + 0.2 * len(d.cores))), layout="constrained")
    ratios = [2.2, *(1 for _ in shown)]
    axes = figure.subplots(1, 1 + len(shown), sharey=True, squeeze=False, width_ratios=ratios)[0]
    y = np.arange(len(d.cores))
    predicted = [row["cycles_predicted"] for row in d.cores]
    axes[0].barh(y, predicted, height=0.68, color=BLUE, label="predicted")
    measured = [
        (i, row["cycles_measured"])
        for i, row in enumerate(d.cores)
        if row.get("cycles_measured") is not None
    ]
    if measured:
        at, value = zip(*measured, strict=True)
        axes[0].plot(value, at, "|", color=INK, ms=7, mew=1.4, label="measured")
    cycles = result.get("cycles") or {}
    ii = cycles.get("ii") if cycles.get("ii") is not None else cycles.get("ii_predicted")
    if ii is not None:
        axes[0].axvline(ii, color=AMBER, lw=1.2, label="whole accelerator")
    axes[0].set_title("cycles per frame")
    axes[0].set_xlim(left=0)
    axes[0].xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes[0].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes[0].set_yticks(y, [row["name"] for row in d.cores], fontsize=7)
    axes[0].set_ylim(len(d.cores) - 0.4, -0.6)
    for axis, key in zip(axes[1:], shown, strict=True):
        shares = [100 * (row.get(key) or 0) / budget[key] for row in d.cores]
        axis.barh(y, shares, height=0.68, color=MUTED)
        axis.set_title(f"{RESOURCES[key]}, % of budget")
        axis.set_xlim(0, max(1.0, 1.08 * max(shares)))
        axis.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    for axis in axes:
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", lw=0.6)
        axis.set_axisbelow(True)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    return _uri(figure, "svg")


def _budget(result: Mapping[str, Any]) -> str:
    rows = [row for row in _resources(result) if row["fraction"] is not None]
    rows = [row for row in rows if not (row["used"] == "0" and row["budget"] == "0")]
    if not rows:
        return ""
    figure = Figure(figsize=(6.4, 0.55 + 0.3 * len(rows)), layout="constrained")
    axis = figure.subplots()
    y = np.arange(len(rows))
    width = [100 * row["fraction"] for row in rows]
    axis.barh(y, 100, height=0.62, color=GRID)
    axis.barh(y, width, height=0.62, color=[RED if row["over"] else BLUE for row in rows])
    for i, row in enumerate(rows):
        axis.text(max(width[i], 0) + 1.2, i, row["percent"], va="center", fontsize=8)
    axis.axvline(100, color=MUTED, lw=1)
    axis.set_yticks(y, [row["name"] for row in rows])
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlim(0, max(112, 1.12 * max(width)))
    axis.set_xlabel("% of the board's budget")
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    return _uri(figure, "svg")
