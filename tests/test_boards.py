# SPDX-License-Identifier: Apache-2.0
"""Every board file loads; wrong ones are refused by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sievit.boards.board import FOLDER, Board, BoardError, load, names


def test_first_boards_are_there() -> None:
    assert {"zcu102", "zcu104", "kv260", "ultra96v2", "pynq_z2", "vck190"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_board(name: str) -> None:
    board = load(name)
    assert board.name == name == name.lower()
    assert 50 <= board.clock_mhz <= 600 and board.dma_width in (32, 64, 128, 256, 512)
    assert board.dsp and board.bram36
    prefix = {"ultrascale+": r"xc(zu|k)\d+", "7series": "xc7z", "versal": "xcv"}[board.family]
    assert re.match(prefix, board.part)
    assert re.fullmatch(r"[\w.]+:[\w-]+:part0:[\d.]+", board.board_part)
    ps = {"ultrascale+": "zynq_ultra_ps_e", "7series": "processing_system7"}
    assert board.ps == ps.get(board.family, "versal_cips")
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
        ("ultrascale+", "spartan", "family = 'spartan'; known: ultrascale+, 7series, versal"),
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


def test_new_file_is_a_new_board(tmp_path: Path) -> None:
    text = (FOLDER / "zcu102.toml").read_text().replace('"zcu102"', '"mine"')
    (tmp_path / "mine.toml").write_text(text + "usable_lut = 0.5\n")
    assert names(tmp_path) == ["mine"]
    board = load("mine", tmp_path)
    assert isinstance(board, Board) and board.budget().lut == 137_040
