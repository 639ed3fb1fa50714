# SPDX-License-Identifier: Apache-2.0
"""Writing files whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path


def write_atomic(path: Path, text: str) -> None:
    """Write ``text`` to ``path``; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a document.

    Raises ValueError if the document has no such pair of marks.
    """
    old = path.read_text()
    marks = f"<!-- {name} -->", f"<!-- /{name} -->"
    pattern = re.escape(marks[0]) + ".*?" + re.escape(marks[1])
    new, count = re.subn(pattern, lambda _: f"{marks[0]}\n{text}\n{marks[1]}", old, flags=re.S)
    if count != 1:
        raise ValueError(f"{path}: {count} sections {marks[0]} ... {marks[1]} instead of one")
    write_atomic(path, new)
