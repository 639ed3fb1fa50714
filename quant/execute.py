# SPDX-License-Identifier: Apache-2.0
"""Run a Graph with the golden functions, keeping every edge."""

from __future__ import annotations

from sievit.quant.graph import Graph
from sievit.quant.params import Stream


def execute(graph: Graph, x: Stream) -> dict[str, Stream]:
    """Every edge of the graph by name, ``Graph.INPUT`` included, for input frames ``x``.

    Raises OverflowError if a value does not fit the type of its edge.
    """
    graph.input.itype.check(x.data, "input")
    edges = {Graph.INPUT: x}
    for node in graph.nodes:
        y = node.library.golden(node.params, node.constants, *(edges[e] for e in node.inputs))
        node.params.output().itype.check(y.data, node.name)
        edges[node.name] = y
    return edges


def first_difference(
    graph: Graph, golden: dict[str, Stream], other: dict[str, Stream]
) -> str | None:
    """Where ``other`` first differs from ``golden``: edge, frame, token, channel; None if nowhere.

    Only edges that ``other`` holds are compared, in graph order.
    """
    for edge in [Graph.INPUT, *(n.name for n in graph.nodes)]:
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
