# SPDX-License-Identifier: Apache-2.0
"""What ``boards/overlay.py`` uses of PYNQ, in front of a simulated board: the registers of an AXI
DMA in direct register mode as AMD PG021 tells them, and buffers with an address."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sievit.sim.device import SimulatedLink

#: the board that ``Overlay`` finds; a test puts it here
LINK: SimulatedLink = None  # type: ignore[assignment]
#: cells beside PS and interconnect
CELLS = ["accelerator", "dma"]


class Buffer(np.ndarray):
    """A buffer that device and processor see alike only after ``flush`` and ``invalidate``."""

    device_address: int
    shared: np.ndarray

    def flush(self) -> None:
        self.shared[:] = self

    def invalidate(self) -> None:
        self[:] = self.shared

    def freebuffer(self) -> None:
        del MEMORY[self.device_address]


#: buffers by address
MEMORY: dict[int, Buffer] = {}


def allocate(shape: tuple[int, ...], dtype: type) -> Buffer:
    buffer = np.full(shape, 0xAA, dtype).view(Buffer)
    buffer.shared = np.full(shape, 0x55, dtype)
    buffer.device_address = 0x1_0000_0000 + 0x10000 * (1 + len(MEMORY))
    while buffer.device_address in MEMORY:
        buffer.device_address += 0x10000
    MEMORY[buffer.device_address] = buffer
    return buffer


class Registers:
    """The shell's."""

    def read(self, address: int) -> int:
        return LINK.read(address)

    def write(self, address: int, value: int) -> None:
        LINK.write(address, value)


class Core:
    """Of Vitis HLS: what was written to its control."""

    def __init__(self) -> None:
        self.control: list[int] = []

    def write(self, address: int, value: int) -> None:
        assert address == 0
        self.control.append(value)


class Dma:
    """Two channels, at 0x00 to the accelerator and at 0x30 from it; a look at the status lets some
    time pass."""

    def __init__(self) -> None:
        self.registers = dict.fromkeys(range(0, 0x60, 4), 0)
        self.registers[0x04] = self.registers[0x34] = 1  # halted

    def _memory(self, channel: int) -> Buffer:
        low, high = self.registers[channel + 0x18], self.registers[channel + 0x1C]
        return MEMORY[high << 32 | low]

    def write(self, address: int, value: int) -> None:
        self.registers[address] = value
        channel, register = (address // 0x30) * 0x30, address % 0x30
        if register == 0x00 and value & 4:
            LINK.call("restart")
            self.__init__()  # type: ignore[misc]
        elif register == 0x00 and value & 1:
            self.registers[channel + 4] = 0
        elif register == 0x28:
            assert not self.registers[channel + 4] & 1, "the channel is halted"
            self.registers[channel + 4] = 0
            memory = self._memory(channel)
            if channel:
                LINK.call("receive", value)
            else:
                LINK.call("send", memory.shared[:value].tobytes(), True, None)

    def read(self, address: int) -> int:
        if address == 0x04 and not self.registers[0x04] and LINK.call("until", "sent", 20):
            self.registers[0x04] = 2
        elif address == 0x34 and not self.registers[0x34] and LINK.call("until", "received", 20):
            data, ended = LINK.call("taken")
            self._memory(0x30).shared[: len(data)] = np.frombuffer(data, np.uint8)
            self.registers[0x58] = len(data)
            self.registers[0x34] = 2 if ended else 0x11  # DMAIntErr halts it
        return self.registers[address]


class Overlay:
    def __init__(self, bit: str) -> None:
        assert Path(bit).with_suffix(".hwh").is_file()
        self.ip_dict = dict.fromkeys(CELLS)
        self.accelerator, self.dma, self.core = Registers(), Dma(), Core()
