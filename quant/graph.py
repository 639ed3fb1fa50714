# SPDX-License-Identifier: Apache-2.0
"""The Graph: a network of cores, integers only, in one readable file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sievit.quant.errors import SievitError
from sievit.quant.itype import IntType
from sievit.quant.params import SET, Core, CoreParams, Port, load_core


class UnsupportedError(SievitError):
    """Something that cannot be compiled: which node, why, and what to do about it."""

    def __init__(self, node: str, reason: str, hint: str) -> None:
        super().__init__(f"{node}: {reason}; {hint}")
        self.node, self.reason, self.hint = node, reason, hint


@dataclass(frozen=True)
class Node:
    """One instance of a core. Its output edge bears its name.

    Attributes:
        inputs: producing node (or ``Graph.INPUT``) of every input port, in the order of
        ``params.inputs()``. depths: FIFO depth in beats in front of every input port; 0 = no FIFO.
        exponent: value of an output integer y is ``y * 2^exponent``.
    """

    name: str
    core: str
    params: CoreParams
    constants: dict[str, Tensor]
    inputs: tuple[str, ...]
    depths: tuple[int, ...] = ()
    exponent: int = 0

    @property
    def library(self) -> Core:
        return load_core(self.core)


@dataclass(frozen=True)
class Detour:
    """Nodes outside of a loop that its frames go through between two passes: a token selector.

    Attributes:
        edge: brings frames to the nodes.
        before: the pass that a frame makes next.
        nodes: in topological order; by the edge of the last one frames come back.
    """

    edge: str
    before: int
    nodes: tuple[str, ...]

    @property
    def back(self) -> str:
        return self.nodes[-1]


@dataclass(frozen=True)
class Loop:
    """Nodes that a frame passes ``passes`` times, every time with another set of constants.

    The edge ``name`` brings frames to the first of the nodes, ``name_set`` the number of their pass
    to all, and ``name_out`` carries on what has passed as often as it must. On the edges inside a
    stream holds the passes of the first frame, then those of the second one ...

    Attributes:
        input: the edge that frames come by.
        origins: by pass the names that the nodes had when every layer was a node.
        detours: in the order of their passes.
        in_flight: frames on their way at the same time.
        depth: beats of the FIFO that holds returning frames while another one enters.
        entry_depths: beats of the FIFOs in which frames gather that come by ``input``, and from
            every detour; at least a frame.
    """

    name: str
    input: str
    nodes: tuple[str, ...]
    origins: tuple[tuple[str, ...], ...]
    detours: tuple[Detour, ...] = ()
    in_flight: int = 1
    depth: int = 0
    entry_depths: tuple[int, ...] = ()

    @property
    def passes(self) -> int:
        return len(self.origins)

    @property
    def starts(self) -> tuple[int, ...]:
        """The first pass of frames that come by each of ``entries``."""
        return (0, *(d.before for d in self.detours))

    @property
    def entries(self) -> tuple[str, ...]:
        """Edges by which frames come from outside and from detours."""
        return (self.input, *(d.back for d in self.detours))

    @property
    def exits(self) -> tuple[str, ...]:
        """Edges by which they leave for each detour, and for good."""
        return (*(d.edge for d in self.detours), self.out)

    @property
    def set(self) -> str:
        return f"{self.name}_set"

    @property
    def out(self) -> str:
        return f"{self.name}_out"

    @property
    def back(self) -> str:
        """The edge by which frames return."""
        return self.nodes[-1]


@dataclass
class Graph:
    """Nodes in topological order; the last one is the output.

    Attributes:
        input: the port that images enter by (patch tokens in raster order).
        input_exponent: value of an input integer x is ``x * 2^input_exponent``.
        loops: groups of neighbouring nodes that frames pass several times.
    """

    INPUT = "input"

    name: str
    input: Port
    input_tokens: int
    input_exponent: int
    nodes: list[Node]
    meta: dict[str, Any] = field(default_factory=dict)
    loops: list[Loop] = field(default_factory=list)

    @property
    def output(self) -> Node:
        return self.nodes[-1]

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node {name!r} in graph {self.name!r}")

    def edges(self) -> list[str]:
        """All edges, every one behind those that it is made of."""
        out = [self.INPUT]
        for node in self.nodes:
            out += [e for p in self.loops if node.name == p.nodes[0] for e in (p.name, p.set)]
            out.append(node.name)
            out += [e for p in self.loops if node.name == p.back for e in p.exits]
        return out

    def loop_around(self, name: str) -> Loop | None:
        """The loop that a node, or an edge between its nodes, is in."""
        for loop in self.loops:
            if name in (*loop.nodes, loop.name, loop.set):
                return loop
        return None

    @property
    def detours(self) -> list[Detour]:
        """Those of all loops."""
        return [detour for loop in self.loops for detour in loop.detours]

    def passes(self, name: str) -> int:
        """How often a frame passes the node, or edge, of that name."""
        loop = self.loop_around(name)
        return loop.passes if loop else 1

    def port_of(self, edge: str) -> Port:
        """Port that drives the edge of that name."""
        for loop in self.loops:
            if edge == loop.set:
                return next(p for p in self.node(loop.back).params.inputs() if p.name == SET)
            if edge == loop.name or edge in loop.exits:
                return self.node(loop.back).params.output()
        return self.input if edge == self.INPUT else self.node(edge).params.output()

    def burst(self, edge: str, port: Port, depth: int) -> int:
        """Beats of a FIFO on the edge in front of the width converter of a port that has no FIFO
        (``depth`` 0) behind it: a core that keeps one token of a frame could not drop the others
        while that is made narrower, and a loop would wait for what its frames leave it for."""
        source = self.port_of(edge)
        if depth or source.lanes <= port.lanes:
            return 0
        if any(edge == detour.edge for detour in self.detours):
            return self.max_tokens(edge) * source.beats
        made = next((n for n in self.nodes if n.name == edge), None)
        keeps_one = made is not None and made.params.out_tokens(made.params.max_tokens) == 1
        return source.beats if keeps_one else 0

    def consumers(self, edge: str) -> list[tuple[Node, int]]:
        """(node, input index) of everything that reads the edge, in node order."""
        return [(n, i) for n in self.nodes for i, e in enumerate(n.inputs) if e == edge]

    def max_tokens(self, edge: str) -> int:
        """Most tokens of a frame on the edge: no more than each of its readers takes, for a core
        may send fewer than its parameters alone tell."""
        if edge == self.INPUT:
            return self.input_tokens
        if any(edge == loop.set for loop in self.loops):
            return 1
        loops = {e: loop.back for loop in self.loops for e in (loop.name, *loop.exits)}
        p = self.node(loops.get(edge, edge)).params
        readers = (n.params.max_tokens for n, _ in self.consumers(edge))
        return min([p.out_tokens(p.max_tokens), *readers])

    def all_tokens(self) -> dict[str, int]:
        """``max_tokens`` of all edges."""
        return {edge: self.max_tokens(edge) for edge in self.edges()}

    def check(self) -> None:
        """Raise UnsupportedError where ports do not fit together."""
        known = {self.INPUT}
        for loop in self.loops:
            self._check_loop(loop)
        for node in self.nodes:
            for loop in self.loops:
                if node.name == loop.nodes[0]:
                    known |= {loop.name, loop.set}
            ports = node.params.inputs()
            if len(ports) != len(node.inputs):
                raise UnsupportedError(
                    node.name, "wrong number of inputs", "this is a lowering bug"
                )
            for edge, port in zip(node.inputs, ports, strict=True):
                if edge not in known:
                    raise UnsupportedError(
                        node.name, f"reads {edge!r} before it is made", "reorder"
                    )
                source = self.port_of(edge)
                if source.kind != port.kind:
                    raise UnsupportedError(
                        node.name,
                        f"{port.name} takes {port.kind}, {edge!r} gives {source.kind}",
                        "this is a lowering bug",
                    )
            known.add(node.name)
            known |= {e for loop in self.loops if node.name == loop.back for e in loop.exits}

    def _check_loop(self, loop: Loop) -> None:
        back = self.port_of(loop.back)
        for source in map(self.port_of, loop.entries):
            if source.kind != back.kind:
                raise UnsupportedError(
                    loop.name,
                    f"takes {source.kind}, returns {back.kind}",
                    "a loop needs frames of one type",
                )
        inside = (loop.name, loop.set, *loop.nodes)
        for node in self.nodes:
            loops = [e in inside for e in node.inputs]
            if loops and (any(loops) if node.name not in loop.nodes else not all(loops)):
                raise UnsupportedError(
                    node.name, f"reads past the ends of the loop {loop.name!r}", "unroll it"
                )

    # -- file ------------------------------------------------------------------------------------
    def save(self, folder: Path) -> None:
        """Write ``graph.json``, ``constants/*.npy`` and ``manifest.json`` (SHA-256 of each file).

        The same graph gives the same bytes.
        """
        (folder / "constants").mkdir(parents=True, exist_ok=True)
        nodes = []
        for node in self.nodes:
            for name, value in node.constants.items():
                np.save(folder / "constants" / f"{node.name}.{name}.npy", value.numpy())
            nodes.append(
                {
                    "name": node.name,
                    "core": node.core,
                    "inputs": list(node.inputs),
                    "depths": list(node.depths),
                    "exponent": node.exponent,
                    "params": node.params.to_dict(),
                    "constants": sorted(node.constants),
                }
            )
        port = self.input
        text = {
            "name": self.name,
            "input": {
                "channels": port.channels,
                "lanes": port.lanes,
                "type": str(port.itype),
                "tokens": self.input_tokens,
                "exponent": self.input_exponent,
            },
            "meta": self.meta,
            "loops": [asdict(loop) for loop in self.loops],
            "nodes": nodes,
        }
        (folder / "graph.json").write_text(json.dumps(text, indent=1) + "\n")
        files = [*sorted(folder.rglob("*.npy")), folder / "graph.json"]
        sums = {
            p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in files
        }
        (folder / "manifest.json").write_text(json.dumps(sums, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Graph:
        """Read a saved graph. Raises ValueError if a file's SHA-256 differs from the manifest."""
        sums = json.loads((folder / "manifest.json").read_text())
        for name, digest in sums.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise ValueError(f"{folder / name} was changed after the build; build again")
        text = json.loads((folder / "graph.json").read_text())
        nodes = []
        for n in text["nodes"]:
            constants = {
                c: torch.from_numpy(np.load(folder / "constants" / f"{n['name']}.{c}.npy"))
                for c in n["constants"]
            }
            nodes.append(
                Node(
                    n["name"],
                    n["core"],
                    load_core(n["core"]).params.from_dict(n["params"]),
                    constants,
                    tuple(n["inputs"]),
                    tuple(n["depths"]),
                    n["exponent"],
                )
            )
        i = text["input"]
        port = Port("s_axis", i["channels"], i["lanes"], IntType.parse(i["type"]))
        loops = [
            Loop(
                v["name"], v["input"], tuple(v["nodes"]), tuple(map(tuple, v["origins"])),
                tuple(Detour(d["edge"], d["before"], tuple(d["nodes"])) for d in v["detours"]),
                v["in_flight"], v["depth"], tuple(v["entry_depths"]),
            )
            for v in text["loops"]
        ]  # fmt: skip
        return cls(text["name"], port, i["tokens"], i["exponent"], nodes, text["meta"], loops)
