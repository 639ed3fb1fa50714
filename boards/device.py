# SPDX-License-Identifier: Apache-2.0
"""What host and accelerator agree on: bytes of images and logits, counters, errors.

Needs numpy alone, since it also runs on the board.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: file beside the bitstream or in the build folder
FILE = "interface.json"

Ints = NDArray[np.int64]

#: images that are encoded or decoded at a time
CHUNK = 256


class DeviceError(Exception):
    """The accelerator, or the link to it, did not do what was asked: what, and what to do."""


@dataclass(frozen=True)
class Lanes:
    """An AXI4-Stream port as the host sees it: ``lanes`` of ``channels`` integers of ``bits`` bits
    per beat, every beat filled up with zeros to whole bytes, least significant byte first."""

    channels: int
    lanes: int
    bits: int
    signed: bool

    @property
    def beats(self) -> int:
        """Beats per token."""
        return self.channels // self.lanes

    @property
    def beat_bytes(self) -> int:
        return -(-self.lanes * self.bits // 8)

    def encode(self, x: Ints) -> bytes:
        """Bytes of integers ``[tokens, channels]``, token by token. Raises DeviceError if one does
        not fit."""
        low = -(1 << self.bits - 1) if self.signed else 0
        high = low + (1 << self.bits) - 1
        if x.size and (x.min() < low or x.max() > high):
            raise DeviceError(f"input {x.min()}..{x.max()} is not in {low}..{high}")
        bits = (x.reshape(-1, self.lanes, 1) >> np.arange(self.bits)) & 1
        rows = bits.reshape(len(bits), -1).astype(np.uint8)
        return np.packbits(rows, axis=1, bitorder="little").tobytes()

    def decode(self, data: bytes) -> Ints:
        """Integers ``[tokens, channels]`` of whole tokens; the bits that fill beats up are zero.
        Raises DeviceError otherwise."""
        if len(data) % (self.beats * self.beat_bytes):
            raise DeviceError(
                f"{len(data)} bytes are not tokens of {self.beats * self.beat_bytes} bytes"
            )
        raw = np.frombuffer(data, np.uint8).reshape(-1, self.beat_bytes)
        rows = np.unpackbits(raw, axis=1, bitorder="little")
        if rows[:, self.lanes * self.bits :].any():
            raise DeviceError("bits beyond the lanes of a beat are set: not what this design sends")
        bits = rows[:, : self.lanes * self.bits].reshape(-1, self.lanes, self.bits)
        x = (bits.astype(np.int64) << np.arange(self.bits)).sum(-1)
        if self.signed:
            x -= (x >> self.bits - 1) << self.bits
        return x.reshape(-1, self.channels)


@dataclass(frozen=True)
class Interface:
    """What a design takes and gives.

    Attributes:
        model: its name.
        build: SHA-256 of the manifest of its graph, hex; hardware holds the first 32 bits.
        tokens: of an image.
        input: port of the images.
        output: port of the logits, a token.
    """

    model: str
    build: str
    tokens: int
    input: Lanes
    output: Lanes

    @property
    def frame_bytes(self) -> int:
        """Bytes of an image."""
        return self.tokens * self.input.beats * self.input.beat_bytes

    @property
    def result_bytes(self) -> int:
        """Bytes of the logits of an image."""
        return self.output.beats * self.output.beat_bytes

    def encode(self, images: Ints) -> list[bytes]:
        """Bytes of every image of ``[images, tokens, channels]``. Raises DeviceError if the shape
        is another, or an integer does not fit."""
        want = (self.tokens, self.input.channels)
        if images.ndim != 3 or images.shape[1:] != want:
            raise DeviceError(
                f"images of shape {images.shape}; {self.model} takes [images, tokens, channels] "
                f"with {want[0]} tokens of {want[1]} channels"
            )
        x = images.reshape(-1, self.input.channels).astype(np.int64)
        step = self.tokens * CHUNK  # as the integers' bits take much room
        data = b"".join(self.input.encode(x[i : i + step]) for i in range(0, len(x), step))
        return [data[i : i + self.frame_bytes] for i in range(0, len(data), self.frame_bytes)]

    def decode(self, frames: Sequence[bytes]) -> Ints:
        """Logits ``[images, classes]``. Raises DeviceError for frames of another length."""
        for i, frame in enumerate(frames):
            if len(frame) != self.result_bytes:
                raise DeviceError(
                    f"result {i} has {len(frame)} bytes instead of {self.result_bytes}"
                )
        parts = [
            self.output.decode(b"".join(frames[i : i + CHUNK]))
            for i in range(0, len(frames), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.output.channels), np.int64)

    def save(self, folder: Path) -> None:
        text = json.dumps(dataclasses.asdict(self), indent=1)
        (folder / FILE).write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Interface:
        """Raises DeviceError if the file is missing or damaged."""
        path = folder / FILE
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            ports: dict[str, Any] = {k: Lanes(**values.pop(k)) for k in ("input", "output")}
            return cls(**values, **ports)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DeviceError(f"{path}: {error}; build again: sievit build") from error


@dataclass(frozen=True)
class Status:
    """What the hardware says of itself.

    Attributes:
        version: of the shell.
        build: first 32 bits of ``Interface.build`` as the hardware holds them.
        frames: images whose logits have left since the reset.
        cycles: clock cycles since the first beat of the first image after the reset, up to the last
            beat of the last logits.
        errors: names of error flags that are set.
    """

    version: int
    build: int
    frames: int
    cycles: int
    errors: tuple[str, ...]


class Device(Protocol):
    """A board or its simulation. All raise DeviceError."""

    interface: Interface

    def run(self, frames: Sequence[bytes]) -> list[bytes]:
        """Logits of all images, in their order; several are under way at a time."""

    def status(self) -> Status: ...

    def reset(self) -> None:
        """Empty the accelerator and clear counters and error flags."""

    def close(self) -> None: ...
