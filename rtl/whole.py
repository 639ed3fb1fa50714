# SPDX-License-Identifier: Apache-2.0
"""Whole designs for yosys: a network, its shell and what is generated around them.

Apart from ``rtl/synth.py``, whose text is a part of the key of the measured resources of the cores.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sievit.rtl import synth

#: runs the commands on its input, a line each
YOSYS = [sys.executable, "-c", synth._SCRIPT]


def library() -> list[Path]:
    """All modules that a network behind its shell may consist of."""
    found = [p for f in ("lib", "cores", "shell") for p in (synth.RTL / f).glob("*.sv")]
    return sorted(p for p in found if p.stem != "axis_checker")


def read_design(top: str, sources: list[Path], options: str = "") -> str:
    """The yosys command that elaborates a module of generated ``sources`` or of the library;
    ``options``: of ``read_slang``."""
    files = " ".join(map(str, [*library(), *sources]))
    return f"read_slang --threads 1 {options} --top {top} {files}"
