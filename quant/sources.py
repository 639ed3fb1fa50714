# SPDX-License-Identifier: Apache-2.0
"""Which sources a core is made of, and what in them decides a result. Figures that took long to
measure are kept with a digest of these."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: methods of core parameters that estimate or choose and change no integer
COST = ("resources", "foldings", "_registers")


def rtl_sources(stem: str) -> list[Path]:
    """The SystemVerilog of a core: its own file and the files of ``rtl/lib`` that it uses, directly
    or through others."""
    library = {p.stem: p for p in (ROOT / "rtl" / "lib").glob("*.sv*")}
    own = ROOT / "rtl" / "cores" / f"{stem}.sv"
    found, todo = {own}, [own]
    while todo:
        words = set(re.findall(r"\w+", bare(todo.pop())))
        new = {library[name] for name in words & library.keys()} - found
        found |= new
        todo += new
    return sorted(found)


def bare(path: Path) -> str:
    """Text of a source without what changes nothing: comments, docstrings, white space, cost."""
    text = path.read_text()
    if path.suffix != ".py":
        # what a comment takes out of the account of coverage is no mere comment
        text = re.sub(r"/\*.*?\*/|//(?! verilator coverage_)[^\n]*", " ", text, flags=re.S)
        return " ".join(text.split())
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        if body and isinstance(body[0], ast.Expr):
            if isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                del body[0]
        body[:] = [n for n in body if getattr(n, "name", "") not in COST]
    return ast.dump(tree)


def folders_digest(*folders: str, suffixes: tuple[str, ...] = (".py",)) -> str:
    """SHA-256 over the files of the given folders that end so, or these files; names and
    contents."""
    digest = hashlib.sha256()
    for folder in folders:
        place = ROOT / folder
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in suffixes:
                digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
