# SPDX-License-Identifier: Apache-2.0
"""The cocotb side of a simulated board: an AXI4-Lite master and a DMA that do what another process
tells them, as ``sim/device.py`` does.

Time passes only while a command is carried out. As in ``bench.py`` every cycle has two time steps:
the clock falls and the ports are driven, the settled design is sampled and the clock rises.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import cocotb

from sievit.sim.bench import RESET_CYCLES, STALLS, _reader, _run, _writer, clocks, pattern

#: environment variable with the number of the socket to the other process
SOCKET = "SIEVIT_SOCKET"
#: cycles for which an answer of AXI4-Lite may take
PATIENCE = 1000


class Board:
    """Ports of the top, and what the DMA is about to do."""

    def __init__(self, dut: Any) -> None:
        def width(name: str) -> int:
            return len(getattr(dut, name))

        def reader(name: str) -> Any:
            return _reader(getattr(dut, name), width(name))

        def writer(name: str) -> Any:
            return _writer(getattr(dut, name), width(name))

        (self.clock, self.fast), self.reset = clocks(dut), writer("rst_ni")
        self.drive = {
            name: writer(f"s_axil_{name}")
            for name in "awaddr awvalid wdata wstrb wvalid bready araddr arvalid rready".split()
        }
        self.see = {
            name: reader(f"s_axil_{name}")
            for name in "awready wready bvalid bresp arready rvalid rdata rresp".split()
        }
        self.in_data, self.in_keep = writer("s_axis_tdata"), writer("s_axis_tkeep")
        self.in_valid, self.in_last = writer("s_axis_tvalid"), writer("s_axis_tlast")
        self.in_ready = reader("s_axis_tready")
        self.out_data, self.out_keep = reader("m_axis_tdata"), reader("m_axis_tkeep")
        self.out_valid, self.out_last = reader("m_axis_tvalid"), reader("m_axis_tlast")
        self.out_ready = writer("m_axis_tready")
        self.in_bytes, self.out_bytes = width("s_axis_tkeep"), width("m_axis_tkeep")
        self.all_kept = (1 << self.out_bytes) - 1
        #: words to send: (data, keep, last)
        self.queue: deque[tuple[int, int, int]] = deque()
        self.offered = False
        #: words that may still be taken, and those that were
        self.room = 0
        self.taken: list[int] = []
        self.ended = False
        self.cycles = self.idle = 0
        self.stall("none", 0)

    def stall(self, profile: str, seed: int) -> None:
        """Stalls of the DMA, as ``bench.STALLS``."""
        rng = random.Random(f"{seed} {profile}")
        self.go_in, self.go_out = (pattern(kind, rng) for kind in STALLS[profile])

    def cycle(self) -> Iterator[None]:
        """One clock cycle of the streams."""
        at = self.cycles
        self.clock(0)
        if not self.offered and self.queue and self.go_in[at % len(self.go_in)]:
            data, keep, last = self.queue[0]
            self.in_data(data)
            self.in_keep(keep)
            self.in_last(last)
            self.in_valid(1)
            self.offered = True
        elif not self.offered:
            self.in_valid(0)
        ready = int(self.room > 0 and self.go_out[at % len(self.go_out)])
        self.out_ready(ready)
        yield
        if self.fast:
            self.fast(0)
            yield
        self.idle += 1
        if self.offered and self.in_ready():
            self.queue.popleft()
            self.offered = False
            self.idle = 0
        if ready and self.out_valid():
            assert self.out_keep() == self.all_kept, "m_axis_tkeep has a gap"
            self.taken.append(self.out_data())
            self.room -= 1
            self.ended = bool(self.out_last())
            if self.ended:
                self.room = 0
            self.idle = 0
        self.clock(1)
        self.cycles = at + 1
        yield
        if self.fast:
            self.fast(0)
            yield

    def read(self, address: int) -> Iterator[None]:
        """AXI4-Lite read; the result is left in ``answer``."""
        self.drive["araddr"](address)
        self.drive["arvalid"](1)
        self.drive["rready"](1)
        asked = False
        for _ in range(PATIENCE):
            if asked:
                self.drive["arvalid"](0)
            steps = self.cycle()
            next(steps)
            yield
            taken, came = self.see["arready"](), asked and self.see["rvalid"]()
            value, response = self.see["rdata"](), self.see["rresp"]()
            yield from steps
            asked = asked or bool(taken)
            if came:
                self.drive["rready"](0)
                self.answer: Any = (value, response)
                return
        raise TimeoutError(f"no answer to a read of {address:#x}")

    def write(self, address: int, value: int, strobe: int) -> Iterator[None]:
        """AXI4-Lite write; the response is left in ``answer``."""
        self.drive["awaddr"](address)
        self.drive["wdata"](value)
        self.drive["wstrb"](strobe)
        self.drive["awvalid"](1)
        self.drive["wvalid"](1)
        self.drive["bready"](1)
        address_done = data_done = False
        for _ in range(PATIENCE):
            steps = self.cycle()
            self.drive["awvalid"](int(not address_done))
            self.drive["wvalid"](int(not data_done))
            next(steps)
            yield
            came = address_done and data_done and self.see["bvalid"]()
            response = self.see["bresp"]()
            address_done = address_done or bool(self.see["awready"]())
            data_done = data_done or bool(self.see["wready"]())
            yield from steps
            if came:
                self.drive["bready"](0)
                self.answer = response
                return
        raise TimeoutError(f"no answer to a write to {address:#x}")

    def until(self, what: str, patience: int) -> Iterator[None]:
        """Run until all is ``sent``, or what was expected is ``received``, or nothing has moved for
        ``patience`` cycles; ``answer`` says whether it was."""
        self.idle = 0
        while self.idle <= patience:
            if what == "sent":
                if not self.queue:
                    break
            elif not self.room:
                break
            yield from self.cycle()
        self.answer = self.idle <= patience


def _serve(dut: Any, link: Connection) -> Iterator[None]:
    board = Board(dut)
    for drive in board.drive.values():
        drive(0)
    for drive in (board.in_data, board.in_keep, board.in_valid, board.in_last, board.out_ready):
        drive(0)
    board.reset(0)
    for _ in range(RESET_CYCLES):
        yield from board.cycle()
    board.reset(1)
    while True:
        try:
            command, *arguments = link.recv()
        except EOFError:  # the other process is gone
            return
        board.answer = None
        if command == "close":
            return
        if command == "read":
            yield from board.read(*arguments)
        elif command == "write":
            yield from board.write(*arguments)
        elif command == "send":
            data, last, keep = arguments
            size, whole = board.in_bytes, (1 << board.in_bytes) - 1
            words = [
                int.from_bytes(data[i : i + size], "little") for i in range(0, len(data), size)
            ]
            board.queue.extend((word, whole, 0) for word in words[:-1])
            board.queue.append((words[-1], keep if keep is not None else whole, int(last)))
        elif command == "receive":
            board.room, board.taken, board.ended = arguments[0] // board.out_bytes, [], False
        elif command == "until":
            yield from board.until(*arguments)
        elif command == "taken":
            size = board.out_bytes
            found = b"".join(word.to_bytes(size, "little") for word in board.taken)
            board.answer = (found, board.ended)
        elif command == "run":
            for _ in range(arguments[0]):
                yield from board.cycle()
        elif command == "restart":  # as a DMA in reset
            board.queue.clear()
            board.offered, board.room, board.taken = False, 0, []
        elif command == "stall":
            board.stall(*arguments)
        elif command == "cycles":
            board.answer = board.cycles
        else:
            raise ValueError(f"no command {command!r}")
        link.send(board.answer)


@cocotb.test()
async def serve(dut: Any) -> None:
    """Carry out commands until the other process closes the connection."""
    await _run(_serve(dut, Connection(int(os.environ[SOCKET]))))
