# SPDX-License-Identifier: Apache-2.0
"""The road from an integer graph to a proven accelerator, step by step."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from sievit.boards.board import Board
from sievit.boards.interface import interface
from sievit.flow.report import ReportDetails, terminal_table, write_report
from sievit.hls import codegen as hls_codegen
from sievit.hls import csim
from sievit.quant import fold
from sievit.quant.cores.token_select import TokenSelectParams, decide
from sievit.quant.errors import SievitError
from sievit.quant.execute import first_difference
from sievit.quant.graph import Graph
from sievit.quant.params import Stream
from sievit.quant.roll import roll, rolled_edges, rolled_lengths
from sievit.sim import runner


class BuildError(SievitError):
    """The build found something wrong: a mismatch, or a comparison that did not happen."""


@dataclass(kw_only=True)
class Build(ABC):
    """One build of one model for one board; artefacts in ``folder``.

    The steps run in order; each prints a line and its time. Everything that a later step needs from
    an earlier one is an attribute. A subclass says where the graph comes from: ``front`` sets
    ``graph``, unfolded, ``x``, the images to compare, ``edges``, what the graph gives for them, and
    ``lengths``, those of typical frames on every edge.
    """

    #: comparisons of ``front``, as in report.PAIRS
    PAIRS: ClassVar[tuple[str, ...]] = ()

    name: str
    board: Board
    folder: Path
    console: Console
    #: images simulated in RTL, back to back, without stalls and with each kind of them
    rtl_images: int = 64
    stalled_images: int = 64
    #: stop folding at this many images per second; 0 = as fast as fits
    fps: float = 0.0
    seed: int = 1
    #: stall profiles of the RTL simulations; the first is none, which the cycles are taken from
    stalls: tuple[str, ...] = ("none", "both", "bursts")
    times: dict[str, float] = field(default_factory=dict)
    equal: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: top-1 on the test split by network, as shares
    accuracy: dict[str, float] = field(default_factory=dict)
    graph: Graph = field(init=False)
    x: Stream = field(init=False)
    edges: dict[str, Stream] = field(init=False)
    lengths: dict[str, Tensor] = field(init=False)
    #: shows a line of text while a step runs
    show: Callable[[str], object] = field(init=False)

    @property
    def pairs(self) -> tuple[str, ...]:
        """All comparisons that a build makes."""
        return (*self.PAIRS, "graph_hls", "graph_rtl")

    @property
    def target_ii(self) -> float:
        """Cycles per image that ``fps`` asks for; 0 without."""
        return self.board.clock_mhz * 1e6 / self.fps if self.fps else 0.0

    @abstractmethod
    def front(self) -> None:
        """Make the integer graph and compare it with where it comes from."""

    @abstractmethod
    def frames(self) -> Stream:
        """The images to compare, without any of the steps."""

    def pictures(self) -> dict[str, Any]:
        """Fields of ReportDetails that show images."""
        return {}

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, str]]:
        """Announce a step, time it, print what it found."""
        note: dict[str, str] = {"text": ""}
        begin = time.monotonic()
        with self.console.status(f"{name} ...") as status:
            self.show = status.update
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
        self.front()
        self.fold()
        self.generate()
        if not proof:
            return {}
        self.run_hls()
        self.run_rtl()
        return self.finish()

    # -- steps -----------------------------------------------------------------------------------
    def fold(self) -> None:
        with self.step("fold") as note:
            ii = self.target_ii
            if self.fps:  # told before the search
                self.check_speed(*fold.fastest(self.graph, self.lengths, self.board.device()))
            self.graph, self.lengths = folded(self.graph, self.board, self.lengths, ii)
            self.edges = rolled_edges(self.graph, self.edges)
            predicted, slowest = fold.interval(self.graph, self.lengths)
            note["text"] = f"II {predicted:.0f} cycles predicted, set by {slowest}"
            for loop in self.graph.loops:
                note["text"] += f"; {loop.passes} layers share {loop.name}"
            self.check_speed(predicted, slowest)
            part = self.folder / "graph.part"
            shutil.rmtree(part, ignore_errors=True)
            self.graph.meta["board"] = self.board.name
            self.graph.save(part)
            shutil.rmtree(self.folder / "graph", ignore_errors=True)
            os.replace(part, self.folder / "graph")

    def check_speed(self, cycles: float, slowest: str) -> None:
        """Raise BudgetError if ``fps`` asks for more than that interval, in cycles, gives."""
        if self.fps and self.board.clock_mhz * 1e6 / cycles < self.fps:
            raise fold.BudgetError(
                f"{self.fps:.0f} images/s need an II of {self.target_ii:.0f} cycles, {slowest} "
                f"allows {cycles:.0f}; lower --fps or choose a larger board"
            )

    def unrolled(self) -> tuple[Graph, float, str]:
        """(graph folded with cores of its own for every layer, its predicted interval, the node
        that sets it), for back ends that know no loops."""
        # nor a second clock
        device = dataclasses.replace(self.board.device(), pump=1)
        budget = self.board.budget()
        graph = fold.fold(self.graph, budget, self.lengths, self.target_ii, device)
        return (graph, *fold.interval(graph, self.lengths))

    def generate(self) -> None:
        with self.step("generate") as note:
            few = first(self.x, 8)
            hls_codegen.generate(self.graph, self.folder / "hls", self.board, few)
            runner.codegen.generate(self.graph, self.folder / "rtl")
            interface(self.graph, self.folder / "graph").save(self.folder)
            note["text"] = "Vitis HLS project and SystemVerilog top"

    def run_hls(self) -> None:
        out = self.graph.output.name
        with self.step("HLS compile") as note:
            csim.compile(self.folder / "hls")
            note["text"] = "g++ -Wall -Wextra -Werror"
        with self.step("HLS csim") as note:
            x = self.x
            got = csim.run(self.folder / "hls", self.graph, x)[out]
            wrong = frames_differ(self.edges[out], got)

            def locate(i: int) -> str:
                edges = csim.run(self.folder / "hls", self.graph, one(x, i), taps=True)
                return self.locate(i, edges)

            note["text"] = self.compare("graph_hls", wrong, locate)
        self.vendor: dict[str, Any] = {}
        if self.board.toolchain != "vivado":
            return
        with self.step("Vitis HLS") as note:
            found = csim.synthesis(self.folder / "hls")
            self.vendor = found if isinstance(found, dict) else {"Vitis HLS": found}
            missing = "not installed: what it would run stands below"
            note["text"] = missing if isinstance(found, str) else "csynth report read"

    def run_rtl(self) -> None:
        folder, out = self.folder / "rtl", self.graph.output.name
        count = min(self.rtl_images, len(self.x.length))
        x = first(self.x, count)
        golden = first(self.edges[out], count)
        with self.step("RTL compile") as note:
            runner.build_graph(self.graph, folder)
            note["text"] = "Verilator"
        wrong = torch.zeros(count, dtype=torch.bool)
        stalled = 0
        for stall in self.stalls:
            with self.step(f"RTL {stall}") as note:
                record = stall == "none"
                few = count if record else min(count, self.stalled_images)
                result = runner.run_graph(
                    self.graph, folder, first(x, few), stall, self.seed, record=record
                )
                differ = frames_differ(first(golden, few), result.output)
                for edge, got in result.edges.items():
                    frames = frames_differ(self.images(edge, 0, few), got)
                    differ |= frames.reshape(few, -1).any(1)
                wrong[:few] |= differ
                stalled += 0 if record else few
                note["text"] = f"{few} images, {int(differ.sum())} mismatches"
                if record:
                    self.rtl = result
                    note["text"] += f"; {len(result.edges)} edges compared"
                if bool(differ.any()):
                    i = int(differ.nonzero()[0])
                    edges = runner.run_graph(self.graph, folder, one(x, i), stall).edges
                    note["text"] += f"; {self.locate(i, edges)}"
        self.compare("graph_rtl", wrong, None, stalled)
        self.ii = interval(self.rtl, max([p.in_flight for p in self.graph.loops], default=0))
        self.latency = latency(self.rtl)

    def finish(self) -> dict[str, Any]:
        with self.step("report") as note:
            self.kept = self.stages()
            result = self.result()
            write_report(result, self.graph, self.details(), self.folder)
            note["text"] = str(self.folder / "report.html")
        self.console.print()
        self.console.print(terminal_table(result))
        check_equal(self.equal, self.pairs)
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

    def images(self, edge: str, start: int, end: int) -> Stream:
        """The golden frames of some images on an edge; inside a loop every image has several."""
        passes = self.graph.passes(edge)
        return self.edges[edge].pick(slice(start * passes, end * passes))

    def locate(self, i: int, edges: dict[str, Stream]) -> str:
        """First edge, token and channel at which image ``i`` differs from the golden Graph."""
        golden = {k: self.images(k, i, i + 1) for k in self.edges}
        found = first_difference(self.graph, golden, edges)
        return f"image {i}: {found or 'equal when run alone: the difference needs other frames'}"

    # -- report ----------------------------------------------------------------------------------
    def stages(self) -> dict[str, Tensor]:
        """By selector: bool ``[images, patches]``, the patch is alive behind it."""
        count, patches = len(self.x.length), self.graph.input_tokens
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
        whole = {Graph.INPUT: self.graph.input_tokens}  # tokens that nothing was selected of
        for node in self.graph.nodes:
            for loop in self.graph.loops:
                whole[loop.name] = whole.get(loop.input, 0)
                whole |= dict.fromkeys(loop.exits, whole.get(loop.back, 0))
            passes = self.graph.passes(node.name)
            whole[node.name] = node.params.out_tokens(whole[node.inputs[0]])
            if node.core not in ("nm_matmul", "attention"):
                continue
            p = node.params
            lengths = self.edges[node.inputs[0]].length
            executed += float(sum(p.macs(int(t)) for t in lengths)) / len(self.x.length)
            if node.name.startswith("selector"):
                continue  # a dense network has no selectors
            full = whole[node.inputs[0]]
            plain = (
                {"n": 1, "m": 1, "simd": 1} if node.core == "nm_matmul" else {"n": p.to_dict()["m"]}
            )
            dense += passes * dataclasses.replace(p, **plain).macs(full)
        return {"dense": dense, "executed": round(executed, 1)}

    def result(self) -> dict[str, Any]:
        tested = {k: self.images(k, 0, len(self.rtl.out_last)).length for k in self.edges}
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
            "model": self.name,
            "board": self.board.name,
            "clock_mhz": self.board.clock_mhz,
            "accuracy": {**self.accuracy, "images": len(self.x.length)},
            "pairs": list(self.pairs),
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
            # FIFOs of beats: of frames that return, that come from outside, from each detour
            "loops": [
                {
                    "name": loop.name,
                    "layers": loop.passes,
                    "frames_in_flight": loop.in_flight,
                    "fifos": [
                        {"depth": depth, "most": self.rtl.fifos.get((loop.name, i))}
                        for i, depth in enumerate((loop.depth, *loop.entry_depths), -1)
                    ],
                }
                for loop in self.graph.loops
            ],
            "tokens": {
                "patches": self.graph.input_tokens,
                "stages": [round(v.sum(1).double().mean().item(), 3) for v in kept.values()],
            },
            "macs": self.macs(),
            "vendor": self.vendor,
            "time": self.times,
            "artefacts": {
                k: str(self.folder / v) for k, v in where.items() if (self.folder / v).exists()
            },
        }

    def details(self) -> ReportDetails:
        budget = self.board.budget()
        names = [n.name for n in self.graph.nodes]
        ends = self.rtl.out_last
        lengths = {k: self.images(k, 0, len(ends)).length for k in self.edges}
        cores = []
        for node in self.graph.nodes:
            r = node.params.resources()
            passes = self.graph.passes(node.name)
            cycles = passes * fold.mean_cycles(node.params, lengths[node.inputs[0]])
            shares = [u / b for u, b in zip(r.astuple(), budget.astuple(), strict=True) if b]
            cores.append(
                {
                    "name": node.name,
                    "core": node.core,
                    "folding": " ".join(f"{k}={v}" for k, v in fold.describe(node.params).items()),
                    "cycles_predicted": round(cycles, 1),
                    "cycles_measured": self.measured(node.name, lengths),
                    "utilisation": cycles / self.ii,
                    "lut": r.lut,
                    "ff": r.ff,
                    "dsp": r.dsp,
                    "bram36": r.bram36,
                    "share": max(shares),
                    "fifos": ", ".join(
                        f"{self.rtl.fifos[node.name, i]} of {depth or self.graph.burst(e, p, 0)}"
                        for i, (depth, e, p) in enumerate(
                            zip(node.depths, node.inputs, node.params.inputs(), strict=True)
                        )
                        if (node.name, i) in self.rtl.fifos
                    ),
                }
            )
        window = min(self.rtl.cycles, ends[min(5, len(ends) - 1)] + 1)
        fires = np.zeros((window, len(names)), bool)
        for i, edge in enumerate(names):
            at = self.rtl.at[edge]
            fires[at[at < window], i] = True
        return ReportDetails(
            **self.pictures(),
            kept={k: v.sum(1) for k, v in self.kept.items()},
            fires=fires,
            edges=names,
            frame_ends=[e for e in ends if e < window],
            cores=cores,
        )

    def measured(self, name: str, lengths: dict[str, Tensor]) -> float | None:
        """Mean cycles from a frame's first to its last beat on a node's output, both counted, over
        all its passes."""
        cycles = self.rtl.at[name]
        beats = self.graph.port_of(name).beats
        ends = (lengths[name] * beats).cumsum(0)
        if not len(ends) or len(cycles) < int(ends[-1]):
            return None
        begins = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1]])
        span = cycles[ends.numpy() - 1] - cycles[begins.numpy()] + 1
        return float((self.graph.passes(name) * span.mean()).round(1))


#: how much slower a loop is whose passes are not levelled out (4:16 pruned DeiT-Tiny: 44,400 cycles
#: instead of 38,500)
UNLEVEL = 1.15


def folded(
    graph: Graph, board: Board, lengths: fold.Lengths, ii: float = 0.0
) -> tuple[Graph, dict[str, Tensor]]:
    """The fastest of some designs: all layers side by side, or equal blocks on one (``roll``), then
    with FIFOs that level out its passes or without; and the lengths of frames on its edges. Raises
    BudgetError if none fits the board."""
    rolled = roll(graph)
    designs = [(rolled, True)]
    if any(loop.detours for loop in rolled.loops):
        designs.append((rolled, False))
    if rolled is not graph:
        designs.append((graph, True))
    fastest = math.inf
    best: tuple[Graph, dict[str, Tensor]] | None = None
    refusal: fold.BudgetError | None = None
    for plain, level in designs:
        own, slower = rolled_lengths(plain, lengths), 1.0 if level else UNLEVEL
        # what is fast enough needs no loop
        most = max(fastest, ii) / slower
        try:
            design = fold.fold(
                plain, board.budget(), own, ii, board.device(), level=level, most=most
            )
        except fold.BudgetError as error:
            if plain is rolled:  # the smaller one, without FIFOs that level out last
                refusal = error
            continue
        predicted = fold.interval(design, own)[0] * slower
        if predicted < fastest or (plain is graph and predicted <= ii):
            fastest, best = predicted, (design, own)
    if best is None:
        assert refusal
        raise refusal
    return best


def check_equal(equal: dict[str, dict[str, Any]], pairs: Sequence[str]) -> None:
    """Raise BuildError unless every pair was compared and is equal."""
    for pair in pairs:
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


def interval(result: runner.RtlResult, in_flight: int = 0) -> float:
    """Mean cycles between the ends of frames once the pipeline is full.

    With a loop, which the last frames have to themselves, of those that end while others come, if
    there are enough. Its ``in_flight`` frames end at different distances, often a longer and a
    shorter one in turn: it is the slope of a line through an odd number of ends.
    """
    ends = result.out_last
    if in_flight:
        busy = [e for e in ends if e <= result.in_last[-1]]
        ends = busy if len(busy) > in_flight else ends
    count = len(ends) - 1 - min(8, len(ends) // 4)
    if in_flight and count >= 2:
        steady = ends[-1 - count + count % 2 :]
        return float(np.polyfit(np.arange(len(steady)), steady, 1)[0])
    return (ends[-1] - ends[-1 - count]) / max(1, count)


def latency(result: runner.RtlResult) -> int:
    """Cycles from the first input beat to the last output beat of the first frame, both counted."""
    return result.out_last[0] - result.in_first[0] + 1


def one(x: Stream, i: int) -> Stream:
    return x.pick(slice(i, i + 1))


def first(x: Stream, count: int) -> Stream:
    return x.pick(slice(count))


def load_result(folder: Path) -> dict[str, Any]:
    """The report of an earlier build. Raises BuildError if there is none."""
    path = folder / "report.json"
    if not path.is_file():
        raise BuildError(f"no report in {folder}; build first: sievit build")
    return json.loads(path.read_text())
