# SPDX-License-Identifier: Apache-2.0
"""The road from a trained model to a proven accelerator, step by step."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from qonnx.core.modelwrapper import ModelWrapper
from rich.console import Console
from torch import Tensor

from sievit.boards.board import Board
from sievit.flow.report import ReportDetails, terminal_table, write_report
from sievit.hls import codegen as hls_codegen
from sievit.hls import csim
from sievit.models import data as datasets
from sievit.models import export as exporter
from sievit.models import train
from sievit.models.data import Dataset, patchify
from sievit.models.qvit import QuantVisionTransformer, image_input
from sievit.models.recipe import ZOO, Recipe
from sievit.quant import fold
from sievit.quant.cores.token_select import TokenSelectParams, decide
from sievit.quant.errors import SievitError
from sievit.quant.execute import execute, first_difference
from sievit.quant.lower import lower
from sievit.quant.params import Stream
from sievit.sim import runner

PROFILE_IMAGES = 512


class BuildError(SievitError):
    """The build found something wrong: a mismatch, or a comparison that did not happen."""


def checkpoint_path(recipe: Recipe) -> Path:
    """Where the trained networks of a recipe lie."""
    return ZOO / f"{recipe.name}.pt"


def load_data(recipe: Recipe, path: Path | None) -> Dataset:
    """The data set of a recipe."""
    return datasets.load(recipe.data.source, path, None)


@dataclass
class Build:
    """One build of one model for one board; artefacts in ``folder``.

    The steps run in order; each prints a line and its time. Everything that a later step needs from
    an earlier one is an attribute.
    """

    recipe: Recipe
    board: Board
    folder: Path
    console: Console
    data_path: Path | None = None
    checkpoint: Path | None = None
    #: images simulated in RTL, back to back
    rtl_images: int = 64
    #: stop folding at this many images per second; 0 = as fast as fits
    fps: float = 0.0
    seed: int = 1
    times: dict[str, float] = field(default_factory=dict)
    equal: dict[str, dict[str, Any]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, str]]:
        """Announce a step, time it, print what it found."""
        note: dict[str, str] = {"text": ""}
        begin = time.monotonic()
        with self.console.status(f"{name} ..."):
            yield note
        seconds = time.monotonic() - begin
        self.times[name] = round(seconds, 2)
        self.console.print(f"[bold]{name:<12}[/bold] {note['text']} [dim]({seconds:.1f} s)[/dim]")

    def run(self, proof: bool = True) -> dict[str, Any]:
        """All steps; returns the report. ``proof`` = False stops after code generation.

        Raises BuildError on a mismatch, after the report was written, and ToolError before anything
        starts if a compiler or the simulator is missing.
        """
        if proof:
            runner.check_tools()
        self.load()
        self.export()
        self.lower()
        self.fold()
        self.generate()
        if not proof:
            return {}
        self.run_hls()
        self.run_rtl()
        return self.finish()

    # -- steps -----------------------------------------------------------------------------------
    def load(self) -> None:
        with self.step("load") as note:
            self.data = load_data(self.recipe, self.data_path)
            self.geometry = train.geometry(self.recipe, self.data)
            path = self.checkpoint or checkpoint_path(self.recipe)
            self.models = train.load_checkpoint(path, self.recipe, self.geometry)
            self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self.patches = patchify(self.data.test_images, self.recipe.data.patch_size)
            self.accuracy: dict[str, float] = {}
            self.qat_logits = torch.zeros(0)
            for name, model in self.models.items():
                y = train.logits(model, self.patches, self.data.levels)
                self.accuracy[name] = round(train.accuracy(y, self.data.test_labels) / 100, 5)
                self.qat_logits = y
            shown = ", ".join(f"{k} {100 * v:.2f} %" for k, v in self.accuracy.items())
            note["text"] = f"{self.data.name}, {len(self.patches)} test images: {shown}"

    def export(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "model.onnx"
        stamp = self.folder / "model.stamp"
        key = f"{self.digest} {_sources_digest('models', 'quant')}"
        with self.step("export") as note:
            if path.exists() and stamp.exists() and stamp.read_text() == key:
                self.onnx = ModelWrapper(str(path))
                note["text"] = "unchanged, reused"
            else:
                stamp.unlink(missing_ok=True)
                model = self.models["qat_pruned"]
                assert isinstance(model, QuantVisionTransformer)
                self.onnx = exporter.export(model, path)
                stamp.write_text(key)
                note["text"] = f"{len(self.onnx.graph.node)} QONNX nodes"
        with self.step("QONNX") as note:
            x = image_input(self.patches, self.data.levels)
            self.tensors = exporter.execute(self.onnx, x)
            self.qonnx_logits = torch.from_numpy(self.tensors[exporter.OUTPUT]).flatten(1)
            wrong = (self.qat_logits != self.qonnx_logits).any(1)

            def locate(i: int) -> str:
                model = self.models["qat_pruned"]
                assert isinstance(model, QuantVisionTransformer)
                return str(exporter.first_difference(model, self.tensors, self.onnx, x))

            note["text"] = self.compare("qat_qonnx", wrong, locate)

    def lower(self) -> None:
        with self.step("lower") as note:
            self.graph = lower(self.onnx, self.recipe.name)
            profile = self.data.train_images[:PROFILE_IMAGES]
            edges = execute(self.graph, Stream.full(patchify(profile, self.recipe.data.patch_size)))
            self.lengths = {k: v.length for k, v in edges.items()}
            note["text"] = f"{len(self.graph.nodes)} cores"
        with self.step("Graph") as note:
            self.edges = execute(self.graph, Stream.full(self.patches))
            out = self.graph.output
            logits = self.edges[out.name].data[:, 0]
            scaled = (logits.double() * 2.0**out.exponent).float()
            top1 = train.accuracy(logits.double(), self.data.test_labels)
            self.accuracy["integer"] = round(top1 / 100, 5)
            wrong = (scaled != self.qonnx_logits).any(1)
            note["text"] = self.compare("qonnx_graph", wrong, self.locate_qonnx)

    def fold(self) -> None:
        with self.step("fold") as note:
            ii = self.board.clock_mhz * 1e6 / self.fps if self.fps else 0.0
            device = self.board.device()
            self.graph = fold.fold(self.graph, self.board.budget(), self.lengths, ii, device)
            predicted, slowest = fold.interval(self.graph, self.lengths)
            note["text"] = f"II {predicted:.0f} cycles predicted, set by {slowest}"
            if self.fps and self.board.clock_mhz * 1e6 / predicted < self.fps:
                raise fold.BudgetError(
                    f"{self.fps:.0f} images/s need an II of {ii:.0f} cycles, {slowest} allows "
                    f"{predicted:.0f}; lower --fps or choose a larger board"
                )
            part = self.folder / "graph.part"
            shutil.rmtree(part, ignore_errors=True)
            self.graph.meta["board"] = self.board.name
            self.graph.save(part)
            shutil.rmtree(self.folder / "graph", ignore_errors=True)
            os.replace(part, self.folder / "graph")

    def generate(self) -> None:
        with self.step("generate") as note:
            few = Stream.full(self.patches[:8])
            hls_codegen.generate(self.graph, self.folder / "hls", self.board, few)
            runner.codegen.generate(self.graph, self.folder / "rtl")
            note["text"] = "Vitis HLS project and SystemVerilog top"

    def run_hls(self) -> None:
        out = self.graph.output.name
        with self.step("HLS compile") as note:
            csim.compile(self.folder / "hls")
            note["text"] = "g++ -Wall -Wextra -Werror"
        with self.step("HLS csim") as note:
            x = Stream.full(self.patches)
            got = csim.run(self.folder / "hls", self.graph, x)[out]
            wrong = frames_differ(self.edges[out], got)

            def locate(i: int) -> str:
                edges = csim.run(self.folder / "hls", self.graph, _one(x, i), taps=True)
                return self.locate(i, edges)

            note["text"] = self.compare("graph_hls", wrong, locate)
        with self.step("Vitis HLS") as note:
            found = csim.synthesis(self.folder / "hls")
            self.vendor: dict[str, Any] = found if isinstance(found, dict) else {"Vitis HLS": found}
            missing = "not installed: what it would run stands below"
            note["text"] = missing if isinstance(found, str) else "csynth report read"

    def run_rtl(self) -> None:
        folder, out = self.folder / "rtl", self.graph.output.name
        count = min(self.rtl_images, len(self.patches))
        x = Stream.full(self.patches[:count])
        golden = _slice(self.edges[out], count)
        with self.step("RTL compile") as note:
            runner.build_graph(self.graph, folder)
            note["text"] = "Verilator"
        wrong = torch.zeros(count, dtype=torch.bool)
        stalled = 0
        for stall in ("none", "both", "bursts"):
            with self.step(f"RTL {stall}") as note:
                record = stall == "none"
                result = runner.run_graph(self.graph, folder, x, stall, self.seed, record=record)
                differ = frames_differ(golden, result.output)
                wrong |= differ
                stalled += 0 if record else count
                note["text"] = f"{count} images, {int(differ.sum())} mismatches"
                if record:
                    self.rtl = result
                if bool(differ.any()):
                    i = int(differ.nonzero()[0])
                    edges = runner.run_graph(self.graph, folder, _one(x, i), stall).edges
                    note["text"] += f"; {self.locate(i, edges)}"
        self.compare("graph_rtl", wrong, None, stalled)
        ends = self.rtl.out_last
        skip = min(8, count // 4)
        self.ii = (ends[-1] - ends[skip]) / max(1, count - 1 - skip)
        self.latency = ends[0] - self.rtl.in_first[0] + 1

    def finish(self) -> dict[str, Any]:
        with self.step("report") as note:
            self.kept = self.stages()
            result = self.result()
            write_report(result, self.graph, self.details(), self.folder)
            note["text"] = str(self.folder / "report.html")
        self.console.print()
        self.console.print(terminal_table(result))
        check_equal(self.equal)
        return result

    # -- comparison ------------------------------------------------------------------------------
    def compare(
        self, pair: str, wrong: Tensor, locate: Callable[[int], str] | None, stalled: int = 0
    ) -> str:
        """Record a comparison: ``wrong`` bool ``[images]``; ``locate`` says where one differs."""
        mismatches = int(wrong.sum())
        self.equal[pair] = {"images": len(wrong), "mismatches": mismatches, "stalled": stalled}
        text = f"{len(wrong)} images, {mismatches} mismatches"
        if mismatches and locate:
            i = int(wrong.nonzero()[0])
            text += f"; {locate(i)}"
        return text

    def locate(self, i: int, edges: dict[str, Stream]) -> str:
        """First edge, token and channel at which image ``i`` differs from the golden Graph."""
        golden = {k: _one(v, i) for k, v in self.edges.items()}
        found = first_difference(self.graph, golden, edges)
        return f"image {i}: {found or 'equal when run alone: the difference needs other frames'}"

    def locate_qonnx(self, i: int) -> str:
        """First edge, token and channel at which the Graph leaves the QONNX execution."""
        scaled = {}
        for node in self.graph.nodes:
            value = torch.from_numpy(self.tensors[self.graph.meta["tensors"][node.name]])
            ints = (value.double() * 2.0**-node.exponent).round().long()
            golden = self.edges[node.name]
            scaled[node.name] = golden.with_data(ints[:, : golden.data.shape[1]])
        return self.locate(i, {k: _one(v, i) for k, v in scaled.items()})

    # -- report ----------------------------------------------------------------------------------
    def stages(self) -> dict[str, Tensor]:
        """By selector: bool ``[images, patches]``, the patch is alive behind it."""
        count, patches = len(self.patches), self.geometry.num_patches
        origin = torch.arange(-1, patches).expand(count, -1).clone()  # -1: class token
        out = {}
        for node in self.graph.nodes:
            if not isinstance(node.params, TokenSelectParams):
                continue
            x, score = (self.edges[e] for e in node.inputs)
            tokens = x.data.shape[1]
            padded = torch.full((count, tokens), -2)
            padded[:, : origin.shape[1]] = origin[:, :tokens]
            keep, _ = decide(x, score, node.params.topk)
            order = (~keep).long().sort(dim=1, stable=True).indices
            moved = torch.gather(padded, 1, order)
            origin = torch.where(torch.arange(tokens) < keep.sum(1, keepdim=True), moved, -2)
            alive = torch.zeros(count, patches + 2, dtype=torch.bool)
            alive.scatter_(1, origin + 2, True)
            out[node.name] = alive[:, 2:]
        return out

    def macs(self) -> dict[str, float]:
        """MACs per image of the matrices and attention: dense network, and really executed."""
        dense = executed = 0.0
        for node in self.graph.nodes:
            if node.core not in ("nm_matmul", "attention"):
                continue
            p = node.params
            lengths = self.edges[node.inputs[0]].length
            executed += float(sum(p.macs(int(t)) for t in lengths)) / len(lengths)
            if node.name.startswith("selector"):
                continue  # a dense network has no selectors
            full = self.graph.max_tokens(node.inputs[0])
            plain = (
                {"n": 1, "m": 1, "simd": 1} if node.core == "nm_matmul" else {"n": p.to_dict()["m"]}
            )
            dense += dataclasses.replace(p, **plain).macs(full)
        return {"dense": dense, "executed": round(executed, 1)}

    def result(self) -> dict[str, Any]:
        tested = {k: v.length[: len(self.rtl.out_last)] for k, v in self.edges.items()}
        first = {k: int(v.length[0]) for k, v in self.edges.items()}
        used, budget = fold.total(self.graph), self.board.budget()
        kept = self.kept
        where = {
            "QONNX": "model.onnx",
            "Graph": "graph/graph.json",
            "HLS project": "hls",
            "RTL top": f"rtl/{self.graph.name}.sv",
            "report": "report.html",
        }
        return {
            "model": self.recipe.name,
            "board": self.board.name,
            "clock_mhz": self.board.clock_mhz,
            "accuracy": {**self.accuracy, "images": len(self.patches)},
            "equal": self.equal,
            "cycles": {
                "ii": round(self.ii, 1),
                "latency": self.latency,
                "ii_predicted": round(fold.interval(self.graph, tested)[0], 1),
                "latency_predicted": round(fold.latency(self.graph, first)),
            },
            "fps": round(self.board.clock_mhz * 1e6 / self.ii),
            "resources": {
                **{k: round(v, 1) for k, v in dataclasses.asdict(used).items()},
                "source": "model calibrated on open synthesis of each core (docs/resources.md)",
            },
            "budget": {k: round(v, 1) for k, v in dataclasses.asdict(budget).items()},
            "tokens": {
                "patches": self.geometry.num_patches,
                "stages": [round(v.sum(1).double().mean().item(), 3) for v in kept.values()],
            },
            "macs": self.macs(),
            "vendor": self.vendor,
            "time": self.times,
            "artefacts": {k: str(self.folder / v) for k, v in where.items()},
        }

    def details(self) -> ReportDetails:
        kept = self.kept
        index = [
            int((self.data.test_labels == c).nonzero()[0]) for c in range(len(self.data.classes))
        ][:10]
        budget = self.board.budget()
        names = [n.name for n in self.graph.nodes]
        ends = self.rtl.out_last
        lengths = {k: v.length[: len(ends)] for k, v in self.edges.items()}
        taps = [name for name, _, _ in runner.codegen.taps(self.graph)]
        cores = []
        for node in self.graph.nodes:
            r = node.params.resources()
            cycles = fold.mean_cycles(node.params, lengths[node.inputs[0]])
            shares = [u / b for u, b in zip(r.astuple(), budget.astuple(), strict=True) if b]
            cores.append(
                {
                    "name": node.name,
                    "core": node.core,
                    "folding": " ".join(f"{k}={v}" for k, v in fold.describe(node.params).items()),
                    "cycles_predicted": round(cycles, 1),
                    "cycles_measured": self.measured(node.name, taps, lengths),
                    "utilisation": cycles / self.ii,
                    "lut": r.lut,
                    "ff": r.ff,
                    "dsp": r.dsp,
                    "bram36": r.bram36,
                    "share": max(shares),
                }
            )
        window = min(len(self.rtl.fire), ends[min(5, len(ends) - 1)] + 1)
        columns = [taps.index(n) for n in names]
        return ReportDetails(
            images=self.data.test_images[index],
            levels=self.data.levels,
            grid=self.geometry.grid,
            labels=self.data.test_labels[index].tolist(),
            predictions=self.edges[self.graph.output.name].data[index, 0].argmax(1).tolist(),
            classes=self.data.classes,
            alive={k: v[index] for k, v in kept.items()},
            kept={k: v.sum(1) for k, v in kept.items()},
            fires=self.rtl.fire[:window][:, columns],
            edges=names,
            frame_ends=[e for e in ends if e < window],
            cores=cores,
        )

    def measured(self, name: str, taps: list[str], lengths: dict[str, Tensor]) -> float | None:
        """Mean cycles from a frame's first to its last beat on a node's output, both counted."""
        cycles = self.rtl.fire[:, taps.index(name)].nonzero()[0]
        beats = self.graph.port_of(name).beats
        ends = (lengths[name] * beats).cumsum(0)
        if not len(ends) or len(cycles) < int(ends[-1]):
            return None
        begins = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        span = cycles[ends.numpy() - 1] - cycles[begins.numpy()] + 1
        return float(span.mean().round(1))


def check_equal(equal: dict[str, dict[str, Any]]) -> None:
    """Raise BuildError unless every pair was compared and is equal."""
    for pair in ("qat_qonnx", "qonnx_graph", "graph_hls", "graph_rtl"):
        found = equal.get(pair, {"images": 0, "mismatches": 0})
        if not found["images"]:
            raise BuildError(f"{pair} was not compared; run the whole build again")
        if found["mismatches"]:
            raise BuildError(
                f"{pair}: {found['mismatches']} of {found['images']} images differ; "
                "the lines above name the first edge, token and channel"
            )


def frames_differ(want: Stream, got: Stream) -> Tensor:
    """bool ``[images]``: the frame differs or is missing."""
    out = torch.ones(len(want.length), dtype=torch.bool)
    for i in range(min(len(want.length), len(got.length))):
        out[i] = not torch.equal(want.frame(i), got.frame(i))
    return out


def _one(x: Stream, i: int) -> Stream:
    return Stream(x.data[i : i + 1], x.length[i : i + 1], x.package[i : i + 1])


def _slice(x: Stream, count: int) -> Stream:
    return Stream(x.data[:count], x.length[:count], x.package[:count])


def _sources_digest(*folders: str) -> str:
    """SHA-256 over the Python files of the given subpackages."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def load_result(folder: Path) -> dict[str, Any]:
    """The report of an earlier build. Raises BuildError if there is none."""
    path = folder / "report.json"
    if not path.is_file():
        raise BuildError(f"no report in {folder}; build first: sievit build")
    return json.loads(path.read_text())
