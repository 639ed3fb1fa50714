# SPDX-License-Identifier: Apache-2.0
"""``sievit deploy``: the same run on a board, by way of ssh, and on the simulated one."""

from __future__ import annotations

import os
import shutil
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from device_network import TOKENS, network
from rich.console import Console

from sievit.boards import board as boards
from sievit.boards import check, deploy, package
from sievit.boards.board import BoardError
from sievit.boards.device import DeviceError
from sievit.boards.interface import interface
from sievit.flow.build import Build
from sievit.quant.params import Stream
from sievit.quant.tools import ToolError
from sievit.sim.harness import build_root

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def build(worker_id: str) -> SimpleNamespace:
    """What ``deploy`` takes of a Build, finished."""
    folder = build_root() / f"deploy-{worker_id}"
    for name in ("graph", "deploy"):
        shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    graph = network()
    graph.save(folder / "graph")
    interface(graph, folder / "graph").save(folder)
    rng = torch.Generator().manual_seed(1)
    x = Stream.full(torch.randint(-512, 512, (90, TOKENS, 6), generator=rng))
    made = SimpleNamespace(
        name="device_net", folder=folder, board=boards.load("pynq_z2"), times={},
        console=Console(file=StringIO(), width=200), frames=lambda: x,
    )  # fmt: skip
    made.step = lambda name: Build.step(made, name)  # type: ignore[arg-type]
    return made


@pytest.mark.slow
def test_simulated_board(build: SimpleNamespace) -> None:
    found = deploy.simulate(build, 70)
    assert (found["images"], found["mismatches"], found["errors"]) == (70, 0, [])
    assert found["frames"] == 70 and found["cycles"] > 70 * 3 * TOKENS
    folder = build.folder / "deploy"
    # golden logits that are not those of the hardware
    with np.load(folder / "test.npz") as test:
        images, logits = test["images"], test["logits"].copy()
    assert images.shape == (70, TOKENS, 6) and len(np.unique(logits)) > 100
    logits[33, 4] ^= 1
    np.savez(folder / "test.npz", images=images, logits=logits)
    with pytest.raises(DeviceError, match=r"test\.npz was changed"):
        check.verify(folder)
    from sievit.boards.driver import Accelerator

    with (
        Accelerator.simulate(build.folder) as acc,
        pytest.raises(DeviceError, match="1 of 70 images differ; the first, image 33: "),
    ):
        check.check(acc, folder)


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


SSH = """
[ "$1" = -t ] && shift
[ "$1" = me@pynq ] || exit 9
cd {home} && bash -c "$2"
"""
SCP = """
to=${{@: -1}}
cp -r "${{@:3:$#-3}}" "{home}/${{to#me@pynq:}}"
"""

#: as on a board, but PYNQ is the stand-in in front of the simulated one
PYTHON = """
import runpy, sys
sys.path[:0] = {paths!r}
import stand_in_pynq
from pathlib import Path
from sievit.boards import overlay
from sievit.boards.interface import load_graph
from sievit.sim import device, runner
folder = Path({folder!r})
graph, found = load_graph(folder)
(folder / "shell").mkdir(exist_ok=True)
name = device.build(graph, found, folder / "shell")
stand_in_pynq.LINK = device.SimulatedLink(folder / "shell", name, runner.watchdog(graph))
overlay.tempfile.gettempdir = lambda: {temp!r}
sys.modules["pynq"] = stand_in_pynq
sys.argv = ["check"]
try:
    runpy.run_module("sievit.boards.check", run_name="__main__")
finally:
    stand_in_pynq.LINK.close()
"""


def test_pynq_board(
    build: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh and scp of this machine's own folder ``home``."""
    home, tools = tmp_path / "home", tmp_path / "tools"
    home.mkdir()
    tools.mkdir()
    script(tools / "ssh", SSH.format(home=home))
    script(tools / "scp", SCP.format(home=home))
    script(tools / "sudo", '[ "$1" = -E ] && shift; exec "$@"')
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(BoardError, match="board pynq_z2: name it, for instance HOST=xilinx@pynq"):
        deploy.pynq(build, 20, "")
    shutil.rmtree(build.folder / "deploy", ignore_errors=True)
    with pytest.raises(BoardError, match="make it: sievit bitstream --board pynq_z2"):
        deploy.pynq(build, 20, "me@pynq")
    for name in ("a.bit", "a.hwh"):
        (tmp_path / name).write_text(name)
    package.add_bitstream(build.folder, tmp_path / "a.bit", tmp_path / "a.hwh")
    # a board without PYNQ
    with pytest.raises(ToolError, match=r"(?s)ssh: ended with status 1.*me@pynq"):
        deploy.pynq(build, 20, "me@pynq")
    assert (home / "sievit" / "pynq_z2" / "device_net" / "device_net.bit").is_file()
    # one with it
    text = PYTHON.format(
        paths=[str(HERE), *[p for p in sys.path if p]], folder=str(build.folder), temp=str(tmp_path)
    )
    (tmp_path / "run.py").write_text(text)
    script(tools / "python3", f"exec {sys.executable} {tmp_path / 'run.py'}")
    found = deploy.pynq(build, 20, "me@pynq")
    assert (found["images"], found["mismatches"], found["frames"]) == (20, 0, 20)
    assert found["build"] == interface(network(), build.folder / "graph").build[:8]
    with pytest.raises(ToolError, match="ssh: ended with status 9"):
        deploy.pynq(build, 20, "you@pynq")
