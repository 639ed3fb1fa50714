# SPDX-License-Identifier: Apache-2.0
"""An accelerator behind a serial line: the host's side of ``rtl/shell/uart_shell`` (docs/uart.md).

A reply carries the checksum of its request, so that it cannot pass for that of another image or of
another host. Whatever is damaged or missing is sent again; what stays so is an error.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from sievit.boards.device import DeviceError, Interface, Status

VERSION = 1
#: kinds of requests and of replies
IMAGE, STATUS, RESET = 0x01, 0x02, 0x03
RESULT, STATUS_REPLY, RESET_REPLY, REFUSED = 0x81, 0x82, 0x83, 0xFF
#: reasons of refusals, from bit 0 on, and what may be wrong with a result
REASONS = ("line", "crc", "length", "kind", "busy", "result")
#: characters of RFC 1055
END, ESC, ESC_END, ESC_ESC = 0xC0, 0xDB, 0xDC, 0xDD
#: times that an image is sent at most
ATTEMPTS = 4
#: seconds that an operating system may keep characters for itself
DELAY = 0.25


class Line(Protocol):
    """A serial line of 8N1 characters."""

    def write(self, data: bytes) -> None: ...

    def read(self, count: int, seconds: float) -> bytes:
        """The next ``count`` characters, or those that come within that time."""
        ...

    def close(self) -> None: ...


class SerialLine:
    """A serial port of this machine, for this process alone. Raises DeviceError."""

    def __init__(self, port: str, baud: int) -> None:
        try:
            import serial
        except ImportError as error:
            raise DeviceError('pyserial is not installed; run: pip install -e ".[ecp5]"') from error
        self.error: Any = serial.SerialException
        try:
            self.port = serial.Serial(port, baud, exclusive=True)
        except (serial.SerialException, ValueError) as error:
            raise DeviceError(f"{port}: {error}; is the board there, and free?") from error

    def write(self, data: bytes) -> None:
        try:
            self.port.write(data)
        except self.error as error:
            raise DeviceError(f"{self.port.name}: {error}") from error

    def read(self, count: int, seconds: float) -> bytes:
        try:
            self.port.timeout = seconds
            first = self.port.read(1)
            # what has come meanwhile costs no further call
            return first + (self.port.read(min(self.port.in_waiting, count - 1)) if first else b"")
        except self.error as error:
            raise DeviceError(f"{self.port.name}: {error}") from error

    def close(self) -> None:
        self.port.close()


def characters(body: bytes) -> bytes:
    """The bytes between two ENDs, as in RFC 1055."""
    escaped = body.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + escaped + b"\xc0"


def packet(kind: int, tag: int, payload: bytes = b"") -> bytes:
    """Characters of a packet: kind, tag, payload, CRC-32."""
    body = bytes([kind, tag]) + payload
    return characters(body + zlib.crc32(body).to_bytes(4, "little"))


class Packets:
    """Characters -> the packets among them that are undamaged."""

    def __init__(self) -> None:
        self.body, self.escape, self.bad = bytearray(), False, True
        #: packets that were thrown away
        self.damaged = 0

    def feed(self, data: bytes) -> list[tuple[int, int, bytes]]:
        """(kind, tag, payload) of every packet that ends in ``data``."""
        out = []
        for c in data:
            if c == END:
                body, bad = bytes(self.body), self.bad or self.escape
                self.body, self.escape, self.bad = bytearray(), False, False
                if not body:
                    continue
                if bad or len(body) < 6 or zlib.crc32(body[:-4]).to_bytes(4, "little") != body[-4:]:
                    self.damaged += 1
                    continue
                out.append((body[0], body[1], body[2:-4]))
            elif self.escape:
                self.escape = False
                self.bad |= c not in (ESC_END, ESC_ESC)
                self.body.append(END if c == ESC_END else ESC)
            elif c == ESC:
                self.escape = True
            else:
                self.body.append(c)
        return out


class UartDevice:
    """A board, or its simulation, at the end of a serial line: ``Device``.

    Attributes:
        cycles: of each image of the last ``run``, from its first input beat to its last logits.
        repeated: requests that had to be sent again so far.
    """

    def __init__(self, interface: Interface, line: Line, timeout: float) -> None:
        """``timeout``: seconds within which a request is answered; see ``answer_time``. Raises
        DeviceError if nobody answers, or the hardware is that of another build."""
        self.interface, self.line, self.timeout = interface, line, timeout
        self.packets, self.replies = Packets(), deque[tuple[int, int, bytes]]()
        self.tag, self.repeated, self.window = 0, 0, 1
        self.cycles: list[int] = []
        line.write(bytes([END, END]))
        found = self.status()
        if found.version != VERSION:
            raise DeviceError(f"the hardware speaks version {found.version}, this host {VERSION}")
        if found.build != int(interface.build[:8], 16):
            raise DeviceError(
                f"the board holds build {found.build:08x}, not {interface.build[:8]} of "
                f"{interface.model}; program it with the bitstream of this build"
            )

    # -- Device ----------------------------------------------------------------------------------
    def run(self, frames: Sequence[bytes]) -> list[bytes]:
        out: list[bytes | None] = [None] * len(frames)
        self.cycles = [0] * len(frames)
        todo = deque(range(len(frames)))
        tries = [0] * len(frames)
        waiting: dict[tuple[int, bytes], int] = {}  # (tag, checksum) -> image
        trouble = False  # nothing new is sent until all is answered or given up
        for i, frame in enumerate(frames):
            if len(frame) != self.interface.frame_bytes:
                raise DeviceError(
                    f"image {i} has {len(frame)} bytes instead of {self.interface.frame_bytes}"
                )
        while todo or waiting:
            while todo and len(waiting) < self.window and not trouble:
                i = todo.popleft()
                if tries[i] == ATTEMPTS:
                    raise DeviceError(f"image {i}: no undamaged answer to {ATTEMPTS} requests")
                self.repeated += tries[i] > 0
                tries[i] += 1
                tag, check = self._send(IMAGE, frames[i])
                waiting[tag, check] = i
            reply = self._reply()
            if reply is None:
                todo.extendleft(sorted(waiting.values(), reverse=True))
                waiting.clear()
                trouble = False
                continue
            kind, tag, payload = reply
            if kind == REFUSED:
                trouble = True
            elif kind == RESULT and (tag, payload[:4]) in waiting:
                i = waiting.pop((tag, payload[:4]))
                self.cycles[i] = int.from_bytes(payload[4:8], "little")
                out[i] = payload[8:]
            trouble &= bool(waiting)
        if "result" in self.status().errors:
            raise DeviceError("a result ended early or late: the accelerator is out of step; reset")
        return [x for x in out if x is not None]

    def status(self) -> Status:
        data = self._ask(STATUS, STATUS_REPLY, 17)
        self.window = max(1, data[1])
        return Status(
            version=data[0],
            build=int.from_bytes(data[3:7], "little"),
            frames=int.from_bytes(data[7:11], "little"),
            cycles=int.from_bytes(data[11:17], "little"),
            errors=tuple(name for i, name in enumerate(REASONS) if data[2] >> i & 1),
        )

    def reset(self) -> None:
        self._ask(RESET, RESET_REPLY, 0)

    def close(self) -> None:
        self.line.close()

    # -- requests --------------------------------------------------------------------------------
    def _send(self, kind: int, payload: bytes = b"") -> tuple[int, bytes]:
        """Tag and checksum of the request."""
        self.tag = (self.tag + 1) % 256
        self.line.write(packet(kind, self.tag, payload))
        body = bytes([kind, self.tag]) + payload
        return self.tag, zlib.crc32(body).to_bytes(4, "little")

    def _reply(self) -> tuple[int, int, bytes] | None:
        """The next undamaged packet, ``None`` after silence."""
        while not self.replies:
            data = self.line.read(256, self.timeout)
            if not data:
                return None
            self.replies.extend(self.packets.feed(data))
        return self.replies.popleft()

    def _ask(self, kind: int, answer: int, length: int) -> bytes:
        """Payload of the reply to a request without payload."""
        for attempt in range(ATTEMPTS):
            self.repeated += attempt > 0
            tag, _ = self._send(kind)
            while (reply := self._reply()) is not None:
                if reply[:2] == (answer, tag) and len(reply[2]) == length:
                    return reply[2]
        raise DeviceError(
            f"no undamaged answer to {ATTEMPTS} requests: is the board programmed with "
            f"{self.interface.model}, and the bit rate that of its board file?"
        )


def answer_time(interface: Interface, baud: int) -> float:
    """Seconds within which a request is answered: as many images as may be under way and their
    results, every character escaped, and the delays of two operating systems."""
    count = 2 * (interface.frame_bytes + interface.result_bytes + 20)
    return 8 * count * 10 / baud + 2 * DELAY
