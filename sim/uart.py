# SPDX-License-Identifier: Apache-2.0
"""The serial pins of a simulated design, as the line that a host has."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pyosys

from sievit.boards import trellis, uart
from sievit.boards.device import DeviceError, Interface
from sievit.boards.interface import load_graph
from sievit.quant.graph import Graph
from sievit.rtl import codegen
from sievit.sim import runner

MAIN = Path(__file__).resolve().parent / "uart_pins.cpp"
#: cycles per bit in simulations: fewer than on a board, so that they are faster
CLOCKS = 8
#: levels of a line during ten bits: nothing is sent
IDLE = 0x3FF
_LINE_BITS = 10


def symbol(character: int) -> int:
    """Levels of a character: start bit, data, stop bit."""
    return 1 << 9 | character << 1


class SimulatedLine:
    """``uart.Line`` at the pins of a program that ``build`` made. Time is that of the simulation:
    a second has as many bits as ``baud``. ``seed``: of the values that registers start with."""

    def __init__(
        self,
        program: Path,
        folder: Path,
        clocks: int = CLOCKS,
        baud: int = 1_000_000,
        seed: int = 1,
    ):
        command = [str(program), str(clocks), "+verilator+rand+reset+2", f"+verilator+seed+{seed}"]
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.baud = baud

    def write(self, data: bytes) -> None:
        self.levels(symbol(c) for c in data)

    def levels(self, symbols: Iterable[int]) -> None:
        """Queue levels of ten bits each for the design."""
        self._exchange(list(symbols), 0, 0)

    def read(self, count: int, seconds: float) -> bytes:
        first = self._exchange([], 1, min(int(seconds * self.baud), 0xFFFFFFFF))
        return first + (self._exchange([], count - 1, _LINE_BITS) if first else b"")

    def _exchange(self, symbols: list[int], wanted: int, bits: int) -> bytes:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        try:
            stdin.write(struct.pack(f"<3I{len(symbols)}H", len(symbols), wanted, bits, *symbols))
            stdin.flush()
            (size,) = struct.unpack("<I", stdout.read(4))
            return stdout.read(size)
        except (OSError, struct.error) as error:
            raise DeviceError(f"the simulation ended ({self.process.wait()})") from error

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def build(graph: Graph, face: Interface, folder: Path, clocks: int = CLOCKS) -> Path:
    """Compile an accelerator behind its serial line; returns the program."""
    name = f"{graph.name}_device"
    codegen.generate(graph, folder)
    own, device = folder / "sim" / f"{graph.name}.sv", folder / "sim" / f"{name}.sv"
    runner.write_text(own, codegen.share_code(graph, folder, f"{name}.u_accelerator"))
    runner.write_text(device, trellis.device(graph, face, clocks))
    return runner.build(name, [own, device], {}, folder, main=MAIN)


def build_netlist(netlist: Path, top: str, folder: Path) -> Path:
    """Compile what yosys has written of a device, with its models of the ECP5 cells."""
    models = Path(pyosys.__file__).parent / "share" / "lattice"
    options = ("-Wno-fatal", "-Wno-lint", f"-I{models}")
    sources = [netlist, models / "cells_sim_ecp5.v"]
    return runner.build(top, sources, {}, folder, main=MAIN, flags=options)


def simulate(build_dir: Path) -> uart.UartDevice:
    """The device of a build, simulated; compiled into ``build_dir/uart`` on first use."""
    graph, face = load_graph(build_dir)
    folder = build_dir / "uart"
    folder.mkdir(exist_ok=True)
    with runner.locked(folder):
        program = build(graph, face, folder)
    line = SimulatedLine(program, folder)
    # nobody keeps characters back here
    seconds = uart.answer_time(face, line.baud) - 2 * uart.DELAY
    seconds += 4 * runner.watchdog(graph) / CLOCKS / line.baud
    try:
        return uart.UartDevice(face, line, seconds)
    except DeviceError:
        line.close()
        raise
