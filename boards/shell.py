# SPDX-License-Identifier: Apache-2.0
"""An accelerator behind ``rtl/shell/axi_shell.sv``, whatever carries registers and streams to it.

Needs numpy alone, since it also runs on the board.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from sievit.boards.device import DeviceError, Interface, Lanes, Status

# registers of rtl/shell/shell_regs.sv
VERSION, BUILD, CONTROL, ERRORS, BATCH, FRAMES, CYCLES = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0x18
ENABLE, RESET = 1, 2
MAGIC, KNOWN_VERSION = 0x5356, 1
#: bits of ERRORS, from the lowest on
ERROR_NAMES = ("truncated", "oversize", "ragged", "result", "overrun")
MEANING = {
    "truncated": "a batch ended too early",
    "oversize": "a batch did not end where it should",
    "ragged": "a word came in part, or with bits beyond its beat",
    "result": "the accelerator gave a result of another length",
    "overrun": "a batch was announced that could not be taken",
}
#: frames that one batch can have
MOST_FRAMES = (1 << 16) - 1
#: bytes of the widest DMA word
MOST_BYTES = 128
#: bytes of a transfer, unless a frame has more: a board has four such buffers, in memory that is
#: scarce, since it is contiguous
TRANSFER = 1 << 22

Bytes = NDArray[np.uint8]


def word_bytes(port: Lanes) -> int:
    """Bytes of the DMA word that holds a beat: the next power of two."""
    return 1 << (port.beat_bytes - 1).bit_length()


def to_words(port: Lanes, data: bytes) -> Bytes:
    """uint8 ``[words * word_bytes]`` of beats of ``beat_bytes`` bytes each."""
    beats = np.frombuffer(data, np.uint8).reshape(-1, port.beat_bytes)
    words = np.zeros((len(beats), word_bytes(port)), np.uint8)
    words[:, : port.beat_bytes] = beats
    return words.ravel()


def from_words(port: Lanes, words: Bytes) -> bytes:
    """The beats of whole words. Raises DeviceError if a word has more than its beat."""
    rows = words.reshape(-1, word_bytes(port))
    if rows[:, port.beat_bytes :].any():
        raise DeviceError("a word has bits beyond its beat: not what this design sends")
    return rows[:, : port.beat_bytes].tobytes()


class Link(Protocol):
    """The way to one shell: its registers, and a DMA that carries a transfer in each direction at
    a time. All raise DeviceError."""

    def read(self, address: int) -> int: ...

    def write(self, address: int, value: int) -> None: ...

    def send(self, words: Bytes) -> None:
        """Begin a transfer to the accelerator; ``wait_sent`` must have ended the one before."""

    def receive(self, size: int) -> None:
        """Begin a transfer of at most ``size`` bytes from the accelerator."""

    def wait_sent(self) -> None: ...

    def wait_received(self) -> Bytes:
        """What came, up to the end of the batch; it stays as it is until the next but one."""

    def restart(self, reset: Sequence[tuple[int, int]]) -> None:
        """Give up all transfers: write the registers ``reset`` while the DMA holds still."""

    def close(self) -> None: ...


class ShellDevice:
    """The device at the other end of a link. Raises DeviceError unless the hardware there is the
    build that ``interface`` describes.

    Args:
        batch: frames of one transfer at most; while one is computed, the next one is sent.
    """

    def __init__(self, interface: Interface, link: Link, batch: int = 1024) -> None:
        if not 0 < batch <= MOST_FRAMES:
            raise DeviceError(f"batch = {batch} is not in 1..{MOST_FRAMES}")
        self.interface, self.link = interface, link
        sizes = (
            interface.tokens * interface.input.beats * word_bytes(interface.input),
            interface.output.beats * word_bytes(interface.output),
        )
        self.batch = max(1, min(batch, TRANSFER // max(sizes)))
        found = self.status_registers()
        if found[0] >> 16 != MAGIC:
            raise DeviceError(f"no accelerator of sievit: register VERSION holds {found[0]:#010x}")
        if found[0] & 0xFFFF != KNOWN_VERSION:
            raise DeviceError(
                f"the shell has version {found[0] & 0xFFFF}, this driver knows {KNOWN_VERSION}: "
                "use the driver that lies beside the bitstream"
            )
        if found[1] != int(interface.build[:8], 16):
            raise DeviceError(
                f"the hardware is build {found[1]:08x}, interface.json describes "
                f"{interface.build[:8]}: other weights; load the bitstream that belongs to it"
            )
        self.reset()

    def status_registers(self) -> tuple[int, int]:
        return self.link.read(VERSION), self.link.read(BUILD)

    def run(self, frames: Sequence[bytes]) -> list[bytes]:
        """Results of all frames, in their order; a batch is sent while the one before is computed.

        Raises DeviceError, and resets the device, if anything went wrong with any of them.
        """
        port, size = self.interface.output, self.interface.result_bytes
        results: list[bytes] = []
        try:
            for count, words in self._exchange(frames):
                want = count * self.interface.output.beats * word_bytes(port)
                if len(words) != want:
                    raise DeviceError(f"{len(words)} bytes came for {count} frames, not {want}")
                data = from_words(port, words)
                results += [data[i : i + size] for i in range(0, len(data), size)]
            self.check()
        except BaseException as error:
            flags: tuple[str, ...] = ()
            with contextlib.suppress(DeviceError):  # the first error is the one to tell
                flags = self.errors()  # which say more than that nothing came
                self.reset()
            if flags and isinstance(error, DeviceError):
                raise DeviceError(explain(flags)) from error
            raise
        return results

    def _exchange(self, frames: Sequence[bytes]) -> Iterator[tuple[int, Bytes]]:
        """(frames, words) of the results of every batch."""
        port, link = self.interface.output, self.link
        frame_size = port.beats * word_bytes(port)
        before = 0  # frames of the batch that is being computed
        for at in range(0, len(frames), self.batch):
            part = frames[at : at + self.batch]
            words = to_words(self.interface.input, b"".join(part))
            if before:
                link.wait_sent()
            link.write(BATCH, len(part))
            link.send(words)
            if before:
                found = link.wait_received()
                self.check()
                link.receive(len(part) * frame_size)
                yield before, found
            else:
                link.receive(len(part) * frame_size)
            before = len(part)
        if before:
            link.wait_sent()
            yield before, link.wait_received()

    def check(self) -> None:
        """Raise DeviceError if an error flag is set."""
        flags = self.errors()
        if flags:
            raise DeviceError(explain(flags))

    def errors(self) -> tuple[str, ...]:
        flags = self.link.read(ERRORS)
        return tuple(name for i, name in enumerate(ERROR_NAMES) if flags >> i & 1)

    def status(self) -> Status:
        version, build = self.status_registers()
        low = self.link.read(CYCLES)  # the high half is kept with it
        cycles = self.link.read(CYCLES + 4) << 32 | low
        return Status(version & 0xFFFF, build, self.link.read(FRAMES), cycles, self.errors())

    def reset(self) -> None:
        """Empty the accelerator and clear counters and error flags."""
        self.link.restart([(CONTROL, RESET), (CONTROL, ENABLE)])
        busy = self.link.read(BATCH)
        if busy or self.errors():
            raise DeviceError(f"the shell is not empty after a reset ({busy} batches)")

    def close(self) -> None:
        self.link.close()


def explain(flags: Sequence[str]) -> str:
    """What error flags mean to whom sent images."""
    text = "; ".join(f"{name}: {MEANING[name]}" for name in flags)
    return f"{text}; the results are void, send the images again"


def lock(path: Path) -> IO[str]:
    """Hold a device for oneself, until the file is closed. Raises DeviceError if it is taken."""
    try:
        file = open(path, "a+")
    except OSError as error:
        raise DeviceError(f"{path}: {error.strerror}; it marks the device as taken") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "?"
        file.close()
        raise DeviceError(
            f"the device is in use by process {holder} ({path}); close it there first"
        ) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
