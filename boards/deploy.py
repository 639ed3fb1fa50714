# SPDX-License-Identifier: Apache-2.0
"""Bring a build to its board, run the test images there and compare every byte of the logits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from sievit.boards.board import BoardError
from sievit.boards.check import check, verify
from sievit.boards.driver import Accelerator
from sievit.boards.interface import load_graph
from sievit.boards.package import package
from sievit.quant.tools import ToolError, require_tool

#: what PYNQ's images need before Python finds it
ENVIRONMENT = "for f in /etc/profile.d/{pynq_venv,xrt_setup}.sh; do [ -f $f ] && . $f; done"


def simulate(build: Any, images: int) -> dict[str, Any]:
    """The same run against the simulated board."""
    with build.step("package") as note:
        folder = package(build, images)
        verify(folder)
        note["text"] = str(folder)
    with build.step("compile") as note:
        acc = Accelerator.simulate(build.folder)
        note["text"] = "shell and accelerator, Verilator"
    with acc, build.step("run") as note:
        found = check(acc, folder)
        note["text"] = f"{found['images']} images, {found['cycles']} cycles"
    return found


def pynq(build: Any, images: int, host: str) -> dict[str, Any]:
    """By ssh to a board with PYNQ: ``host`` as ssh takes it, for instance xilinx@pynq."""
    if not host:
        raise BoardError(f"board {build.board.name}: name it, for instance HOST=xilinx@pynq")
    folder = package(build, images)
    if not list(folder.glob("*.bit")):
        raise BoardError(
            f"no bitstream in {folder}; make it: sievit bitstream --board {build.board.name}"
        )
    for tool in ("ssh", "scp"):
        require_tool(tool, "install OpenSSH's client")
    place = f"sievit/{build.board.name}/{build.name}"
    with build.step("copy") as note:
        _run(["ssh", host, f"rm -rf {place} && mkdir -p {place}"])
        _run(["scp", "-q", "-r", *map(str, sorted(folder.iterdir())), f"{host}:{place}/"])
        note["text"] = f"{host}:{place}"
    # PYNQ asks for root: what sudo asks for is answered in this terminal
    inner = f"{ENVIRONMENT}; PYTHONPATH=. python3 -m sievit.boards.check"
    text = _run(["ssh", "-t", host, f"cd {place} && sudo -E bash -c '{inner}'"], watch=True)
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    raise ToolError("ssh", "the board did not say what it found", f"it printed: {text[-1000:]}")


def openfpgaloader(build: Any, images: int, port: str) -> dict[str, Any]:
    """A bitstream of open tools by openFPGALoader, the images by the serial port."""
    from sievit.boards.uart import SerialLine, UartDevice, answer_time

    if not port:
        raise BoardError(f"board {build.board.name}: name its serial port, PORT=/dev/ttyUSB0")
    graph, found = load_graph(build.folder)
    bit = build.folder / f"{graph.name}.bit"
    if not bit.is_file():
        raise BoardError(f"no {bit}; make it: sievit bitstream --board {build.board.name}")
    folder = package(build, images)
    with build.step("program") as note:
        tool = require_tool("openFPGALoader", "install it: apt-get install openfpgaloader")
        _run([tool, "-b", build.board.loader, str(bit)])
        note["text"] = f"{bit}"
    baud = build.board.baud
    with build.step("run") as note:
        device = UartDevice(found, SerialLine(port, baud), answer_time(found, baud))
        with Accelerator(device) as acc:
            result = check(acc, folder)
        note["text"] = f"{result['images']} images"
    return result


def _run(command: list[str], watch: bool = False) -> str:
    """Run; input and output are those of the terminal. ``watch``: return the output, too."""
    text = b""
    pipe = subprocess.PIPE if watch else None
    with subprocess.Popen(command, stdout=pipe) as process:
        while process.stdout and (part := os.read(process.stdout.fileno(), 4096)):
            text += part  # by parts, for a question has no end of line
            sys.stdout.write(part.decode(errors="replace"))
            sys.stdout.flush()
    said = text.decode(errors="replace").strip()
    if process.returncode:
        raise ToolError(
            command[0], f"ended with status {process.returncode}",
            f"the call was: {' '.join(command)}{': ' * bool(said)}{said[-2000:]}",
        )  # fmt: skip
    return said
