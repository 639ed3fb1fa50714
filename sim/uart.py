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
from sievit.boards.interface import interface
from sievit.quant.graph import Graph
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
    a second has as many bits as ``baud``."""

    def __init__(self, program: Path, folder: Path, clocks: int = CLOCKS, baud: int = 1_000_000):
        command = [str(program), str(clocks), "+verilator+rand+reset+2", "+verilator+seed+1"]
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


def face_of(graph_folder: Path) -> Interface:
    """Interface of a saved graph."""
    return interface(Graph.load(graph_folder), graph_folder)


def build(graph: Graph, graph_folder: Path, folder: Path, clocks: int = CLOCKS) -> Path:
    """Compile the accelerator of a saved graph behind its serial line; returns the program."""
    source = runner.codegen.generate(graph, folder)
    face = interface(graph, graph_folder)
    device = folder / "sim" / f"{graph.name}_device.sv"
    runner.write_text(device, trellis.device(graph, face, clocks))
    return runner.build(f"{graph.name}_device", [source, device], {}, folder, main=MAIN)


def build_netlist(netlist: Path, top: str, folder: Path) -> Path:
    """Compile what yosys has written of a device, with its models of the ECP5 cells."""
    models = Path(pyosys.__file__).parent / "share" / "lattice"
    options = ("-Wno-fatal", "-Wno-lint", f"-I{models}")
    sources = [netlist, models / "cells_sim_ecp5.v"]
    return runner.build(top, sources, {}, folder, main=MAIN, options=options)


def simulate(graph_folder: Path, folder: Path, clocks: int = CLOCKS) -> uart.UartDevice:
    """The device of a saved graph, simulated; what it is built of lies in ``folder``."""
    graph, face = Graph.load(graph_folder), face_of(graph_folder)
    line = SimulatedLine(build(graph, graph_folder, folder, clocks), folder, clocks)
    # nobody keeps characters back here
    seconds = uart.answer_time(face, line.baud) - 2 * uart.DELAY
    seconds += 4 * runner.watchdog(graph) / clocks / line.baud
    try:
        return uart.UartDevice(face, line, seconds)
    except DeviceError:
        line.close()
        raise
