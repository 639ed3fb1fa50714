# SPDX-License-Identifier: Apache-2.0
"""A board in simulation: the real shell and accelerator in Verilator, registers over AXI4-Lite,
images and logits over AXI4-Stream."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from sievit.boards import board, top
from sievit.boards.device import Device, DeviceError, Interface
from sievit.boards.interface import load_graph
from sievit.boards.shell import Bytes, ShellDevice, lock
from sievit.quant.graph import Graph
from sievit.rtl import codegen
from sievit.sim import runner, shell_bench, uart


def simulate(build_dir: Path) -> Device:
    """The board that a build is for: its serial line if it has one, else the AXI shell."""
    name = load_graph(build_dir)[0].meta.get("board")
    if name and board.load(name).toolchain == "trellis":
        return uart.simulate(build_dir)
    return simulated(build_dir)


def simulated(build_dir: Path, batch: int = 64, seed: int = 0) -> ShellDevice:
    """The design of a build with its shell; compiled into ``build_dir/shell`` on first use.

    Raises DeviceError if nothing is built there, it is in use, or files do not belong together.
    """
    graph, found = load_graph(build_dir)
    folder = build_dir / "shell"
    folder.mkdir(exist_ok=True)
    held = lock(folder / ".device")
    try:
        name = build(graph, found, folder)
        link = SimulatedLink(folder, name, 4 * runner.watchdog(graph), held, seed)
    except BaseException:
        held.close()
        raise
    try:
        return ShellDevice(found, link, batch)
    except BaseException:
        link.close()
        raise


def build(graph: Graph, found: Interface, folder: Path) -> str:
    """Generate and compile the top in ``folder``; returns its name."""
    name = top.name(found)
    codegen.generate(graph, folder)
    core = codegen.share_code(graph, folder, f"{name}.u_core")
    runner.write_text(folder / "sim" / f"{graph.name}.sv", core)
    source = top.source(found, pumped=codegen.pumped(graph))
    runner.write_text(folder / f"{name}.v", source)
    runner.write_text(folder / "sim" / "checks.sv", checks(found))
    sources = [
        folder / "sim" / f"{graph.name}.sv", folder / f"{name}.v", folder / "sim" / "checks.sv",
    ]  # fmt: skip
    runner.build(name, sources, {}, folder)
    return name


def checks(found: Interface) -> str:
    """SystemVerilog that puts an ``axis_checker`` on the output and on both ports of the
    accelerator."""
    inside = {"m_axis_core": found.input, "s_axis_core": found.output}
    ports = [(k, v.lanes * v.bits, f"{k}_tuser") for k, v in inside.items()]
    ports.append(("m_axis", 8 * top.word_bytes(found.output), "1'b0"))
    lines = ["// SPDX-License-Identifier: Apache-2.0", ""]
    for prefix, bits, user in ports:
        links = "".join(
            f"    .{s}({prefix}_{s}),\n" for s in ("tdata", "tvalid", "tready", "tlast")
        )
        lines += [
            f"bind {top.name(found)} axis_checker #(",
            f'    .DataBits({bits}),\n    .Name("{prefix}")',
            f") u_check_{prefix} (\n    .clk_i,\n    .rst_ni(rst_ni && core_rst_no),\n{links}"
            f"    .tuser({user})\n);\n",
        ]
    return "\n".join(lines)


class SimulatedLink:
    """Registers and DMA of a simulated board; see ``boards/shell.py`` ``Link``.

    Args:
        folder, name: what ``build`` made.
        patience: cycles without a beat on any stream after which a wait is given up.
        held: is closed with the link.
    """

    def __init__(
        self, folder: Path, name: str, patience: int, held: Any = None, seed: int = 0
    ) -> None:
        self.patience, self.held = patience, held
        self.scratch = Path(tempfile.mkdtemp(prefix="device-", dir=folder)).resolve()
        here, there = socket.socketpair()
        command, env = runner.simulator(folder, name, "sievit.sim.shell_bench", self.scratch, seed)
        env[shell_bench.SOCKET] = str(there.fileno())
        with (self.scratch / "log").open("w") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=log, stderr=log, pass_fds=[there.fileno()]
            )
        there.close()
        self.connection = Connection(here.detach())

    def call(self, *command: Any) -> Any:
        """Carry out one command of ``shell_bench``. Raises DeviceError if the simulator is gone."""
        try:
            self.connection.send(command)
            return self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.wait()
            log = (self.scratch / "log").read_text()[-2000:] if self.scratch.exists() else ""
            raise DeviceError(f"the simulator has ended: {log.strip() or 'closed'}") from error

    def read(self, address: int) -> int:
        value, response = self.call("read", address)
        if response:
            raise DeviceError(f"reading register {address:#x}: response {response}")
        return int(value)

    def write(self, address: int, value: int) -> None:
        response = self.call("write", address, value, 0xF)
        if response:
            raise DeviceError(f"writing register {address:#x}: response {response}")

    def send(self, words: Bytes) -> None:
        self.call("send", words.tobytes(), True, None)

    def receive(self, size: int) -> None:
        self.call("receive", size)

    def wait_sent(self) -> None:
        if not self.call("until", "sent", self.patience):
            raise DeviceError(
                f"the accelerator does not take the images: {self.patience} cycles without a beat"
            )

    def wait_received(self) -> Bytes:
        done = self.call("until", "received", self.patience)
        data, ended = self.call("taken")
        if not done:
            raise DeviceError(f"no results: {self.patience} cycles without a beat")
        if not ended:
            raise DeviceError("more came than was expected (no tlast)")
        return np.frombuffer(data, np.uint8)

    def restart(self, reset: Sequence[tuple[int, int]]) -> None:
        (address, value), *after = reset
        self.write(address, value)
        self.call("restart")
        for address, value in after:
            self.write(address, value)

    def close(self) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.connection.send(("close",))
        self.connection.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)
        if self.held is not None:
            self.held.close()
