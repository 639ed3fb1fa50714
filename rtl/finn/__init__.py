# SPDX-License-Identifier: Apache-2.0
"""FINN (package finn-plus) as a back end: the cores as its operators, conversion, stitched top.

``setup`` first: FINN reads where it works when it is imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path

from sievit.quant.tools import ToolError
from sievit.sim.finn_rtlsim import TESTED


def setup(folder: Path) -> None:
    """Let FINN write into ``folder``. Raises ToolError if it is missing or another version."""
    if importlib.util.find_spec("finn") is None:
        raise ToolError("finn-plus", "is not installed", "run: make finn-venv")
    found = importlib.metadata.version("finn-plus")
    if found != TESTED:
        raise ToolError(
            "finn-plus", f"{found} is installed, this is made for {TESTED}",
            f"run: pip install --no-deps finn-plus=={TESTED}",
        )  # fmt: skip
    for name, path in (("FINN_BUILD_DIR", folder), ("FINN_DEPS", folder / "deps")):
        path.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(path.resolve())
