# SPDX-License-Identifier: Apache-2.0
"""Everything that a board needs, in one folder: ``build/BOARD/MODEL/deploy``.

::

    MODEL.bit, MODEL.hwh   once they have been made
    interface.json         what the bitstream is
    test.npz               images int64 [images, tokens, channels], logits int64 [images, classes]
    manifest.json          SHA-256 of each file
    sievit/boards/         the driver; python3 -m sievit.boards.check runs the test images
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from sievit.boards.check import FOLDER, MANIFEST, TEST
from sievit.boards.device import FILE
from sievit.boards.interface import load_graph
from sievit.quant.execute import execute

#: files of the driver; they need numpy alone
DRIVER = ("__init__", "device", "shell", "overlay", "driver", "check")
#: test images that are sent along
IMAGES = 360


def package(build: Any, images: int = IMAGES) -> Path:
    """Write the folder of a finished build (see ``flow/build.py``), without a bitstream; one that
    is there and of the same build stays."""
    graph, found = load_graph(build.folder)
    folder, part = build.folder / FOLDER, build.folder / f"{FOLDER}.part"
    shutil.rmtree(part, ignore_errors=True)
    (part / "sievit" / "boards").mkdir(parents=True)
    for name in DRIVER:
        path = Path(__file__).resolve().parent / f"{name}.py"
        shutil.copy(path, part / "sievit" / "boards" / path.name)
    x = build.frames().pick(slice(images))
    logits = execute(graph, x)[graph.output.name].data[:, 0]
    # not compressed: the same images give the same bytes
    np.savez(part / TEST, images=x.data.numpy(), logits=logits.numpy())
    found.save(part)
    bit = folder / f"{graph.name}.bit"
    same = (folder / FILE).is_file() and (folder / FILE).read_bytes() == (part / FILE).read_bytes()
    if bit.is_file() and same:
        for path in (bit, bit.with_suffix(".hwh")):
            shutil.copy(path, part)
    seal(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return folder


def add_bitstream(build_dir: Path, bit: Path, hwh: Path) -> Path:
    """Put a bitstream into the folder; returns its new path."""
    graph, _ = load_graph(build_dir)
    folder = build_dir / FOLDER
    shutil.copy(hwh, folder / f"{graph.name}.hwh")
    new = shutil.copy(bit, folder / f"{graph.name}.bit")
    seal(folder)
    return Path(new)


def seal(folder: Path) -> None:
    """Write ``manifest.json``."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    sums = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }
    (folder / MANIFEST).write_text(json.dumps(sums, indent=1) + "\n")
