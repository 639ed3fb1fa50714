# SPDX-License-Identifier: Apache-2.0
"""The accelerator as a function from images to logits, on a board or simulated.

Needs numpy alone, since it also runs on the board. ::

    acc = Accelerator("heatvit_nm_digits.bit")      # or Accelerator.simulate("build/zcu102/...")
    logits = acc.predict(images)
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike

from sievit.boards.device import Device, DeviceError, Interface, Ints, Status


class Accelerator:
    """One class for all boards.

    Args:
        device: a bitstream (``.bit``, with its ``.hwh`` and ``interface.json`` beside it), which
            is loaded into the FPGA that this runs on; or a Device that is open already.

    Raises DeviceError, as all its methods do, if the hardware is not the build that it should be,
    is in use, or does not do what it was asked. After an error the device is reset and can be used
    again.
    """

    def __init__(self, device: Device | str | Path) -> None:
        if isinstance(device, (str, Path)):
            from sievit.boards.overlay import open_overlay

            device = open_overlay(Path(device))
        self.device: Device = device
        # threads take turns; processes are kept out by the device
        self._turn = threading.Lock()

    @classmethod
    def simulate(cls, build_dir: str | Path) -> Accelerator:
        """The RTL of a build, shell of its board included, in Verilator. ``build_dir``:
        ``build/BOARD/MODEL``; it is compiled on first use."""
        from sievit.sim.device import simulate

        return cls(simulate(Path(build_dir)))

    @property
    def interface(self) -> Interface:
        return self.device.interface

    def predict(self, images: ArrayLike) -> Ints:
        """Logits int64 ``[images, classes]`` of integers ``[images, tokens, channels]``, as many
        as one likes."""
        x = np.asarray(images)
        if x.dtype.kind not in "iub":
            raise DeviceError(f"images are {x.dtype}; the accelerator takes integers")
        frames = self.interface.encode(x.astype(np.int64))
        with self._turn:
            results = self.device.run(frames)
        if len(results) != len(frames):
            raise DeviceError(f"{len(results)} results came for {len(frames)} images")
        return self.interface.decode(results)

    def status(self) -> Status:
        """Counters and error flags of the hardware."""
        with self._turn:
            return self.device.status()

    def reset(self) -> None:
        """Empty the accelerator and clear counters and error flags."""
        with self._turn:
            self.device.reset()

    def close(self) -> None:
        self.device.close()

    def __enter__(self) -> Accelerator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
