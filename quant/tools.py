# SPDX-License-Identifier: Apache-2.0
"""External programs: a missing one is a clear message."""

from __future__ import annotations

import shutil

from sievit.quant.errors import SievitError


class ToolError(SievitError):
    """An external program is missing or failed: which, why, and what to do about it."""

    def __init__(self, tool: str, why: str, remedy: str) -> None:
        super().__init__(f"{tool}: {why}; {remedy}")
        self.tool, self.why, self.remedy = tool, why, remedy

    def __reduce__(self) -> tuple[type[ToolError], tuple[str, str, str]]:
        # by default an error that cannot be built from its message; a process pool would hang on it
        return type(self), (self.tool, self.why, self.remedy)


def require_tool(name: str, remedy: str) -> str:
    """Path of the program. Raises ToolError if it is not on PATH."""
    path = shutil.which(name)
    if path is None:
        raise ToolError(name, "not found on PATH", remedy)
    return path
