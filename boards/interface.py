# SPDX-License-Identifier: Apache-2.0
"""What the host must know of a design, from its graph."""

from __future__ import annotations

import hashlib
from pathlib import Path

from sievit.boards.device import FILE, DeviceError, Interface, Lanes
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


def load_graph(build_dir: Path) -> tuple[Graph, Interface]:
    """Graph of a build, and what the host knows of it. Raises DeviceError if they are not of one
    build, or a file of the graph has been changed since."""
    try:
        graph = Graph.load(build_dir / "graph")
    except FileNotFoundError as error:
        raise DeviceError(
            f"nothing is built in {build_dir}; run: sievit build --board {build_dir.parent.name} "
            f"--model {build_dir.name}"
        ) from error
    except ValueError as error:
        raise DeviceError(str(error)) from error
    told, found = Interface.load(build_dir), interface(graph, build_dir / "graph")
    if told != found:
        raise DeviceError(
            f"{build_dir / FILE} describes build {told.build[:8]}, the graph beside it is "
            f"{found.build[:8]}: other weights; build again: sievit build"
        )
    return graph, found


def _lanes(port: Port) -> Lanes:
    return Lanes(port.channels, port.lanes, port.itype.bits, port.itype.signed)
