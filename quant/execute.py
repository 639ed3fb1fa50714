# SPDX-License-Identifier: Apache-2.0
"""Run a Graph with the golden functions, keeping every edge."""

from __future__ import annotations

import torch

from sievit.quant.graph import Graph, Loop, Node
from sievit.quant.params import Stream


def execute(graph: Graph, x: Stream) -> dict[str, Stream]:
    """Every edge of the graph by name, ``Graph.INPUT`` included, for input frames ``x``.

    Raises OverflowError if a value does not fit the type of its edge.
    """
    graph.input.itype.check(x.data, "input")
    edges = {Graph.INPUT: x}
    for node in graph.nodes:
        for loop in graph.loops:
            if node.name == loop.nodes[0]:
                edges.update(_pass(graph, loop, edges[loop.input]))
        if node.name not in edges:
            edges[node.name] = _run(node, edges)
    return edges


def _run(node: Node, edges: dict[str, Stream]) -> Stream:
    y = node.library.golden(node.params, node.constants, *(edges[e] for e in node.inputs))
    node.params.output().itype.check(y.data, node.name)
    return y


def _pass(graph: Graph, loop: Loop, x: Stream) -> dict[str, Stream]:
    """The edges of a loop and of its detours for the frames ``x`` that come to it."""
    found, out = list[dict[str, Stream]](), dict[str, Stream]()
    for index in range(loop.passes):
        for detour in loop.detours:
            if detour.before == index:
                out[detour.edge] = x
                for name in detour.nodes:
                    out[name] = _run(graph.node(name), out)
                x = out[detour.back]
        number = torch.full((len(x.length), 1, 1), index)
        edges = {loop.name: x, loop.set: Stream.full(number)}
        for name in loop.nodes:
            edges[name] = _run(graph.node(name), edges)
        found.append(edges)
        x = edges[loop.back]
    inside = {e: interleave([edges[e] for edges in found]) for e in found[0]}
    return inside | out | {loop.out: x}


def interleave(passes: list[Stream]) -> Stream:
    """The streams of the passes of a loop as one: all passes of the first frame, then ..."""
    count, frames = len(passes), len(passes[0].length)
    return Stream.cat(passes).pick(torch.arange(count * frames).reshape(count, frames).T.flatten())


def first_difference(
    graph: Graph, golden: dict[str, Stream], other: dict[str, Stream]
) -> str | None:
    """Where ``other`` first differs from ``golden``: edge, frame, token, channel; None if nowhere.

    Only edges that ``other`` holds are compared, in graph order.
    """
    for edge in graph.edges():
        if edge not in other or golden[edge] == other[edge]:
            continue
        want, got = golden[edge], other[edge]
        for i in range(len(want.length)):
            if i >= len(got.length):
                return f"edge {edge}, frame {i}: missing"
            a, b = want.frame(i), got.frame(i)
            if len(a) != len(b):
                return f"edge {edge}, frame {i}: {len(b)} tokens instead of {len(a)}"
            if bool(want.package[i]) != bool(got.package[i]):
                return f"edge {edge}, frame {i}: package flag {bool(got.package[i])}"
            wrong = (a != b).nonzero()
            if len(wrong):
                t, c = (int(v) for v in wrong[0])
                return (
                    f"edge {edge}, frame {i}, token {t}, channel {c}: "
                    f"{int(b[t, c])} instead of {int(a[t, c])}"
                )
        return f"edge {edge}: {len(got.length)} frames instead of {len(want.length)}"
    return None
