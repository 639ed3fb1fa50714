# SPDX-License-Identifier: Apache-2.0
"""The comparison of pruned variants, on a small network in the same format."""

from __future__ import annotations

import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hgpipe_network import Network
from rich.console import Console

from sievit.boards import board as boards
from sievit.boards.board import Board
from sievit.flow import bench_deit as bench
from sievit.flow.build import load_result
from sievit.flow.imported import ImportedBuild
from sievit.models import hgpipe, variants
from sievit.models.variants import Variant
from sievit.quant import fold
from sievit.quant.roll import roll, rolled_lengths
from sievit.rtl import synth
from sievit.sim.throughput import Measured

BOARD = dataclasses.replace(boards.load("zcu102"), lut=90_000)


@dataclasses.dataclass
class Bench:
    """A folder with a network and a copy of the document; ``row`` is one of the results."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, seed: int, **sizes: int) -> Bench:
        np.savez(folder / "small.npz", **Network(seed, **sizes).a)  # type: ignore[arg-type]
        shutil.copy(bench.DOCUMENT, folder / "deit.md")
        return cls(folder)

    def run(self, board: Board = BOARD, only: tuple[str, ...] = (), **more: Any) -> Any:
        given = {"simulate": False, "cores": False, "largest": 0, "frames": 3, **more}
        return bench.run(
            self.folder / "small.npz", board, only, folder=self.folder / "build",
            console=Console(file=io.StringIO(), width=200), document=self.folder / "deit.md",
            **given,
        )  # fmt: skip

    @property
    def text(self) -> str:
        return (self.folder / "deit.md").read_text()

    def row(self, start: str) -> list[str]:
        line = next(t for t in self.text.splitlines() if t.startswith(f"| {start} "))
        return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.slow
def test_folded(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, table and picture; a second run does nothing again but for another board."""
    made = Bench.make(tmp_path, seed, tokens=12, pixels=16, channels=48, hidden=48, blocks=4)
    assert set(made.run(only=("dense",))) == {"dense"}
    assert made.row("deit_tiny_2_4_pruned")[1] == "not run"
    records = made.run(only=("2_4_pruned", "4_16_pruned"))
    assert list(records) == ["dense", "2_4_pruned", "4_16_pruned"]
    for name, record in records.items():
        assert not record["refused"] and not record["measured"]
        assert made.row(f"deit_tiny_{name}")[1:3] == ["-", f"{record['design']['ii']:,}"]
        assert 0 < record["design"]["macs"] <= record["design"]["products"] * record["design"]["ii"]
    # half and a quarter of the weights, fewer tokens
    macs = {name: record["design"]["macs"] for name, record in records.items()}
    assert macs["4_16_pruned"] < macs["2_4_pruned"] < macs["dense"]
    svg = (tmp_path / "deit.svg").read_text()
    assert "<svg" in svg and bench.picture(records, BOARD) == svg

    alone = {"period": 7_654_321, "total": 0, "first": 0, "last": 0}
    monkeypatch.setattr(bench, "equal_frames", lambda p, tokens: Measured(**alone))
    records = made.run(only=("4_16_pruned",), cores=True)
    measured = {c["name"]: c["tokens"] for c in records["4_16_pruned"]["alone"]}
    assert len(measured) == 20 and measured["blocks_0_attn_q"] == 12
    assert measured["blocks_3_mlp_fc2"] == 5 + 1  # 35 % of 12 tokens, and a package token
    assert "| blocks_3_attn_attention |" in made.text and "7,654,321" in made.text

    def redone(self: object) -> None:
        raise AssertionError("done again")

    monkeypatch.setattr(ImportedBuild, "front", redone)
    names = tuple(records)
    assert made.run(only=names) == records
    with pytest.raises(AssertionError, match="done again"):
        made.run(dataclasses.replace(BOARD, clock_mhz=200), names)


def test_every_pass_of_a_loop_counts(tmp_path: Path, seed: int) -> None:
    """As a network with cores of its own for every layer: multiplications, tokens, proportions."""
    sizes = {"tokens": 12, "pixels": 16, "channels": 48, "hidden": 48, "blocks": 4}
    np.savez(tmp_path / "small.npz", **Network(seed, **sizes).a)  # type: ignore[arg-type]
    graph = variants.make(hgpipe.load(tmp_path / "small.npz"), "2_4_pruned").graph
    lengths = {e: torch.tensor([graph.max_tokens(e)]) for e in graph.edges()}
    rolled = roll(graph)
    own = rolled_lengths(rolled, lengths)
    designs = [
        (fold.fold(g, BOARD.budget(), n, 1e4), n) for g, n in ((graph, lengths), (rolled, own))
    ]
    plain, shared = (bench.describe(*design) for design in designs)
    assert shared["macs"] == plain["macs"] and len(shared["cores"]) < len(plain["cores"])
    many, few = (bench.proportion(*design) for design in designs)
    assert len(many) == len(few)
    kinds = [sorted((r["stage"], r["core"], r["tokens"]) for r in rows) for rows in (many, few)]
    assert kinds[0] == kinds[1] and {r["stage"] for r in few} == {0, 1, 2, 3}


def test_a_variant_that_does_not_fit_is_a_row(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it would take is in the page, and what open synthesis makes of its largest cores."""
    made = Bench.make(tmp_path, seed, tokens=9, channels=16 * 3, hidden=48, blocks=4)
    board = dataclasses.replace(BOARD, lut=9_000)
    records = made.run(board, only=("4_16_pruned",), largest=1)
    assert made.row("deit_tiny_4_16_pruned")[1] == "does not fit"
    assert "`deit_tiny_4_16_pruned`: no design fits; the nearest one asks for lut " in made.text
    assert records["4_16_pruned"]["aim"]["ii"] <= bench.AIM
    assert "### deit_tiny_4_16_pruned, II 30,000 or less, any size" in made.text
    ((core, found),) = records["4_16_pruned"]["synthesis"].items()
    known = {c["name"]: c for c in records["4_16_pruned"]["aim"]["cores"]}
    assert known[core]["lut"] == max(c["lut"] for c in known.values())
    assert found["predicted"]["lut"] == pytest.approx(known[core]["lut"], abs=0.05)
    assert found["found"]["dsp"] == known[core]["dsp"] and found["found"]["lut"] > 0
    row = f"| deit_tiny_4_16_pruned | {core} | {found['found']['lut']:,.0f} |"
    assert row in " ".join(made.text.split())

    def refused(*given: object) -> None:
        raise synth.SynthesisError("yosys failed (-9):\nout of memory")

    monkeypatch.setattr(synth, "synthesise", refused)
    made.run(board, only=("4_16_pruned",), largest=2)
    assert row in " ".join(made.text.split()) and made.text.count("yosys failed") == 1
    assert "<svg" in (tmp_path / "deit.svg").read_text()


@pytest.mark.slow
def test_measured(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through Verilator: the report of a build, the measured interval, a core alone."""
    monkeypatch.setattr(variants, "VARIANTS", {"tiny": Variant((2, 4), (2, 4), (60,))})
    made = Bench.make(tmp_path, seed, tokens=9, blocks=2)
    (record,) = made.run(simulate=True).values()
    result = load_result(tmp_path / "build" / "zcu102" / "deit_tiny_tiny")
    assert result["equal"]["graph_rtl"] == {"images": 3, "mismatches": 0, "stalled": 0}
    assert record["measured"]["ii"] == result["cycles"]["ii"]
    assert record["measured"]["latency"] == result["cycles"]["latency"]
    row = made.row("deit_tiny_tiny")
    assert row[1] == "3" and row[3] == f"{record['measured']['ii']:,.0f}"
    assert abs(record["measured"]["ii"] - record["design"]["ii"]) <= 0.2 * record["design"]["ii"]
