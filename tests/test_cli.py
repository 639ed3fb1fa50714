# SPDX-License-Identifier: Apache-2.0
"""The command as people run it: lists, help, and one-line refusals that leave nothing behind."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from conftest import Tiny
from hgpipe_network import Network
from PIL import Image

from sievit.boards import board as boards
from sievit.flow import cli
from sievit.quant.params import core_names

COMMANDS = (
    "train", "import", "export", "build", "sim", "report", "bench-deit", "boards", "cores", "core",
    "bitstream", "deploy",
)  # fmt: skip


def sievit(
    *arguments: str | Path, cwd: Path, path: str | None = None
) -> subprocess.CompletedProcess[str]:
    """The entry point, in this process: torch alone takes seconds to import in each new one."""
    command = ["sievit", *map(str, arguments)]
    environment = {"COLUMNS": "200", **({} if path is None else {"PATH": path})}
    out, err, status = io.StringIO(), io.StringIO(), 0
    width = cli.CONSOLE.width
    cli.CONSOLE.width = 200
    try:
        with (
            mock.patch.dict(os.environ, environment),
            mock.patch.object(sys, "argv", command),
            warnings.catch_warnings(),
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            cli.main()
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        cli.CONSOLE.width = width
    return subprocess.CompletedProcess(command, status, out.getvalue(), err.getvalue())


def refused(
    *arguments: str | Path, cwd: Path, path: str | None = None, leaves: tuple[str, ...] = ()
) -> str:
    """Exit status 1 and one line; nothing new in the folder but ``leaves``."""
    before = {p.relative_to(cwd) for p in cwd.rglob("*")}
    done = sievit(*arguments, cwd=cwd, path=path)
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("sievit: ") and "Traceback" not in done.stdout
    new = {p.relative_to(cwd) for p in cwd.rglob("*")} - before
    assert {p.name for p in new if (cwd / p).is_file()} == set(leaves), new
    return lines[0]


# -- what works ----------------------------------------------------------------------------------
def test_installed_program(tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "sievit")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = run("--help")
    assert done.returncode == 0 and all(f"\n  {c} " in done.stdout for c in COMMANDS)
    done = run("build", "--board", "moon")
    assert done.returncode == 1 and not list(tmp_path.iterdir())
    assert done.stderr.startswith("sievit: no board 'moon'; known: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, tmp_path: Path) -> None:
    done = sievit(command, "--help", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: sievit {command}")
    assert not done.stderr and not list(tmp_path.iterdir())


def test_boards(tmp_path: Path) -> None:
    done = sievit("boards", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("zcu102", "kv260", "pynq_z2", "ultra96v2", "vck190"):
        assert name in done.stdout and boards.load(name).part in done.stdout
    assert all(name in done.stdout for name in boards.names())


def test_cores(tmp_path: Path) -> None:
    done = sievit("cores", cwd=tmp_path)
    assert done.returncode == 0
    assert len(core_names()) >= 10 and all(f" {n} " in done.stdout for n in core_names())


# -- refusals ------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["build", "export", "sim", "report"])
def test_unknown_board(command: str, tmp_path: Path) -> None:
    text = refused(command, "--board", "zcu111", cwd=tmp_path)
    assert "no board 'zcu111'; known: " in text and "zcu102" in text


@pytest.mark.parametrize("command", ["build", "train", "sim"])
def test_unknown_recipe(command: str, tmp_path: Path) -> None:
    text = refused(command, "--model", "vit_giant", cwd=tmp_path)
    assert "no recipe 'vit_giant'; known: " in text and "heatvit_nm_digits" in text


def test_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[model]\nembed = 48\n")
    text = refused("train", "--model", "mine.toml", cwd=tmp_path)
    assert "mine.toml [model]: unknown key 'embed'; known: depth, embed_dim" in text


def test_missing_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    text = refused("build", "--model", tiny.toml, "--checkpoint", "none.pt", cwd=tmp_path)
    assert text == "sievit: no checkpoint none.pt; train it: sievit train tiny"


def test_truncated_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    data = tiny.checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    text = refused("export", "--model", tiny.toml, "--checkpoint", "cut.pt", cwd=tmp_path)
    assert "cut.pt is damaged" in text and "train it: sievit train tiny" in text


def test_unknown_variant(tmp_path: Path, seed: int) -> None:
    np.savez(tmp_path / "small.npz", **Network(seed).a)  # type: ignore[arg-type]
    text = refused("import", "hgpipe", "small.npz", "--variant", "1_2", cwd=tmp_path)
    assert text.startswith("sievit: no variant '1_2'; known: dense, dense_pruned, 2_4, ")
    text = refused("import", "hgpipe", "small.npz", "--variant", "4_16", cwd=tmp_path)
    assert "blocks_0_attn_q: 16 does not divide its 12 inputs; take a variant of another" in text


def test_comparison_of_a_file_that_is_not_there(tmp_path: Path) -> None:
    text = refused("bench-deit", "none.npz", cwd=tmp_path)
    assert text == "sievit: none.npz: no such file; give the path of the .npz"


def test_import_of_a_variant(tmp_path: Path, seed: int) -> None:
    np.savez(tmp_path / "small.npz", **Network(seed, channels=48, hidden=48).a)  # type: ignore[arg-type]
    done = sievit("import", "hgpipe", "small.npz", "--variant", "4_16", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "now: sievit build --model deit_tiny_4_16" in " ".join(done.stdout.split())
    assert (tmp_path / "build" / "imported" / "deit_tiny_4_16" / "graph").is_dir()


def test_images_that_do_not_divide(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            Image.fromarray(np.full((9, 10), 7, np.uint8)).save(folder / "1.png")
    (tmp_path / "mine.toml").write_text('[data]\nsource = "folder"\npatch_size = 4\n')
    for command in ("train", "build"):
        text = refused(command, "--model", "mine.toml", "--data", "data", cwd=tmp_path)
        assert "patches of 4x4 do not divide pictures of 9x10" in text
        assert "patch_size" in text, "no remedy"


def test_data_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[data]\nsource = "folder"\n')
    text = refused("train", "--model", "mine.toml", "--data", "nowhere", cwd=tmp_path)
    assert "nowhere: no such file or folder; give a folder with" in text


def test_nothing_built(tmp_path: Path) -> None:
    assert "sievit build" in refused("report", cwd=tmp_path)
    assert "nothing built in build/" in refused("sim", cwd=tmp_path)


@pytest.mark.parametrize("missing", ["g++", "perl", "make"])
def test_missing_tool(missing: str, tiny: Tiny, tmp_path: Path) -> None:
    """Told before the first minute of work, not after it."""
    tools, work = tmp_path / "tools", tmp_path / "work"
    tools.mkdir()
    work.mkdir()
    for name in {"g++", "perl", "make"} - {missing}:
        found = shutil.which(name)
        assert found, f"this machine has no {name}"
        (tools / name).symlink_to(found)
    text = refused("build", "--model", tiny.toml, "--checkpoint", tiny.checkpoint, cwd=work,
                   path=str(tools))  # fmt: skip
    assert f"sievit: {missing}: not found on PATH; " in text
    assert f"apt-get install {missing}" in text


@pytest.mark.slow
def test_speed_that_no_folding_reaches(tiny: Tiny, tmp_path: Path) -> None:
    """A budget that cannot be met: nothing but the export is left behind."""
    text = refused("build", "--model", tiny.toml, "--checkpoint", tiny.checkpoint,
                   "--fps", "1e9", "--no-proof", cwd=tmp_path,
                   leaves=("model.onnx", "model.stamp"))  # fmt: skip
    assert "images/s need an II of 0 cycles" in text
    assert "lower --fps or choose a larger board" in text


def test_deploy_and_bitstream_refuse(tmp_path: Path) -> None:
    text = refused("deploy", "--board", "vck190", cwd=tmp_path)
    assert "board vck190 is deployed by hand" in text
    assert "no board 'moon'" in refused("bitstream", "--board", "moon", cwd=tmp_path)
