# SPDX-License-Identifier: Apache-2.0
"""What the host must know of a design, from its graph."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sievit.boards.device import Interface, Lanes
from sievit.quant.graph import Graph
from sievit.quant.params import Port
from sievit.rtl import codegen


def interface(graph: Graph, folder: Path) -> Interface:
    """Of a folded graph that was saved in ``folder``; its manifest is the identity of the build."""
    manifest = (folder / "manifest.json").read_bytes()
    return Interface(
        model=graph.name,
        build=hashlib.sha256(manifest).hexdigest(),
        tokens=graph.input_tokens,
        input=_lanes(graph.input),
        output=_lanes(codegen.output_port(graph)),
    )


def _lanes(port: Port) -> Lanes:
    return Lanes(port.channels, port.lanes, port.itype.bits, port.itype.signed)
