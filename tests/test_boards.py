# SPDX-License-Identifier: Apache-2.0
"""Every board file loads; wrong ones are refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from device_network import TOKENS, network

from sievit.boards import trellis, vivado
from sievit.boards.board import FOLDER, Board, BoardError, load, names
from sievit.boards.interface import interface, load_graph
from sievit.flow.build import folded
from sievit.flow.cli import TOOLCHAINS
from sievit.quant import fold
from sievit.quant.execute import execute
from sievit.quant.params import Stream


def test_first_boards_are_there() -> None:
    zynq = {"zcu102", "zcu104", "kv260", "ultra96v2", "pynq_z2", "vck190"}
    assert zynq | {"ulx3s_85f", "ecpix5_85f"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_board(name: str) -> None:
    board = load(name)
    assert board.name == name == name.lower()
    assert 10 <= board.clock_mhz <= 600 and board.dsp and board.bram36
    prefix = {"ultrascale+": r"xc(zu|k)\d+", "7series": "xc7z", "versal": "xcv", "ecp5": "LFE5U"}
    assert re.match(prefix[board.family], board.part)
    if board.toolchain == "vivado":
        assert board.dma_width in (32, 64, 128, 256, 512)
        assert re.fullmatch(r"[\w.]+:[\w-]+:part0:[\d.]+", board.board_part)
        ps = {"ultrascale+": "zynq_ultra_ps_e", "7series": "processing_system7"}
        assert board.ps == ps.get(board.family, "versal_cips")
    else:
        assert board.baud >= 1_000_000 and board.loader
    text = (FOLDER / f"{name}.toml").read_text()
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    budget, capacity = board.budget().astuple(), board.capacity().astuple()
    assert all(0 <= b <= c for b, c in zip(budget, capacity, strict=True))


def test_budget() -> None:
    board = load("zcu102")
    assert board.capacity().astuple() == (274_080, 548_160, 2_520, 912, 0)
    usable = tuple(round(v, 1) for v in board.budget().astuple())
    assert usable == (191_856, 274_080, 2_016, 729.6, 0)


def test_unknown_board_lists_the_known_ones() -> None:
    with pytest.raises(BoardError, match=r"no board 'zcu111'; known: .*kv260.*zcu102"):
        load("zcu111")
    with pytest.raises(BoardError, match="no board"):
        load("../boards/zcu102")


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            'title = "AMD ZCU102"',
            'colour = "green"\ntitle = "x"',
            "unknown key colour; known: name",
        ),
        ("dsp = 2_520\n", "", "missing key dsp"),
        ("dsp = 2_520", 'dsp = "many"', "dsp = 'many' is not int"),
        ("dsp = 2_520", "dsp = true", "dsp = True is not int"),
        ("dsp = 2_520", "dsp = -1", "dsp = -1 is negative"),
        ("dsp = 2_520", "dsp = 2_520\nusable_dsp = 80", "usable_dsp = 80 is not in 0..1"),
        ("clock_mhz = 300", "clock_mhz = 0", "clock_mhz must be positive"),
        ("ultrascale+", "spartan", "family = 'spartan'; known: ultrascale+, 7series, versal, ecp5"),
        ('name = "zcu102"', 'name = "zcu1O2"', "it must be the file's name, 'zcu102'"),
        ("dsp = 2_520", "dsp 2_520", "not TOML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    text = (FOLDER / "zcu102.toml").read_text()
    assert old in text
    (tmp_path / "zcu102.toml").write_text(text.replace(old, new))
    with pytest.raises(BoardError, match=re.escape(reason)):
        load("zcu102", tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('clk = "G2", ', "", "pins clk: clk, rx, tx are needed, rst_n, high possible, no others"),
        ("rx = ", "receive = ", "pins rx, receive: clk, rx, tx are needed"),
        ('"M1"', '"L4"', "two pins have the same place"),
        ('"M1"', '"pin 4"', "pin rx = 'pin 4' is no place, as G2 is"),
        ('"M1"', "4", "pin rx = 4 is no place, as G2 is"),
        ("baud = 1_000_000\n", "", "toolchain trellis needs baud"),
        ("uram = 0", 'uram = 0\nps = "zynq_ultra_ps_e"', "toolchain trellis has no ps"),
    ],
)
def test_wrong_pins_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    text = (FOLDER / "ulx3s_85f.toml").read_text()
    assert old in text
    (tmp_path / "ulx3s_85f.toml").write_text(text.replace(old, new))
    with pytest.raises(BoardError, match=re.escape(reason)):
        load("ulx3s_85f", tmp_path)


def test_new_file_is_a_new_board(tmp_path: Path) -> None:
    text = (FOLDER / "zcu102.toml").read_text().replace('"zcu102"', '"mine"')
    (tmp_path / "mine.toml").write_text(text + "usable_lut = 0.5\n")
    assert names(tmp_path) == ["mine"]
    board = load("mine", tmp_path)
    assert isinstance(board, Board) and board.budget().lut == 137_040


@pytest.mark.parametrize("name", names())
def test_shell(name: str, tmp_path: Path) -> None:
    """The small network on every board: it fits, and its shell is whole, or the file says why there
    is none."""
    board = load(name)
    graph = network()
    x = Stream.full(torch.zeros(2, TOKENS, 6, dtype=torch.int64))
    lengths = {edge: stream.length for edge, stream in execute(graph, x).items()}
    graph, _ = folded(graph, board, lengths)
    used, budget = fold.total(graph).astuple(), board.budget().astuple()
    assert all(u <= b for u, b in zip(used, budget, strict=True))
    graph.save(tmp_path / "graph")
    interface(graph, tmp_path / "graph").save(tmp_path)
    assert board.toolchain in TOOLCHAINS
    if board.exclude_category:
        assert len(board.exclude_reason.split()) > 3
        with pytest.raises(BoardError, match=f"{name}: no bitstream: "):
            vivado.generate(tmp_path, board)
        return
    if board.toolchain == "vivado":
        folder = vivado.generate(tmp_path, board)
        text = (folder / "settings.tcl").read_text()
        for value in (board.part, board.board_part, board.ps, f"{board.clock_mhz:g}"):
            assert f" {value}\n" in text
        sources = re.search(r"  sources \{(.*)\}", text)
        assert sources and all((folder / "ip" / s).is_file() for s in sources[1].split())
        assert load_graph(tmp_path)[1].build in text
    else:
        folder = tmp_path / "trellis"
        trellis.generate(graph, load_graph(tmp_path)[1], board, folder)
        text = (folder / f"{graph.name}_top.v").read_text()
        ports = re.findall(r"(?:input|output) +wire (\w+)", text)
        assert sorted(ports) == sorted(board.pins) and trellis.Part.of(board)
        lpf = (folder / f"{graph.name}_top.lpf").read_text()
        for port in ports:
            assert f'LOCATE COMP "{port}" SITE "{board.pins[port]}";' in lpf
            assert f'IOBUF PORT "{port}" IO_TYPE={board.io_type}' in lpf
        assert f'FREQUENCY PORT "clk" {board.oscillator_mhz:g} MHZ;' in lpf
        assert (
            lpf.count("LOCATE") == len(ports)
            and f"({trellis.clocks_per_bit(board)})"
            in (folder / f"{graph.name}_device.sv").read_text()
        )


def test_an_exclusion_has_category_and_reason(tmp_path: Path) -> None:
    text = (FOLDER / "vck190.toml").read_text()
    for old, new, reason in (
        ("exclude_reason", "# exclude_reason", "an exclusion needs category and reason"),
        ('"ps"\n', '"mood"\n', "exclude_category = 'mood'; known: ps, toolchain"),
    ):
        (tmp_path / "vck190.toml").write_text(text.replace(old, new))
        with pytest.raises(BoardError, match=reason):
            load("vck190", tmp_path)
