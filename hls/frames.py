# SPDX-License-Identifier: Apache-2.0
"""Frame files: what the C++ test benches read and write.

A sequence of frames: two int32, tokens and package flag, then tokens * channels integers of 1, 2, 4
or 8 bytes (the smallest that holds the type), all little-endian.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream


def _dtype(t: IntType) -> np.dtype:
    size = next(s for s in (1, 2, 4, 8) if t.bits <= 8 * s)
    return np.dtype(f"<{'i' if t.signed else 'u'}{size}")


def write_frames(path: Path, stream: Stream, port: Port) -> None:
    """Write the frames of a stream that runs over the port."""
    dtype = _dtype(port.itype)
    port.itype.check(stream.data, path.name)
    with path.open("wb") as file:
        for i in range(len(stream.length)):
            frame = stream.frame(i).numpy()
            file.write(np.array([len(frame), int(stream.package[i])], dtype="<i4").tobytes())
            file.write(frame.astype(dtype).tobytes())


def read_frames(path: Path, port: Port) -> Stream:
    """Read a frame file. Raises ValueError if it ends within a frame."""
    dtype, raw = _dtype(port.itype), path.read_bytes()
    frames: list[np.ndarray] = []
    package: list[bool] = []
    at = 0
    while at < len(raw):
        tokens, flag = np.frombuffer(raw, "<i4", 2, at)
        count = int(tokens) * port.channels
        if at + 8 + count * dtype.itemsize > len(raw):
            raise ValueError(f"{path} ends within frame {len(frames)}")
        frames.append(np.frombuffer(raw, dtype, count, at + 8).reshape(-1, port.channels))
        package.append(bool(flag))
        at += 8 + count * dtype.itemsize
    length = torch.tensor([len(f) for f in frames], dtype=torch.int64)
    longest = int(length.max()) if frames else 0
    data = torch.zeros(len(frames), longest, port.channels, dtype=torch.int64)
    for i, frame in enumerate(frames):
        data[i, : len(frame)] = torch.from_numpy(frame.astype(np.int64))
    return Stream(data, length, torch.tensor(package, dtype=torch.bool))
