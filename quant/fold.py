# SPDX-License-Identifier: Apache-2.0
"""Choose the parallelism of every core for a budget, and what the choice costs.

Folding searches the smallest initiation interval whose design fits the budget. For a target
interval every core takes the cheapest of its foldings that reaches it, the price of a resource
being its share of the budget; then multipliers move from LUTs to DSPs until both are loaded
alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sievit.quant.errors import SievitError
from sievit.quant.graph import Graph, Node
from sievit.quant.params import CoreParams, Port, Resources

Lengths = Mapping[str, Tensor]


class BudgetError(SievitError):
    """No folding fits the budget; the message names the resource and the excess."""


@dataclass(frozen=True)
class Choice:
    """One folding of one node."""

    changes: dict[str, int]
    cycles: float
    resources: Resources


def frame_lengths(graph: Graph, lengths: Lengths | None, edge: str) -> Tensor:
    """Tokens of the profiled frames on an edge, int64 ``[images]``; without a profile the most."""
    return lengths[edge] if lengths else torch.tensor([graph.max_tokens(edge)])


def mean_cycles(params: CoreParams, tokens: Tensor) -> float:
    """Average of ``cycles`` over frames of the given lengths."""
    values, counts = tokens.unique(return_counts=True)
    total = sum(params.cycles(int(t)) * int(c) for t, c in zip(values, counts, strict=True))
    return total / int(counts.sum())


def typical_tokens(tokens: Tensor) -> int:
    """Length that nine of ten profiled frames do not exceed: FIFOs level out the others."""
    return int(tokens.double().quantile(0.9, interpolation="lower"))


def choices(node: Node, tokens: Tensor) -> list[Choice]:
    """Every folding of a node, fastest last; ``mult_dsp`` is chosen where the core has it."""
    dsp = [0, 1] if any(f.name == "mult_dsp" for f in fields(node.params)) else [None]
    out, typical = [], typical_tokens(tokens)
    for folding in node.params.foldings():
        cycles = None
        for use in dsp:
            changes = folding if use is None else {**folding, "mult_dsp": use}
            params = replace(node.params, **changes)
            cycles = params.cycles(typical) if cycles is None else cycles
            out.append(Choice(changes, cycles, params.resources()))
    return sorted(out, key=lambda c: (-c.cycles, tuple(c.changes.items())))


def fold(graph: Graph, budget: Resources, lengths: Lengths | None = None, ii: float = 0.0) -> Graph:
    """A folded copy of the graph: lanes, multiplier style and FIFO depths set.

    Args:
        budget: usable resources of the board.
        lengths: tokens per frame on every edge over a profile of real inputs, int64 ``[images]`` by
            edge name. Without it every frame has the most tokens possible.
        ii: stop at that initiation interval instead of the smallest that fits.

    Raises BudgetError if even the smallest design does not fit.
    """
    options = {n.name: choices(n, frame_lengths(graph, lengths, n.inputs[0])) for n in graph.nodes}
    fastest = max(min(c.cycles for c in o) for o in options.values())
    targets = sorted({c.cycles for o in options.values() for c in o if c.cycles >= fastest})
    targets = [t for t in targets if t >= ii] or targets[-1:]

    def best(target: float) -> tuple[float, Graph]:
        chosen = {n: _cheapest(o, target, budget) for n, o in options.items()}
        design = _apply(graph, _use_dsps(chosen, options, budget, plumbing(graph)), lengths)
        return _load(total(design), budget), design

    low, high = 0, len(targets) - 1
    load, design = best(targets[high])
    if load > 1:
        raise BudgetError(_excess(total(design), budget))
    while low < high:
        middle = (low + high) // 2
        load, candidate = best(targets[middle])
        if load <= 1:
            high, design = middle, candidate
        else:
            low = middle + 1
    design.check()
    return design


def _cheapest(options: list[Choice], target: float, budget: Resources) -> Choice:
    """Cheapest folding with LUT multipliers that reaches the target."""

    def cost(c: Choice) -> float:
        r = c.resources
        return r.lut / budget.lut + 0.3 * r.ff / budget.ff + r.bram36 / max(budget.bram36, 1e-9)

    plain = [c for c in options if not c.changes.get("mult_dsp")]
    fitting = [c for c in plain if c.cycles <= target] or plain[-1:]
    return min(fitting, key=lambda c: (cost(c), c.cycles, tuple(c.changes.items())))


def _use_dsps(
    chosen: dict[str, Choice], options: dict[str, list[Choice]], budget: Resources, rest: Resources
) -> dict[str, Choice]:
    """Move multipliers from LUTs to DSPs, best saving first, until both are loaded alike."""
    twins = {}
    for name, choice in chosen.items():
        folding = {**choice.changes, "mult_dsp": 1}
        twin = next((c for c in options[name] if c.changes == folding), None)
        if twin is not None and twin.resources.lut < choice.resources.lut:
            twins[name] = twin

    def saving(name: str) -> float:
        a, b = chosen[name].resources, twins[name].resources
        return (a.lut - b.lut) / max(b.dsp, 1)

    out = dict(chosen)
    lut = rest.lut + sum(c.resources.lut for c in chosen.values())
    dsp = 0.0
    for name in sorted(twins, key=lambda n: (-saving(n), n)):
        a, b = chosen[name].resources, twins[name].resources
        if dsp + b.dsp > budget.dsp or (dsp + b.dsp) / budget.dsp > lut / budget.lut:
            continue
        lut, dsp = lut + b.lut - a.lut, dsp + b.dsp
        out[name] = twins[name]
    return out


def _apply(graph: Graph, chosen: dict[str, Choice], lengths: Lengths | None) -> Graph:
    nodes = [
        replace(n, params=replace(n.params, **chosen[n.name].changes), depths=())
        for n in graph.nodes
    ]
    consumer = nodes[0].params.inputs()[0]
    port = replace(graph.input, lanes=consumer.lanes)
    folded = Graph(
        graph.name, port, graph.input_tokens, graph.input_exponent, nodes, dict(graph.meta)
    )
    return size_fifos(folded, lengths)


# -- time ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """When the first and the last beat of a frame pass an edge, in cycles."""

    first: float
    last: float


def arrivals(graph: Graph, tokens: Mapping[str, int]) -> dict[str, Arrival]:
    """Arrival of a lone frame on every edge; ``tokens``: its length by edge name."""
    beats = tokens[Graph.INPUT] * (graph.input.channels // graph.input.lanes)
    out = {Graph.INPUT: Arrival(0.0, float(beats - 1))}
    for node in graph.nodes:
        p, t = node.params, tokens[node.inputs[0]]
        starts, ends = [], []
        for edge, port in zip(node.inputs, p.inputs(), strict=True):
            a = out[edge]
            gap = 2 + adapter_cycles(graph.port_of(edge), port)  # FIFO, width converter
            # a core that needs a whole token waits until its slowest producer has sent one
            token = (a.last - a.first + 1) / max(1, tokens[edge])
            wait = max(0.0, token * (1 - 1 / port.beats) - (port.beats - 1))
            starts.append(a.first + gap + (wait if node.core in WHOLE_TOKEN else 0.0))
            ends.append(a.last + gap)
        start, end, head = max(starts), max(ends), p.head_latency(t)
        first = start + head
        if p.barrier():
            first = max(first, end + head - t * p.inputs()[0].beats)
            last = first + p.cycles(t) - 1
        elif node.core == "first_token":
            last = first + p.output().beats - 1
        else:
            # the last token still needs its own steps after it has come
            last = max(first + p.cycles(t) - 1, end + head + p.cycles(1) - p.inputs()[0].beats)
        out[node.name] = Arrival(first, last)
    return out


#: cores that start when a token is complete
WHOLE_TOKEN = ("nm_matmul", "layernorm", "gated_sum", "token_select")


def adapter_cycles(source: Port, port: Port) -> int:
    """Cycles that a width converter adds until the first wide beat is complete."""
    if source.lanes == port.lanes:
        return 0
    return 1 + max(0, port.lanes // source.lanes - 1)


def latency(graph: Graph, tokens: Mapping[str, int]) -> float:
    """Cycles from the first input beat to the last output beat of a lone frame, both counted."""
    return arrivals(graph, tokens)[graph.output.name].last + 1


def interval(graph: Graph, lengths: Lengths | None = None) -> tuple[float, str]:
    """(predicted initiation interval, the node that sets it most often) over the profile.

    Every frame takes as long as its slowest node; the prediction is the mean of that. FIFOs let
    neighbouring frames average out, so a simulation may be a little faster.
    """
    rows = []
    for node in graph.nodes:
        tokens = frame_lengths(graph, lengths, node.inputs[0])
        known = {int(t): node.params.cycles(int(t)) for t in tokens.unique()}
        rows.append(torch.tensor([known[int(t)] for t in tokens]))
    slowest = torch.stack(rows).max(0)
    return float(slowest.values.double().mean()), graph.nodes[
        int(slowest.indices.mode().values)
    ].name


# -- buffers -------------------------------------------------------------------------------------


def size_fifos(graph: Graph, lengths: Lengths | None = None) -> Graph:
    """Set the FIFO depths so that branches which meet again can run at full rate.

    Where the inputs of a node come from branches of different latency, the early one waits: its
    FIFO holds the frames that pass meanwhile, rounded up to whole frames. Queries wait for the keys
    of their frame. Elsewhere one token decouples neighbours.
    """
    longest = {e: graph.max_tokens(e) for e in [Graph.INPUT, *(n.name for n in graph.nodes)]}
    when = arrivals(graph, longest)
    ii, _ = interval(graph, lengths)
    nodes = []
    for node in graph.nodes:
        ports = node.params.inputs()
        latest = max(when[e].first for e in node.inputs)
        depths = []
        for i, (edge, port) in enumerate(zip(node.inputs, ports, strict=True)):
            wait = latest - when[edge].first
            frame = longest[edge] * port.beats
            if node.params.barrier() and len(ports) > 1 and i == 0:
                depths.append(2 * frame + port.beats)
            elif wait > frame:
                depths.append(int(frame * (1 + -(-wait // ii))) + port.beats)
            else:
                depths.append(max(2, min(int(wait) + port.beats + 2, 2 * frame)))
        nodes.append(replace(node, depths=tuple(depths)))
    return Graph(
        graph.name, graph.input, graph.input_tokens, graph.input_exponent, nodes, graph.meta
    )


def fifo_resources(port: Port, depth: int) -> Resources:
    """One stream FIFO: LUT RAM up to 128 words, block RAM beyond."""
    width = port.lanes * port.itype.bits + 2
    if depth <= 128:
        return Resources(lut=width * -(-depth // 64) * 1.4 + 25, ff=width + 25)
    half = 0.5 if width <= 18 and depth <= 1024 else -(-width // 36) * -(-depth // 1024)
    return Resources(lut=40, ff=40, bram36=half)


def plumbing(graph: Graph) -> Resources:
    """FIFOs, forks and width converters of a folded graph."""
    out = Resources()
    for node in graph.nodes:
        for edge, port, depth in zip(node.inputs, node.params.inputs(), node.depths, strict=False):
            out = out + fifo_resources(port, depth)
            source = graph.port_of(edge)
            if source.lanes != port.lanes:
                bits = max(source.lanes, port.lanes) * port.itype.bits
                out = out + Resources(lut=bits * 1.2 + 20, ff=bits * 1.5 + 20)
    return out


def total(graph: Graph) -> Resources:
    """Predicted resources of a folded graph: cores and plumbing."""
    out = plumbing(graph)
    for node in graph.nodes:
        out = out + node.params.resources()
    return out


def _load(used: Resources, budget: Resources) -> float:
    """Largest share of a budget that is used; infinite for something the board lacks."""
    pairs = zip(used.astuple(), budget.astuple(), strict=True)
    return max((u / b if b else (float("inf") if u else 0.0)) for u, b in pairs)


def _excess(used: Resources, budget: Resources) -> str:
    lines = []
    for f in fields(Resources):
        u, b = getattr(used, f.name), getattr(budget, f.name)
        if u > b:
            lines.append(f"{f.name} {u:.0f} of {b:.0f} ({u - b:.0f} too many)")
    return (
        "even the smallest design does not fit: "
        + ", ".join(lines)
        + "; choose a larger board or a smaller model"
    )


def describe(params: CoreParams) -> dict[str, Any]:
    """Folding fields of a node's parameters, for people."""
    names = [n for n in ("simd", "pe", "heads_par", "mult_dsp") if hasattr(params, n)]
    return {n: getattr(params, n) for n in names}
