# SPDX-License-Identifier: Apache-2.0
"""The whole road for the small network: built, proven, reported; and the proof finds faults."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Tiny
from rich.console import Console

from sievit.boards import board as boards
from sievit.boards.board import Board
from sievit.flow import build as flow
from sievit.flow.build import Build, BuildError, check_equal, frames_differ
from sievit.flow.trained import TrainedBuild
from sievit.quant.graph import Graph
from sievit.quant.params import Stream
from sievit.sim import runner

IMAGES = 12
PAIRS = ("qat_qonnx", "qonnx_graph", "graph_hls", "graph_rtl")


def small_board() -> Board:
    """Few LUTs: little parallelism, and a simulation that compiles fast."""
    return dataclasses.replace(boards.load("zcu102"), lut=52_000)


def make(tiny: Tiny, folder: Path, log: io.StringIO) -> Build:
    return TrainedBuild(
        name=tiny.recipe.name,
        recipe=tiny.recipe,
        board=small_board(),
        folder=folder,
        console=Console(file=log, width=300),
        checkpoint=tiny.checkpoint,
        rtl_images=IMAGES,
    )


@dataclasses.dataclass
class Done:
    build: Build
    report: dict[str, Any]
    log: str


@pytest.fixture(scope="module")
def done(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Done:
    log = io.StringIO()
    build = make(tiny, tmp_path_factory.mktemp("e2e") / "build", log)
    return Done(build, build.run(), log.getvalue())


def test_all_pairs_are_equal(done: Done) -> None:
    images = {"qat_qonnx": 360, "qonnx_graph": 360, "graph_hls": 360, "graph_rtl": IMAGES}
    stalled = {"graph_rtl": 2 * IMAGES}
    assert done.report["equal"] == {
        pair: {"images": images[pair], "mismatches": 0, "stalled": stalled.get(pair, 0)}
        for pair in PAIRS
    }


def test_report(done: Done) -> None:
    report = json.loads((done.build.folder / "report.json").read_text())
    assert (report["model"], report["board"], report["clock_mhz"]) == ("tiny", "zcu102", 300)
    accuracy = report["accuracy"]
    assert set(accuracy) == {"float", "qat_dense", "qat_pruned", "integer", "images"}
    assert accuracy["integer"] == accuracy["qat_pruned"] and accuracy["images"] == 360
    assert set(report["equal"]) == set(PAIRS)
    for pair in report["equal"].values():
        assert set(pair) == {"images", "mismatches", "stalled"}
    cycles = report["cycles"]
    assert set(cycles) == {"ii", "latency", "ii_predicted", "latency_predicted"}
    assert cycles["ii"] > 0 and cycles["latency"] > cycles["ii"]
    assert report["fps"] == round(300e6 / done.build.ii)
    assert set(report["resources"]) == {"lut", "ff", "dsp", "bram36", "uram", "source"}
    for key, limit in report["budget"].items():
        assert 0 <= report["resources"][key] <= limit, key
    assert len(report["tokens"]["stages"]) == 2
    assert all(0 < kept < 16 for kept in report["tokens"]["stages"])
    assert 0 < report["macs"]["executed"] < report["macs"]["dense"]
    assert (done.build.folder / "report.html").stat().st_size > 10_000
    assert "All equal" in done.log


def test_prediction_is_near_the_simulation(done: Done) -> None:
    """The interval is a promise of the cost model: at most 1.2 times as many cycles."""
    cycles = done.report["cycles"]
    assert cycles["ii"] <= 1.2 * cycles["ii_predicted"]
    assert cycles["latency"] <= 1.2 * cycles["latency_predicted"]


def test_second_build_reuses_and_repeats(done: Done, tiny: Tiny) -> None:
    """The export is reused; everything generated again is the same bytes."""

    def bytes_of(folder: str) -> dict[str, bytes]:
        root = done.build.folder / folder
        kinds = re.compile(r".*\.(json|npy|sv|hex[0-9a-f]?|hpp|cpp|h)")
        found = [p for p in root.rglob("*") if kinds.fullmatch(p.name) and "obj" not in p.parts]
        return {str(p.relative_to(root)): p.read_bytes() for p in found}

    before = {f: bytes_of(f) for f in ("graph", "rtl", "hls")}
    onnx = (done.build.folder / "model.onnx").read_bytes()
    log = io.StringIO()
    assert make(tiny, done.build.folder, log).run(proof=False) == {}
    assert re.search(r"export +unchanged, reused", log.getvalue())
    assert (done.build.folder / "model.onnx").read_bytes() == onnx
    after = {f: bytes_of(f) for f in before}
    for folder, names in before.items():
        assert len(names) > 1 and after[folder] == names, folder


@pytest.mark.parametrize("node", ["first", "blocks_1_attn_v", "head"])
def test_changed_weight_in_the_hardware_is_found(
    done: Done, tiny: Tiny, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hex digit of one ROM: the simulation differs, and the edge is named."""
    if node == "first":
        node = next(n.name for n in done.build.graph.nodes if n.core == "nm_matmul")
    generate = runner.codegen.generate

    def faulty(graph: Graph, folder: Path) -> Path:
        source = generate(graph, folder)
        path = folder / "mem" / f"{graph.name}.u_{node}.weights.hex0"
        text = path.read_text()
        at = text.index("\n") - 1  # a low digit of the first word: the first weight
        path.write_text(text[:at] + f"{int(text[at], 16) ^ 4:x}" + text[at + 1 :])
        return source

    build = done.build
    equal, log = dict(build.equal), io.StringIO()
    monkeypatch.setattr(build, "equal", equal)
    monkeypatch.setattr(build, "console", Console(file=log, width=300))
    monkeypatch.setattr(runner.codegen, "generate", faulty)
    build.run_rtl()
    assert equal["graph_rtl"]["mismatches"] > 0
    found = re.findall(r"image \d+: edge (\w+), frame 0, token \d+, channel \d+", log.getvalue())
    assert found == [node] * 3, log.getvalue()
    with pytest.raises(BuildError, match=rf"graph_rtl: \d+ of {IMAGES} images differ"):
        check_equal(equal, PAIRS)


def test_fault_in_the_hls_view_is_found(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C-simulation that gives another logit, or a frame less."""
    build, run = done.build, flow.csim.run
    for change, expected in ((1, 1), (0, 360 - 350)):

        def other(
            folder: Path, graph: Graph, x: Stream, taps: bool = False, change: int = change
        ) -> dict[str, Stream]:
            edges = run(folder, graph, x, taps=taps)
            out = edges[graph.output.name]
            if change:
                out.data[0, 0, 0] += len(out.length) == 360 or taps
            elif not taps:
                edges[graph.output.name] = Stream(
                    out.data[:350], out.length[:350], out.package[:350]
                )
            return edges

        equal, log = dict(build.equal), io.StringIO()
        monkeypatch.setattr(build, "equal", equal)
        monkeypatch.setattr(build, "console", Console(file=log, width=300))
        monkeypatch.setattr(flow.csim, "run", other)
        build.run_hls()
        assert equal["graph_hls"]["mismatches"] == expected
        assert ("edge head, frame 0" in log.getvalue()) == bool(change), log.getvalue()
        with pytest.raises(BuildError, match="graph_hls: "):
            check_equal(equal, PAIRS)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_comparison_that_did_not_happen_is_an_error(pair: str) -> None:
    good = {p: {"images": 3, "mismatches": 0, "stalled": 0} for p in PAIRS}
    check_equal(good, PAIRS)
    with pytest.raises(BuildError, match=f"{pair} was not compared"):
        check_equal({k: v for k, v in good.items() if k != pair}, PAIRS)
    with pytest.raises(BuildError, match=f"{pair} was not compared"):
        check_equal(good | {pair: {"images": 0, "mismatches": 0, "stalled": 0}}, PAIRS)
    with pytest.raises(BuildError, match=f"{pair}: 1 of 3 images differ"):
        check_equal(good | {pair: {"images": 3, "mismatches": 1, "stalled": 0}}, PAIRS)


def test_frames_differ() -> None:
    want = Stream.full(torch.arange(24).reshape(4, 2, 3))
    assert frames_differ(want, want).tolist() == [False] * 4
    other = Stream(want.data.clone(), want.length.clone(), want.package)
    other.data[1, 1, 2] += 1
    other.length[2] = 1
    short = Stream(other.data[:3], other.length[:3], other.package[:3])
    assert frames_differ(want, short).tolist() == [False, True, True, True]
