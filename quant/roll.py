# SPDX-License-Identifier: Apache-2.0
"""Let equal blocks that follow each other share their cores.

A chain of blocks ``<prefix><number>_...`` whose nodes agree in everything but constants, and in
what their cores can hold per set (``CoreParams.SETTINGS``), becomes one block inside a ``Loop``.
A token selector between two of them becomes a detour. The network computes the same; it needs the
logic of one block, made as wide as the rate asks for, while its weights lie in fewer and deeper
memories and only the frames under way are buffered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sievit.quant.execute import interleave
from sievit.quant.graph import Detour, Graph, Loop, Node
from sievit.quant.params import CoreParams, Stream

BLOCK = re.compile(r"^(.*?)(\d+)_(.+)$")


@dataclass(frozen=True)
class _Block:
    """Neighbouring nodes of the same prefix and number."""

    prefix: str
    number: int
    nodes: tuple[Node, ...]

    def part(self, node: Node) -> str:
        return node.name.removeprefix(f"{self.prefix}{self.number}_")

    def entry(self, graph: Graph) -> str | None:
        """The one edge by which frames come, if the last node is the only way out."""
        names = {n.name for n in self.nodes}
        outside = {e for n in self.nodes for e in n.inputs if e not in names}
        leaks = [
            e for e in names - {self.nodes[-1].name}
            if any(n.name not in names for n, _ in graph.consumers(e))
        ]  # fmt: skip
        return outside.pop() if len(outside) == 1 and not leaks else None

    @property
    def end(self) -> str:
        return self.nodes[-1].name

    def shape(self, entry: str) -> list[tuple[str, str, tuple[str, ...]]]:
        """Parts, cores and inputs, the same for blocks that are built alike."""
        own = {n.name: self.part(n) for n in self.nodes}
        return [
            (self.part(n), n.core, tuple(own.get(e, "") if e != entry else "" for e in n.inputs))
            for n in self.nodes
        ]


def roll(graph: Graph) -> Graph:
    """The graph, unfolded, with loops instead of chains of equal blocks; itself if it has none."""
    blocks, loops, nodes = _blocks(graph), list[Loop](), list[Node]()
    renamed: dict[str, str] = {}
    while blocks:
        chain, between = _chain(graph, blocks)
        del blocks[: len(chain) + len(between)]
        if len(chain) < 2:
            nodes += chain[0].nodes
            continue
        loop, made = _loop(graph, chain, between)
        loops.append(loop)
        nodes += made
        renamed |= {chain[d.before - 1].end: d.edge for d in loop.detours}
        renamed[chain[-1].end] = loop.out
    if not loops:
        return graph
    nodes = [replace(n, inputs=tuple(renamed.get(e, e) for e in n.inputs)) for n in nodes]
    loops = [replace(p, input=renamed.get(p.input, p.input)) for p in loops]
    return replace(graph, nodes=nodes, meta=dict(graph.meta), loops=loops)


def _blocks(graph: Graph) -> list[_Block]:
    out: list[_Block] = []
    for node in graph.nodes:
        match = BLOCK.match(node.name)
        key = (match[1], int(match[2])) if match else ("", -1)
        if out and (out[-1].prefix, out[-1].number) == key and match:
            out[-1] = replace(out[-1], nodes=(*out[-1].nodes, node))
        else:
            out.append(_Block(*key, (node,)))
    return out


def _chain(graph: Graph, blocks: list[_Block]) -> tuple[list[_Block], dict[int, _Block]]:
    """The longest chain of equal blocks that begins with the first one, at least that one; and what
    stands between two of them, by the number in the chain of the second one."""
    first = blocks[0]
    chain, between = [first], dict[int, _Block]()
    entry = first.entry(graph)
    if entry is None or first.number < 0 or not all(n.params.can_share() for n in first.nodes):
        return chain, between
    back = first.nodes[-1].params.output()

    def fits(edge: str) -> bool:
        return graph.port_of(edge).kind == back.kind

    def follows(block: _Block, end: str) -> bool:
        """The block alone reads that edge, and reads nothing else."""
        alone = all(n in block.nodes for n, _ in graph.consumers(end)) and end != graph.output.name
        return alone and block.entry(graph) == end

    if not fits(entry):
        return chain, between
    shape, end, aside = first.shape(entry), first.end, None
    for block in blocks[1:]:
        if not follows(block, end):
            break
        if (block.prefix, block.number) == (first.prefix, chain[-1].number + 1):
            if block.shape(end) != shape:
                break
            if aside:
                between[len(chain)] = aside
            chain.append(block)
            aside = None
        elif aside or not fits(block.end):
            break
        else:
            aside = block
        end = block.end
    while len(chain) > 1:
        try:
            _stacked(chain)
            break
        except ValueError:
            chain.pop()
    return chain, {k: v for k, v in between.items() if k < len(chain)}


def _stacked(chain: list[_Block]) -> list[tuple[CoreParams, dict[str, Tensor]]]:
    """Parameters and constants of every node for all blocks. Raises ValueError where one core
    cannot serve them. It has room for the longest frame of any."""
    out = []
    for layers in zip(*(b.nodes for b in chain), strict=True):
        most = max(n.params.max_tokens for n in layers)
        own = [(replace(n.params, max_tokens=most), dict(n.constants)) for n in layers]
        out.append(layers[0].params.stack(own))
    return out


def _loop(graph: Graph, chain: list[_Block], between: dict[int, _Block]) -> tuple[Loop, list[Node]]:
    """The loop, and its nodes with those of its detours."""
    first, last = chain[0], chain[-1]
    name = f"{first.prefix}{first.number}_{last.number}"
    entry = first.entry(graph)
    assert entry is not None
    own = {n.name: f"{name}_{first.part(n)}" for n in first.nodes} | {entry: name}
    loop = Loop(
        name,
        entry,
        tuple(own[n.name] for n in first.nodes),
        tuple(tuple(n.name for n in block.nodes) for block in chain),
        tuple(
            Detour(f"{name}_to_{at}", at, tuple(n.name for n in block.nodes))
            for at, block in between.items()
        ),
    )
    made = [
        replace(
            node, name=own[first.nodes[i].name], params=params, constants=constants,
            inputs=(*(own[e] for e in first.nodes[i].inputs), loop.set),
        )
        for i, (node, (params, constants)) in enumerate(
            zip(last.nodes, _stacked(chain), strict=True)
        )
    ]  # fmt: skip
    return loop, made + [node for block in between.values() for node in block.nodes]


def rolled_edges(graph: Graph, edges: Mapping[str, Stream]) -> dict[str, Stream]:
    """Every edge of a rolled graph, from those of the graph that it was made of."""
    out = {e: edges[e] for e in graph.edges() if e in edges}
    for loop in graph.loops:
        for i, node in enumerate(loop.nodes):
            out[node] = interleave([edges[names[i]] for names in loop.origins])
        ends = [names[-1] for names in loop.origins]
        source = out[loop.input]
        entering = [source, *(edges[e] for e in ends[:-1])]
        for detour in loop.detours:
            out[detour.edge] = entering[detour.before]
            entering[detour.before] = edges[detour.back]
        out[loop.name] = interleave(entering)
        number = torch.arange(loop.passes).repeat(len(source.length))
        out[loop.set] = Stream.full(number[:, None, None])
        out[loop.out] = edges[ends[-1]]
    return out


def rolled_lengths(graph: Graph, lengths: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``rolled_edges`` of the lengths of frames, int64 ``[frames]`` by edge."""
    streams = {
        e: Stream(torch.zeros(len(v), 1, 1, dtype=torch.int64), v, torch.zeros(len(v)).bool())
        for e, v in lengths.items()
    }
    return {e: x.length for e, x in rolled_edges(graph, streams).items()}
