# SPDX-License-Identifier: Apache-2.0
"""The accelerator of a Zynq board through PYNQ 3, on the board itself.

The block design of ``shell.tcl`` has the cells ``accelerator`` (registers), ``dma`` (AXI DMA in
direct register mode) and, for a core of Vitis HLS, ``core``. Of PYNQ it uses ``Overlay``,
``allocate`` and the registers of a cell; the DMA is programmed as AMD PG021 says, since PYNQ's own
driver waits without end.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sievit.boards.device import DeviceError, Interface
from sievit.boards.shell import Bytes, ShellDevice, lock

#: seconds without an end of a transfer after which it is given up
TIMEOUT = 10.0
# registers of the DMA: the two channels, and in each of them
MM2S, S2MM = 0x00, 0x30
CONTROL, STATUS, ADDRESS, ADDRESS_HIGH, LENGTH = 0x00, 0x04, 0x18, 0x1C, 0x28
RUN, DMA_RESET = 1 << 0, 1 << 2  # of CONTROL
IDLE, FAULTS = 1 << 1, 0x770  # of STATUS
#: control of a core of Vitis HLS: start, and again after each frame (AMD UG1399)
START_FOREVER = 0x81


def open_overlay(bit: Path, timeout: float = TIMEOUT) -> ShellDevice:
    """Load a bitstream into the FPGA and open its accelerator. Raises DeviceError."""
    for path in (bit, bit.with_suffix(".hwh")):
        if not path.is_file():
            raise DeviceError(f"{path} is missing; copy the whole folder deploy/ to the board")
    interface = Interface.load(bit.parent)
    # one FPGA, one client: whoever loads another bitstream takes this one away
    held = lock(Path(tempfile.gettempdir()) / "sievit-fpga.lock")
    try:
        try:
            import pynq
        except ImportError as error:
            raise DeviceError(
                "PYNQ is not installed: this runs on the board, as root, in PYNQ's environment "
                "(source /etc/profile.d/pynq_venv.sh)"
            ) from error
        overlay = pynq.Overlay(str(bit))
        return ShellDevice(interface, OverlayLink(overlay, held, timeout))
    except BaseException:
        held.close()
        raise


class OverlayLink:
    """Registers and DMA of a loaded overlay; see ``shell.Link``."""

    def __init__(self, overlay: Any, held: Any, timeout: float = TIMEOUT) -> None:
        import pynq

        self.allocate, self.held, self.timeout = pynq.allocate, held, timeout
        missing = {"accelerator", "dma"} - set(overlay.ip_dict)
        if missing:
            raise DeviceError(f"the overlay has no {' and no '.join(sorted(missing))}")
        self.registers = overlay.accelerator
        self.dma = overlay.dma
        self.core = overlay.core if "core" in overlay.ip_dict else None
        # two buffers per direction: one is filled or read while the other is under way
        self.input: list[Any] = [None, None]
        self.output: list[Any] = [None, None]
        self.sent = self.received = 0

    def read(self, address: int) -> int:
        return int(self.registers.read(address))

    def write(self, address: int, value: int) -> None:
        self.registers.write(address, value)

    def send(self, words: Bytes) -> None:
        self.sent ^= 1
        buffer = self._buffer(self.input, self.sent, len(words))
        buffer[: len(words)] = words
        buffer.flush()
        self._start(MM2S, buffer, len(words))

    def receive(self, size: int) -> None:
        self.received ^= 1
        buffer = self._buffer(self.output, self.received, size)
        self._start(S2MM, buffer, size)

    def wait_sent(self) -> None:
        self._wait(MM2S, "the accelerator does not take the images")

    def wait_received(self) -> Bytes:
        self._wait(S2MM, "no results")
        count = int(self.dma.read(S2MM + LENGTH))  # what came, now that it is idle
        buffer = self.output[self.received]
        buffer.invalidate()
        return np.array(buffer[:count])

    def restart(self, reset: Sequence[tuple[int, int]]) -> None:
        (address, value), *after = reset
        self.write(address, value)
        self.dma.write(MM2S + CONTROL, DMA_RESET)  # of both channels
        end = time.monotonic() + self.timeout
        while int(self.dma.read(MM2S + CONTROL)) & DMA_RESET:
            if time.monotonic() > end:
                raise DeviceError("the DMA does not come out of its reset: load the overlay again")
        for channel in (MM2S, S2MM):
            self.dma.write(channel + CONTROL, RUN)
        for address, value in after:
            self.write(address, value)
        if self.core is not None:
            self.core.write(0, START_FOREVER)

    def close(self) -> None:
        for buffer in (*self.input, *self.output):
            if buffer is not None:
                buffer.freebuffer()
        self.input, self.output = [None, None], [None, None]
        self.held.close()

    def _start(self, channel: int, buffer: Any, size: int) -> None:
        """Writing the length is what starts a transfer."""
        self.dma.write(channel + ADDRESS, buffer.device_address & 0xFFFFFFFF)
        self.dma.write(channel + ADDRESS_HIGH, buffer.device_address >> 32)
        self.dma.write(channel + LENGTH, size)

    def _buffer(self, pair: list[Any], index: int, size: int) -> Any:
        if pair[index] is None or len(pair[index]) < size:
            if pair[index] is not None:
                pair[index].freebuffer()
            pair[index] = self.allocate(shape=(size,), dtype=np.uint8)
        return pair[index]

    def _wait(self, channel: int, what: str) -> None:
        end = time.monotonic() + self.timeout
        while True:
            status = int(self.dma.read(channel + STATUS))
            if status & FAULTS:
                raise DeviceError(f"the DMA reports {status & FAULTS:#x} (DMASR)")
            if status & IDLE:
                return
            if time.monotonic() > end:
                raise DeviceError(f"{what} for {self.timeout:g} s")
