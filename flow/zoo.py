# SPDX-License-Identifier: Apache-2.0
"""Accuracy against compute: ``make train-zoo`` and ``make bench-accuracy``.

A file of ``models/zoo/matrix`` names recipes, methods of token reduction, operating points and N:M
patterns. All points share geometry, data, the dense float and the dense QAT network, and the epochs
of the last phase; what differs is what that phase prunes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console

from sievit.flow.trained import checkpoint_path
from sievit.models import recipe as recipes
from sievit.models.data import Dataset, patchify
from sievit.models.macs import executed
from sievit.models.methods import METHODS
from sievit.models.qvit import QuantVisionTransformer
from sievit.models.recipe import Recipe, RecipeError, SelectorRecipe, SparsityRecipe
from sievit.models.train import (
    PHASES,
    OutOfTime,
    Trainer,
    accuracy,
    geometry,
    kept,
    load_checkpoint,
    on,
    outputs,
    save_checkpoint,
)
from sievit.quant.files import replace_section, write_atomic
from sievit.quant.sources import folders_digest
from sievit.sim.throughput import table

MATRICES = recipes.ZOO / "matrix"
DOCS = Path(__file__).resolve().parent.parent / "docs"
DENSE = "dense"


@dataclass(frozen=True)
class Point:
    """One network of the comparison.

    Attributes:
        name: of its files.
        method: of ``methods.METHODS``, or ``dense``.
        pattern: N:M, as the matrix calls it; ``dense`` is none.
        phase: which of the recipe's networks it is.
    """

    name: str
    method: str
    pattern: str
    recipe: Recipe
    phase: str = "qat_pruned"

    @property
    def hardware(self) -> bool:
        """There are cores for it."""
        return self.method in (DENSE, "heatvit")


@dataclass(frozen=True)
class Matrix:
    """A comparison: its points, and the recipe of what they share."""

    name: str
    title: str
    shared: Recipe
    points: tuple[Point, ...]
    #: recipes of the zoo among the points
    zoo: tuple[Recipe, ...]


def load(name: str) -> Matrix:
    """A comparison by name, or by path of a TOML file; recipes are found beside it, too.

    Raises RecipeError for one that there is not, or that does not say what it must.
    """
    path = Path(name) if name.endswith(".toml") else MATRICES / f"{name}.toml"
    known = ", ".join(sorted(p.stem for p in MATRICES.glob("*.toml")))
    if not path.is_file():
        raise RecipeError(f"no comparison {name!r}; known: {known}, or give a .toml file")
    try:
        values = tomllib.loads(path.read_text())
        named = [
            recipes.load(
                str(path.parent / f"{r}.toml") if (path.parent / f"{r}.toml").is_file() else r
            )
            for r in values["recipes"]
        ]
        first = named[0]
        plain = SelectorRecipe(), SparsityRecipe()
        shared = dataclasses.replace(
            first, name=f"{path.stem}_dense", selector=plain[0], sparsity=plain[1]
        )
        patches = int(values["patches"])
        points = [Point("qat_dense", DENSE, DENSE, shared, "qat_dense")]
        for pattern, nm in values["patterns"].items():
            sparsity = SparsityRecipe(
                {"blocks.*": nm["weights"]}, {"blocks.*.attn": nm["attention"]}
            )
            base = dataclasses.replace(first, sparsity=sparsity)
            tag = pattern.replace(":", "_").replace("/", "-")
            whole = dataclasses.replace(base, name=f"dense-{tag}", selector=plain[0])
            points.append(Point(whole.name, DENSE, pattern, whole))
            for method in values["methods"]:
                for tokens in values["tokens"]:
                    chosen = select(method, first.selector.blocks, tuple(tokens), patches)
                    own = f"{method}-{tag}-" + "_".join(map(str, tokens))
                    points.append(
                        Point(
                            own,
                            method,
                            pattern,
                            dataclasses.replace(base, name=own, selector=chosen),
                        )
                    )
    except (LookupError, TypeError, AttributeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path}: {error!r}; see {MATRICES / 'cifar10.toml'}") from error
    points = [p for p in points if not any(_alike(p.recipe, r) for r in named)]
    for r in named:
        weights = next(iter(r.sparsity.weights.values()), "1:1")
        rows = next(iter(r.sparsity.attention.values()), weights)
        pattern = weights if weights == rows else f"{weights}/{rows}"
        points.append(Point(r.name, r.selector.method, pattern, r))
    return Matrix(path.stem, values.get("title", path.stem), shared, tuple(points), tuple(named))


def _alike(a: Recipe, b: Recipe) -> bool:
    """The same network, whatever its name."""
    return dataclasses.replace(a, name="", title="") == dataclasses.replace(b, name="", title="")


def select(
    method: str, blocks: tuple[int, ...], tokens: tuple[int, ...], patches: int
) -> SelectorRecipe:
    """The selectors that leave ``tokens`` patch tokens: HeatViT in the mean, others always."""
    if method not in METHODS:
        raise RecipeError(f"no method {method!r}; known: {', '.join(METHODS)}")
    if method == "heatvit":
        return SelectorRecipe(blocks, keep=tuple(round(t / patches, 4) for t in tokens))
    return SelectorRecipe(blocks, topk=tokens, method=method)


# -- training ------------------------------------------------------------------------------------
def checkpoint(matrix: Matrix, point: Point, build: Path) -> Path:
    """Where a point's network lies: in the zoo if it is one of its recipes."""
    if point.recipe in matrix.zoo:
        return checkpoint_path(point.recipe)
    return build / "zoo" / matrix.name / f"{point.name}.pt"


def train(
    matrix: Matrix,
    data: Dataset,
    build: Path,
    console: Console,
    fabric: Fabric,
    only: Sequence[str] = (),
    limit: float = float("inf"),
    jobs: int = 1,
    command: Sequence[str] = (),
) -> list[str]:
    """Train the points that have no checkpoint; returns the names of those still missing.

    Args:
        only: these points; default: all.
        limit: seconds; what is under way then is saved, and the next call goes on.
        jobs: points trained side by side, each by ``command --only NAME --limit SECONDS``, on one
            device, which a network of this size does not fill.
    """
    end = time.monotonic() + limit
    folder = build / "train" / matrix.name
    chosen = [p for p in matrix.points if not only or p.name in only]

    def missing() -> list[Point]:
        return [p for p in chosen if not checkpoint(matrix, p, build).is_file()]

    if not missing():
        return []
    shared = Trainer(
        matrix.shared, data, folder / "shared", console, fabric, limit=end - time.monotonic()
    )
    try:
        done = shared.run(PHASES[:2])
        dense = checkpoint(matrix, matrix.points[0], build)
        todo = [p for p in missing() if p is not matrix.points[0]]  # the same in every process
        fabric.barrier()
        if fabric.is_global_zero and not dense.is_file():
            save_checkpoint(dense, matrix.shared, done)
        if jobs > 1 and len(todo) > 1:
            parallel(todo, folder, end, jobs, command, console)
            return [p.name for p in missing()]
        for point in todo:
            console.print(f"[bold]{point.name}[/bold]")
            left = end - time.monotonic()
            trainer = Trainer(point.recipe, data, folder / point.name, console, fabric, done, left)
            found = trainer.run()
            if point.recipe not in matrix.zoo:
                found = {k: found[k] for k in PHASES[2:]}
            if fabric.is_global_zero:
                save_checkpoint(checkpoint(matrix, point, build), point.recipe, found)
    except OutOfTime as error:
        console.print(f"{error}; the same command goes on")
    return [p.name for p in missing()]


def parallel(
    points: list[Point],
    folder: Path,
    end: float,
    jobs: int,
    command: Sequence[str],
    console: Console,
) -> None:
    """Train points side by side, in a process each."""
    waiting, running = list(points), dict[str, subprocess.Popen[bytes]]()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    try:
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < end:
                name = waiting.pop(0).name
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / f"{name}.log").open("ab") as log:
                    left = str(max(1, int(end - time.monotonic())))
                    running[name] = subprocess.Popen(
                        [*command, "--only", name, "--limit", left],
                        stdout=log, stderr=subprocess.STDOUT, env=environment,
                    )  # fmt: skip
            if not running:
                return  # out of time
            time.sleep(0.2)
            for name in [n for n, process in running.items() if process.poll() is not None]:
                code = running.pop(name).returncode
                text = (folder / f"{name}.log").read_text().rstrip().splitlines()
                state = "" if code == 0 else f"failed with status {code}: "
                console.print(f"{name}: {state}{text[-1] if text else 'no output'}", markup=False)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


# -- measuring -----------------------------------------------------------------------------------
def measure(
    model: torch.nn.Module, data: Dataset, patch: int, device: torch.device
) -> dict[str, Any]:
    """Top-1 in percent on all test images, means of multiplications and patches per selector."""
    model.to(device)
    with on(device):
        patches = patchify(data.test_images, patch).to(device)
        y, frames = outputs(model, patches, data.levels, 256)
    found: dict[str, Any] = {
        "images": len(data.test_images),
        "top1": round(accuracy(y.cpu(), data.test_labels), 3),
    }
    if isinstance(model, QuantVisionTransformer):
        found["macs"] = round(float(executed(model, frames).mean()), 1)
        found["tokens"] = [round(float(k.mean()), 2) for k in kept(frames)]
    return found


def bench(
    matrix: Matrix,
    data: Dataset,
    build: Path,
    console: Console,
    device: torch.device,
    limit: float = float("inf"),
    document: Path = DOCS / "accuracy.md",
) -> list[str]:
    """Measure every point whose checkpoint is new, write table and plot; returns what is missing.

    The figures are kept beside the document, ``accuracy.json``, with a digest of checkpoint and
    sources: what was measured elsewhere stays until its checkpoint is here and differs.
    """
    end = time.monotonic() + limit
    store = document.with_suffix(".json")
    records: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    mine = records.setdefault(matrix.name, {})
    g = geometry(matrix.shared, data)
    sources = folders_digest("models", "quant")
    todo = [("float", Point("float", "float", DENSE, matrix.shared, "float"))]
    todo += [(p.name, p) for p in matrix.points]
    for name, point in todo:
        holder = matrix.points[0] if name == "float" else point
        path = checkpoint(matrix, holder, build)
        if not path.is_file():
            continue
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        key = f"{digest} {sources} {data.name}"
        if mine.get(name, {}).get("key") == key:
            continue
        if time.monotonic() > end:
            console.print("time is up; the same command goes on")
            break
        model = load_checkpoint(path, point.recipe, g, (point.phase,))[point.phase]
        found = measure(model, data, point.recipe.data.patch_size, device)
        mine[name] = {
            "key": key, "data": data.name, "method": point.method, "pattern": point.pattern,
            "hardware": point.hardware, **found,
        }  # fmt: skip
        console.print(f"{name}: {found['top1']:.2f} %")
        write_atomic(store, json.dumps(records, indent=1) + "\n")
    missing = [name for name, _ in todo if name not in mine]
    if "qat_dense" in mine:
        write(matrix, mine, missing, document)
    return missing


# -- the document --------------------------------------------------------------------------------
def write(matrix: Matrix, records: dict[str, Any], missing: list[str], document: Path) -> None:
    """Table, verdicts and plot of what was measured."""
    dense = records["qat_dense"]["macs"]
    rows = []
    order = {name: i for i, name in enumerate(["float", *(p.name for p in matrix.points)])}
    for name, r in sorted(records.items(), key=lambda item: order.get(item[0], len(order))):
        macs = r.get("macs", dense)
        plain = {"float": "dense, float", "qat_dense": "dense, QAT"}
        rest = plain.get(name, "dense, QAT, trained as long as those below")
        title = METHODS[r["method"]].title if r["method"] in METHODS else rest
        tokens = " → ".join(f"{t:.1f}" for t in r.get("tokens", [])) or "all"
        where = "" if r["method"] == "float" else ("yes" if r["hardware"] else "no")
        row = [title, r["pattern"], tokens, f"{macs / 1e6:.1f}", f"{100 * macs / dense:.1f}"]
        rows.append((*row, f"{r['top1']:.2f}", where))
    head = (
        "network",
        "N:M",
        "patches behind the selectors",
        "10^6 MACs",
        "% of dense",
        "top-1 %",
        "hardware",
    )
    names = sorted({r["data"] for r in records.values()})
    images = sorted({r["images"] for r in records.values()})
    lines = [f"{', '.join(names)}, {', '.join(f'{n:,}' for n in images)} test images.", ""]
    lines += [table(head, rows), "", *verdicts(matrix, records)]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += ["", f"![top-1 against multiplications]({document.stem}_{matrix.name}.svg)"]
    replace_section(document, matrix.name, "\n".join(lines))
    write_atomic(document.with_name(f"{document.stem}_{matrix.name}.svg"), picture(matrix, records))


def verdicts(matrix: Matrix, records: dict[str, Any]) -> list[str]:
    """What the figures say, good or bad."""
    out = []
    dense = records["qat_dense"]["macs"]
    whole = records.get("float", {}).get("top1")
    for r in matrix.zoo:
        if r.name not in records or whole is None:
            continue
        own = records[r.name]
        loss, share = whole - own["top1"], own["macs"] / dense
        held = "holds" if loss <= 1 and share <= 0.5 else "is missed"
        out.append(
            f"* `{r.name}`: {own['top1']:.2f} %, {loss:+.2f} points below dense float, at "
            f"{100 * share:.1f} % of its multiplications; the bar (1 point, 50 %) {held}."
        )
    ours = [r for r in records.values() if r["method"] == "heatvit"]
    for method in sorted({r["method"] for r in records.values()} & set(METHODS) - {"heatvit"}):
        rival = [r for r in records.values() if r["method"] == method]
        better = [r for r in rival if not any(_covers(o, r) for o in ours)]
        title = METHODS[method].title
        if not ours:
            continue
        if better:
            said = ", ".join(f"{r['top1']:.2f} % at {r['macs'] / 1e6:.1f}" for r in better)
            out.append(f"* {title}: {len(better)} of {len(rival)} points above our curve ({said}).")
        else:
            out.append(f"* {title}: no point above our curve.")
    return out


def _covers(own: dict[str, Any], other: dict[str, Any]) -> bool:
    """As accurate with no more multiplications."""
    return bool(own["top1"] >= other["top1"] and own["macs"] <= other["macs"])


def picture(matrix: Matrix, records: dict[str, Any]) -> str:
    """SVG: top-1 against multiplications, a line per method and pattern."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    style = {"font.family": "DejaVu Sans", "font.size": 9, "svg.hashsalt": "sievit"}
    with pyplot.rc_context(style):
        figure, axes = pyplot.subplots(figsize=(7.5, 4.5))
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for r in records.values():
            if "macs" in r:
                groups.setdefault((r["method"], r["pattern"]), []).append(r)
        methods = sorted({m for m, _ in groups})
        for (method, pattern), found in sorted(groups.items()):
            found.sort(key=lambda r: r["macs"])
            colour = f"C{methods.index(method)}"
            line = "--o" if pattern == DENSE else "-s"
            title = METHODS[method].title if method in METHODS else method
            axes.plot(
                [r["macs"] / 1e6 for r in found], [r["top1"] for r in found], line, color=colour,
                markersize=4, linewidth=1, label=f"{title}, {pattern}",
            )  # fmt: skip
        if "float" in records:
            top = records["float"]["top1"]
            axes.axhline(top, color="grey", linewidth=0.8, label="dense float")
        axes.set(
            xlabel="executed multiplications per image, 10^6", ylabel="top-1, %", title=matrix.title
        )
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, bbox_to_anchor=(1.01, 1), loc="upper left")
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
        pyplot.close(figure)
    return buffer.getvalue()


def command_line(matrix: str, data: Path | None, options: Sequence[str]) -> list[str]:
    """The call of ``train-zoo`` that trains in a process of its own."""
    call = "from sievit.flow.cli import main; main()"
    given = ["--data", str(data)] if data else []
    return [sys.executable, "-c", call, "train-zoo", "--matrix", matrix, *given, *options]
