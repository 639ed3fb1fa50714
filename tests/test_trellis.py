# SPDX-License-Identifier: Apache-2.0
"""ECP5: what is generated from the board's data, and the netlist of ECP5 cells against the RTL."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from sievit.boards import trellis
from sievit.boards.board import BoardError, load
from sievit.boards.interface import interface
from sievit.boards.uart import UartDevice
from sievit.flow.build import Build
from sievit.quant.execute import execute
from sievit.quant.graph import Graph, Node
from sievit.quant.params import Stream, load_core
from sievit.quant.tools import ToolError
from sievit.rtl import synth, whole
from sievit.sim import uart as pins

BOARD = load("ulx3s_85f")


@pytest.mark.parametrize(
    ("part", "device", "speed", "package"),
    [
        ("LFE5U-85F-6BG381C", "85k", 6, "CABGA381"),
        ("LFE5UM5G-85F-8BG554I", "um5g-85k", 8, "CABGA554"),
        ("LFE5UM-45F-7MG285C", "um-45k", 7, "CSFBGA285"),
    ],
)
def test_part(part: str, device: str, speed: int, package: str) -> None:
    assert trellis.Part.of(replace(BOARD, part=part)) == trellis.Part(device, speed, package)


def test_unknown_part() -> None:
    with pytest.raises(BoardError, match="'LFE5U-85F-9BG381C' is no ECP5"):
        trellis.Part.of(replace(BOARD, part="LFE5U-85F-9BG381C"))


@pytest.mark.parametrize(("have", "want"), [(25, 50), (100, 25), (25, 62.5), (48, 30), (12, 40)])
def test_pll_makes_the_clock(have: float, want: float) -> None:
    pll = trellis.Pll.of(replace(BOARD, oscillator_mhz=have, clock_mhz=want))
    assert pll is not None
    assert have / pll.reference * pll.feedback == pytest.approx(want)
    assert 400 <= want * pll.output <= 800 and have / pll.reference >= 3.125


def test_clocks_that_no_pll_makes() -> None:
    assert trellis.Pll.of(replace(BOARD, clock_mhz=25)) is None
    with pytest.raises(BoardError, match=r"no PLL makes 26.123 MHz of 25 MHz; change clock_mhz"):
        trellis.Pll.of(replace(BOARD, clock_mhz=26.123))


def test_bit_rate() -> None:
    assert trellis.clocks_per_bit(replace(BOARD, clock_mhz=25, baud=1_000_000)) == 25
    with pytest.raises(BoardError, match=r"25 MHz make no 3500000 baud: 7\.14 cycles"):
        trellis.clocks_per_bit(replace(BOARD, clock_mhz=25, baud=3_500_000))


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trellis.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolError, match=r'is not installed; run: pip install -e "\.\[ecp5\]"'):
        trellis.check_tools()


def test_failed_tool_shows_its_last_messages(tmp_path: Path) -> None:
    lines: list[str] = []
    command = [trellis.sys.executable, "-c", "print('no such cell'); raise SystemExit(3)"]
    with pytest.raises(ToolError, match=r"nextpnr: failed \(3\); its messages: .*\nno such cell"):
        trellis.run(command, "", tmp_path, tmp_path / "nextpnr.log", lines.append)
    assert all(line.startswith("nextpnr 0:") for line in lines)


def test_tool_shows_its_line_in_a_step(tmp_path: Path) -> None:
    """On a terminal a step shows a line of its own, and rich knows no second one beside it."""
    text = io.StringIO()
    made = SimpleNamespace(console=Console(file=text, force_terminal=True, width=100), times={})
    command = [
        trellis.sys.executable,
        "-c",
        "print('12 cells placed'); import time; time.sleep(1.5)",
    ]
    with Build.step(made, "place, route") as note:  # type: ignore[arg-type]
        trellis.run(command, "", tmp_path, tmp_path / "nextpnr.log", made.show)
        note["text"] = "25 MHz"
    assert "place, route ..." in text.getvalue() and "nextpnr 0:0" in text.getvalue()
    assert list(made.times) == ["place, route"]


def matrix(seed: int) -> Graph:
    """A 2:4 matrix core alone: a token of eight channels, four logits."""
    core, rng = load_core("nm_matmul"), torch.Generator().manual_seed(seed)
    params = core.params(in_channels=8, out_channels=4)
    constants, _ = core.stimuli(rng, params, 2)
    node = Node("matrix", "nm_matmul", params, constants, ("input",))
    return Graph("one_core", params.inputs()[0], 1, 0, [node])


@pytest.mark.slow
def test_netlist_of_core_and_shell_equals_the_rtl(tmp_path: Path, seed: int) -> None:
    """A matrix core behind its serial shell as a netlist of the ECP5 cells that yosys has models of
    (no DP16KD, no MULT18X18D), at the same pins."""
    graph, folder = matrix(seed), tmp_path / "rtl"
    graph.save(tmp_path / "graph")
    face = interface(graph, tmp_path / "graph")
    board = replace(BOARD, clock_mhz=8, oscillator_mhz=8)
    sources = [s.resolve() for s in trellis.generate(graph, face, board, folder)]
    read = whole.read_design(f"{graph.name}_device", sources)
    synth._yosys(
        [
            read,
            # that of the images asks for block RAM
            "setattr -unset ram_style -unset rom_style a:ram_style a:rom_style",
            f"synth_lattice -family ecp5 -nobram -nodsp -top {graph.name}_device",
            "write_verilog -noattr netlist.v",
        ],
        folder,
    )
    cells = set(re.findall(r"^  ([A-Z]\w+) ", (folder / "netlist.v").read_text(), re.M))
    assert {"LUT4", "CCU2C", "TRELLIS_FF", "TRELLIS_DPR16X4"} <= cells
    assert not cells & {"DP16KD", "MULT18X18D"}
    program = pins.build_netlist(folder / "netlist.v", f"{graph.name}_device", tmp_path / "cells")
    line = pins.SimulatedLine(program, folder)
    rng = torch.Generator().manual_seed(seed)
    t = graph.input.itype
    x = torch.randint(t.min, t.max + 1, (12, 1, 8), generator=rng)
    want = execute(graph, Stream.full(x))[graph.output.name].data[:, 0].numpy()
    try:
        device = UartDevice(face, line, 0.004)
        got = face.decode(device.run(face.encode(x.numpy())))
        cells_say = (got.tolist(), device.cycles, device.status())
    finally:
        line.close()
    line = pins.SimulatedLine(pins.build(graph, face, folder), folder)
    try:
        device = UartDevice(face, line, 0.004)
        got = face.decode(device.run(face.encode(x.numpy())))
        assert cells_say == (got.tolist(), device.cycles, device.status())
    finally:
        line.close()
    assert (got == want).all()
