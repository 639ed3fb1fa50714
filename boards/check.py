# SPDX-License-Identifier: Apache-2.0
"""Run the test images on the accelerator and compare every byte of the logits: on a board
``python3 -m sievit.boards.check``, in the folder that was brought there.

Needs numpy alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sievit.boards.device import DeviceError
from sievit.boards.driver import Accelerator

FOLDER, TEST, MANIFEST = "deploy", "test.npz", "manifest.json"


def verify(folder: Path) -> None:
    """Raise DeviceError unless every file is as it was when the folder was made."""
    try:
        sums: dict[str, str] = json.loads((folder / MANIFEST).read_text())
        for name, digest in sums.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise DeviceError(f"{folder / name} was changed; bring the folder here again")
    except (OSError, ValueError) as error:
        raise DeviceError(f"{folder}: {error}; bring the whole folder here again") from error


def check(acc: Accelerator, folder: Path) -> dict[str, Any]:
    """Run the test images of ``folder``; what was found. Raises DeviceError if a logit differs."""
    with np.load(folder / TEST) as test:
        images, want = test["images"], test["logits"]
    acc.reset()
    begin = time.monotonic()
    got = acc.predict(images)
    seconds = time.monotonic() - begin
    status = acc.status()
    wrong = (got != want).any(1) if got.shape == want.shape else np.ones(len(want), bool)
    if wrong.any() or got.tobytes() != want.tobytes():
        first = int(wrong.argmax())
        raise DeviceError(
            f"{int(wrong.sum())} of {len(want)} images differ; the first, image {first}: "
            f"{got[first].tolist()} instead of {want[first].tolist()}"
        )
    return {
        "model": acc.interface.model,
        "build": acc.interface.build[:8],
        "images": len(want),
        "mismatches": 0,
        "frames": status.frames,
        "cycles": status.cycles,
        "errors": list(status.errors),
        "seconds": round(seconds, 3),
    }


def main(arguments: list[str]) -> int:
    """Check the folder named first, or this one; 0 if all is equal."""
    folder = Path(arguments[0]) if arguments else Path.cwd()
    try:
        verify(folder)
        found = sorted(folder.glob("*.bit"))
        if len(found) != 1:
            raise DeviceError(f"{len(found)} bitstreams in {folder}; there must be one")
        with Accelerator(found[0]) as acc:
            print(json.dumps(check(acc, folder)))
    except DeviceError as error:
        print(f"sievit: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
