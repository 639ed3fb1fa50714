# SPDX-License-Identifier: Apache-2.0
"""Images to an accelerator behind a serial line, and what it says of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sievit.boards import uart
from sievit.boards.board import BoardError
from sievit.boards.driver import Accelerator
from sievit.boards.interface import load_graph
from sievit.flow.build import Build, BuildError
from sievit.flow.trained import TrainedBuild, load_data
from sievit.models.data import patchify, pictures
from sievit.quant.execute import execute
from sievit.quant.params import Stream

#: port of the simulated device
SIMULATION = "sim"


@dataclass(frozen=True)
class Summary:
    """What a run gave.

    Attributes:
        classes: name of the predicted class of every image.
        accuracy: share of right predictions; ``None`` without labels.
        mismatches: images whose logits differ from those of the graph.
        seconds: for all images, the line included.
        cycles: of an image in the accelerator, mean.
        repeated: requests that were sent again.
    """

    classes: list[str]
    accuracy: float | None
    mismatches: int
    seconds: float
    cycles: float
    repeated: int


def run(build: Build, port: str, files: Sequence[Path] = (), most: int = 0) -> Summary:
    """Send picture files, or else the (first ``most``) test images of the model, through the
    hardware at a serial port, or with port ``sim`` through the simulated one.

    Raises BoardError for a board without a serial line, DeviceError, DataError, and BuildError if a
    logit is another than the graph says.
    """
    board = build.board
    if board.toolchain != "trellis":
        raise BoardError(f"board {board.name} has no serial line to the accelerator")
    x, labels, names = _images(build, files)
    count = min(most or len(x), len(x))
    x = x[:count]
    graph, face = load_graph(build.folder)
    if port == SIMULATION:
        from sievit.sim import uart as pins

        device = pins.simulate(build.folder)
    else:
        seconds = uart.answer_time(face, board.baud)
        device = uart.UartDevice(face, uart.SerialLine(port, board.baud), seconds)
    with Accelerator(device) as accelerator:
        begin = time.monotonic()
        got = accelerator.predict(x.numpy())
        seconds = time.monotonic() - begin
    want = execute(graph, Stream.full(x))[graph.output.name].data[:, 0].numpy()
    wrong = (got != want).any(1)
    if wrong.any():
        raise BuildError(
            f"{int(wrong.sum())} of {count} images differ from the graph, the first is image "
            f"{int(wrong.argmax())}; is the bitstream of this build?"
        )
    top: NDArray[Any] = got.argmax(1)
    right = None if labels is None else float((top == labels[:count]).mean())
    classes = [names[i] if names else str(i) for i in top.tolist()]
    return Summary(
        classes, right, int(wrong.sum()), seconds, float(np.mean(device.cycles)), device.repeated
    )


def _images(build: Build, files: Sequence[Path]) -> tuple[Any, Any, tuple[str, ...]]:
    """int64 ``[images, tokens, channels]``, labels or ``None``, names of the classes."""
    if not isinstance(build, TrainedBuild):
        if files:
            raise BuildError(f"{build.name} was imported as integers: it takes no pictures")
        return build.frames().data, None, ()
    data = load_data(build.recipe, build.data_path)
    if not files:
        return build.frames().data, data.test_labels.numpy(), data.classes
    return patchify(pictures(files, data), build.recipe.data.patch_size), None, data.classes
