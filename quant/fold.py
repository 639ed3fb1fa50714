# SPDX-License-Identifier: Apache-2.0
"""Choose the parallelism of every core for a budget, and what the choice costs.

Folding searches the smallest initiation interval whose design fits the budget. What the cores take
for an interval is an integer program: of the foldings that reach it, the choice whose resources fit
the budget together, and are the smallest shares of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from math import lcm
from typing import Any

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor

from sievit.quant import memories
from sievit.quant.errors import SievitError
from sievit.quant.graph import Graph, Loop, Node
from sievit.quant.params import SET, CoreParams, Device, Port, Resources

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
    """Tokens of the profiled frames on an edge, int64 ``[images, passes]``; without a profile the
    most."""
    passes = graph.passes(edge)
    if lengths is None:
        return torch.full((1, passes), graph.max_tokens(edge))
    return lengths[edge].reshape(-1, passes)


def mean_cycles(params: CoreParams, tokens: Tensor) -> float:
    """Average of ``cycles`` over frames of the given lengths."""
    values, counts = tokens.unique(return_counts=True)
    total = sum(params.cycles(int(t)) * int(c) for t, c in zip(values, counts, strict=True))
    return total / int(counts.sum())


def typical_tokens(tokens: Tensor) -> list[int]:
    """By pass the length that nine of ten profiled frames do not exceed: FIFOs level out the
    others. ``tokens``: int64 ``[images, passes]``."""
    lengths = tokens.double().quantile(0.9, 0, interpolation="lower")
    return [int(t) for t in lengths]


def choices(
    node: Node, tokens: Tensor, device: Device | None = None, haste: float = 1.0
) -> list[Choice]:
    """Every folding of a node that suits the device, fastest last; ``mult_dsp`` is chosen where the
    core has it and its foldings leave it open.

    A frame takes the cycles of all its passes, ``tokens`` int64 ``[images, passes]``, times
    ``haste``.
    """
    dsp = [0, 1] if any(f.name == "mult_dsp" for f in fields(node.params)) else [None]
    out, typical = [], Counter(typical_tokens(tokens))
    for folding in node.params.foldings():
        cycles = None
        for use in [None] if "mult_dsp" in folding else dsp:
            changes = folding if use is None else {**folding, "mult_dsp": use}
            params = replace(node.params, **changes)
            if not params.suits(device or Device()):
                continue
            if cycles is None:
                cycles = haste * sum(n * params.cycles(t) for t, n in typical.items())
            out.append(Choice(changes, cycles, params.resources()))
    return sorted(out, key=lambda c: (-c.cycles, tuple(c.changes.items())))


def undominated(options: list[Choice]) -> list[Choice]:
    """Those of which no other is as good in everything and better in something; of equal ones the
    first."""
    table = np.array([(c.cycles, *c.resources.astuple()) for c in options])
    return [options[i] for i in _undominated(table)]


def _undominated(table: np.ndarray) -> list[int]:
    """Rows that no other one is below, ascending."""
    kept: list[int] = []
    front = np.empty_like(table)  # the rows kept
    for i in np.lexsort(table.T[::-1]):  # one that is better comes before those that it beats
        if not (front[: len(kept)] <= table[i]).all(1).any():
            front[len(kept)] = table[i]
            kept.append(int(i))
    return sorted(kept)


#: between the intervals that the search tries first
STRIDE = 1.25
#: designs of one interval: each leaves the room for FIFOs that the one before turned out to need,
#: or half of what was missing if that is too much
ROUNDS = 6
#: how many times faster than the interval the cores of a detour are
DETOUR_HASTE = 4.0
#: price of a core that takes the whole interval, in shares of the budget: faster cores need less
#: room for what waits for them
SLOWNESS = 0.03
#: price of the largest share of the budget: devices are hard to fill evenly, and harder unevenly
BALANCE = 3.0
#: of the search for a choice: branches, and how far from the cheapest it may end
SOLVER = {"node_limit": 2000, "mip_rel_gap": 0.01}


def fold(
    graph: Graph,
    budget: Resources,
    lengths: Lengths | None = None,
    ii: float = 0.0,
    device: Device | None = None,
    within: bool = True,
    level: bool = True,
    most: float = np.inf,
) -> Graph:
    """A folded copy of the graph: lanes, tokens side by side, multiplier style, RAM for the weights
    and FIFO depths set.

    Args:
        budget: usable resources of the board.
        lengths: tokens per frame on every edge over a profile of real inputs, int64 ``[images]`` by
            edge name. Without it every frame has the most tokens possible.
        ii: stop at that initiation interval, in cycles, instead of the smallest that fits.
        device: what its blocks can do; UltraScale+ if omitted.
        within: False: the design with that interval that goes least beyond the budget.
        level: as in ``size_fifos``.
        most: no design with a larger interval is looked for.

    Raises BudgetError if no design fits.
    """
    options = _options(graph, lengths, device)
    ii = max(ii, _slowest(options)[0])
    targets = sorted({ii, *(c.cycles for o in options.values() for c in o if c.cycles > ii)})
    targets = [t for t in targets if t <= most] or targets[:1]

    unfolded = plumbing(graph)
    tables = {
        id(found): np.array([(c.cycles, *c.resources.astuple()) for c in found])
        for found in options.values()
    }

    def least(target: float) -> Resources:
        """What no choice takes less of: for every core and resource the least of any choice."""
        used = np.array(unfolded.astuple(), float)
        for found in options.values():
            table = tables[id(found)]
            used += table[table[:, 0] <= target, 1:].min(0)
        return Resources(*used)

    def best(target: float) -> Graph | None:
        """A design with that interval that fits."""
        if not _fits(least(target), budget):
            return None
        program = _Program(options, target, budget)
        enough, rest = None, unfolded  # known to leave room for a choice; to be tried
        for _ in range(ROUNDS):
            chosen = program.solve(rest)
            if chosen:
                design = _apply(graph, chosen, lengths, level)
                if _fits(total(design), budget):
                    return design
                enough, rest = rest, plumbing(design)
            elif enough:
                rest = Resources(
                    *((a + b) / 2 for a, b in zip(enough.astuple(), rest.astuple(), strict=True))
                )
            else:
                return None
        return None

    def nearest(target: float) -> Graph:
        """The design with that interval whose cores go least beyond the budget."""
        chosen = _Program(options, target, budget).solve(unfolded, within=False)
        assert chosen, "without a budget there is always a design"
        return _apply(graph, chosen, lengths, level)

    if not within:
        return nearest(ii)
    # A slower design is not always a smaller one: FIFOs hold what comes during an interval, and
    # deep memories fill RAM blocks better. So the targets are walked from the fastest on.
    low, design = 0, None
    for high in _walk(targets):
        design = best(targets[high])
        if design:
            break
        low = high + 1
    else:
        design = nearest(targets[-1])
        if not _fits(total(design), budget):
            raise BudgetError(_excess(total(design), budget))
        low = high
    while low < high:
        middle = (low + high) // 2
        candidate = best(targets[middle])
        if candidate:
            high, design = middle, candidate
        else:
            low = middle + 1
    design.check()
    return design


def _options(
    graph: Graph, lengths: Lengths | None, device: Device | None
) -> dict[str, list[Choice]]:
    """By node the choices worth a thought."""
    options: dict[str, list[Choice]] = {}
    known: dict[tuple[Any, ...], str] = {}  # blocks repeat
    for node in graph.nodes:
        tokens = frame_lengths(graph, lengths, node.inputs[0])
        haste = _haste(graph, node)
        key = (node.core, node.params, haste, *tokens.flatten().tolist())
        name = known.setdefault(key, node.name)
        if name == node.name:
            options[name] = undominated(choices(node, tokens, device, haste))
        options[node.name] = options[name]
    return options


def _slowest(options: dict[str, list[Choice]]) -> tuple[float, str]:
    return max((min(c.cycles for c in found), name) for name, found in options.items())


def fastest(
    graph: Graph, lengths: Lengths | None = None, device: Device | None = None
) -> tuple[float, str]:
    """(cycles, node that sets them): the interval that no folding is below, whatever the budget."""
    return _slowest(_options(graph, lengths, device))


def _haste(graph: Graph, node: Node) -> float:
    """How many times faster than the interval a node must be."""
    for loop in graph.loops:
        # what a loop sends must not keep it waiting: the body has its passes to do meanwhile
        if node.inputs == (loop.out,):
            return loop.passes
    # nor must a frame be away for long: others would have to be in flight instead
    away = any(node.name in detour.nodes for detour in graph.detours)
    return DETOUR_HASTE if away else 1.0


def _walk(targets: list[float]) -> Iterator[int]:
    """Indices of ascending targets, in strides of a quarter, and the last one."""
    last = -1
    for i, target in enumerate(targets):
        if i == len(targets) - 1 or last < 0 or target >= STRIDE * targets[last]:
            last = i
            yield i


class _Program:
    """The choices for all nodes, none of them slower than ``target``, whose resources are the
    smallest shares of the budget, the largest share counted ``BALANCE`` times more.

    An integer program: how many of the nodes that are alike take each of their choices, and the
    largest share.
    """

    def __init__(self, options: dict[str, list[Choice]], target: float, budget: Resources) -> None:
        alike: dict[int, list[str]] = {}
        for name, found in options.items():
            alike.setdefault(id(found), []).append(name)
        self.groups = list(alike.values())
        self.budget = np.array(budget.astuple())
        self.columns: list[tuple[int, Choice]] = []
        prices, used = [], []
        for group, names in enumerate(self.groups):
            fast = [c for c in options[names[0]] if c.cycles <= target]
            table = np.array([c.resources.astuple() for c in fast])
            price = (table / np.maximum(self.budget, 1)).sum(1)
            price += SLOWNESS * np.array([c.cycles for c in fast]) / target
            # of two choices one is never taken if it costs more of everything, its price included
            for i in _undominated(np.column_stack([price, table])):
                self.columns.append((group, fast[i]))
                prices.append(price[i])
                used.append(table[i])
        self.prices, self.used = np.array(prices), np.array(used).T
        number, count = [len(names) for names in self.groups], len(prices)
        each = sparse.csr_array(
            (np.ones(count), ([group for group, _ in self.columns], np.arange(count))),
            shape=(len(number), count + 1),
        )
        self.one_choice_each = optimize.LinearConstraint(each, number, number)

    def solve(self, rest: Resources, within: bool = True) -> dict[str, Choice] | None:
        """None if there is no choice ``within`` the budget beside the resources ``rest``;
        otherwise the one that goes least beyond it."""
        count = len(self.columns)
        whole = self.budget if within else np.maximum(self.budget, 1)
        result = optimize.milp(
            [*self.prices, BALANCE if within else 100.0],
            integrality=[*np.ones(count), 0],
            bounds=optimize.Bounds(0, [*np.full(count, np.inf), 1.0 if within else np.inf]),
            constraints=[
                self.one_choice_each,
                optimize.LinearConstraint(
                    np.column_stack([self.used, -whole]), ub=-np.array(rest.astuple())
                ),
            ],
            options=SOLVER,
        )
        if result.x is None:
            return None
        out = {}
        left = [list(names) for names in self.groups]
        for (group, choice), value in zip(self.columns, result.x, strict=False):
            for _ in range(round(value)):
                out[left[group].pop(0)] = choice
        return out


def _apply(graph: Graph, chosen: dict[str, Choice], lengths: Lengths | None, level: bool) -> Graph:
    nodes = [
        replace(n, params=replace(n.params, **chosen[n.name].changes), depths=())
        for n in graph.nodes
    ]
    consumer = nodes[0].params.inputs()[0]
    port = replace(graph.input, lanes=consumer.lanes)
    design = replace(graph, input=port, nodes=nodes, meta=dict(graph.meta))
    return size_fifos(design, lengths, level)


# -- time ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    """When the first and the last beat of a frame pass an edge, in cycles. Tokens that a core has
    computed side by side come in bursts of that many."""

    first: float
    last: float
    burst: int = 1


def arrivals(graph: Graph, tokens: Mapping[str, int]) -> dict[str, Arrival]:
    """Arrival of a lone frame on every edge, in a loop that of its first pass; ``tokens``: its
    length by edge name."""
    beats = tokens[Graph.INPUT] * (graph.input.channels // graph.input.lanes)
    out = {Graph.INPUT: Arrival(0.0, float(beats - 1))}
    for node in graph.nodes:
        for loop in graph.loops:
            if node.name == loop.nodes[0]:
                _pass_loop(graph, loop, tokens, out)
        if node.name not in out:
            out[node.name] = _arrival(graph, node, tokens, out)
    return out


def _pass_loop(
    graph: Graph, loop: Loop, tokens: Mapping[str, int], out: dict[str, Arrival]
) -> None:
    """Add the arrivals at a loop and at its detours."""
    port, ends = graph.port_of(loop.name), (*loop.starts[1:], loop.passes)
    for i, entry in enumerate(loop.entries):
        if i > 0:  # the frame comes from a detour
            for name in loop.detours[i - 1].nodes:
                out[name] = _arrival(graph, graph.node(name), tokens, out)
        length = tokens[loop.name] if i == 0 else tokens[entry]
        own = {**dict.fromkeys(loop.nodes, length), loop.name: length, loop.set: 1}
        begin = out[entry].last + LOOP_LATENCY  # a whole frame gathers
        when = {
            loop.name: Arrival(begin, begin + length * port.beats - 1),
            loop.set: Arrival(begin, begin),
        }
        for name in loop.nodes:
            when[name] = _arrival(graph, graph.node(name), own, when)
        back = when[loop.back]
        rest = (ends[i] - loop.starts[i] - 1) * (back.first - begin + LOOP_LATENCY)
        out |= when if i == 0 else {}
        out[loop.exits[i]] = Arrival(back.first + rest, back.last + rest)


def _arrival(
    graph: Graph, node: Node, tokens: Mapping[str, int], out: Mapping[str, Arrival]
) -> Arrival:
    """Arrival of a frame behind a node, from those in front of it."""
    p, t = node.params, tokens[node.inputs[0]]
    starts, ends, group = [], [], min(getattr(p, "tp", 1), t)
    for edge, port in zip(node.inputs, p.inputs(), strict=True):
        a = out[edge]
        gap = 2 + adapter_cycles(graph.port_of(edge), port)  # FIFO, width converter
        # a core that needs whole tokens waits until its slowest producer has sent them: the
        # first token of a burst takes as long as the burst, the others follow it at once
        token = (a.last - a.first + 1) / max(1, tokens[edge])
        bursts = -(-group // a.burst)
        come = bursts * a.burst * token
        come += (group - 1 - (bursts - 1) * a.burst) * graph.port_of(edge).beats
        wait = max(0.0, come - token / port.beats - (group * port.beats - 1))
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
        # the last tokens still need their own steps after they have come
        end += p.head_latency(group) + p.cycles(group) - group * p.inputs()[0].beats
        last = max(first + p.cycles(t) - 1, end)
    burst = group if hasattr(p, "tp") else max(out[e].burst for e in node.inputs)
    return Arrival(first, last, burst)


#: cycles from the last beat of a frame to its first one behind the FIFO of a loop
LOOP_LATENCY = 4


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
        known, index = tokens.unique(return_inverse=True)
        cycles = torch.tensor([node.params.cycles(int(t)) for t in known])
        rows.append(cycles[index].sum(1))
    slowest = torch.stack(rows).max(0)
    return float(slowest.values.double().mean()), graph.nodes[
        int(slowest.indices.mode().values)
    ].name


# -- buffers -------------------------------------------------------------------------------------


#: an input that waits for this part of a frame waits for a core that takes in whole frames
UNEVEN_WAIT = 0.75


def size_fifos(graph: Graph, lengths: Lengths | None = None, level: bool = True) -> Graph:
    """Set the FIFO depths so that branches which meet again can run at full rate.

    Where the inputs of a node come from branches of different latency, the early one waits, and
    queries wait for the keys of their frame: the FIFO holds what comes meanwhile. Frames of
    different lengths level out only if there is room for them, so where lengths vary it is whole
    frames; in a loop whose passes differ in length it is, if ``level``, one frame more in front of
    a core that takes in a frame while it computes another one, and beside it, or each of them would
    wait for the longer one. Elsewhere one token decouples neighbours.
    """
    longest = graph.all_tokens()
    when = arrivals(graph, longest)
    interval_of_all, _ = interval(graph, lengths)
    come = {edge: frame_lengths(graph, lengths, edge) for edge in graph.edges()}
    vary = any((t != t[0]).any() for t in come.values())
    outs = [loop.out for loop in graph.loops]
    away = [detour.edge for detour in graph.detours]
    nodes = []
    for node in graph.nodes:
        ports = node.params.inputs()
        share = come[node.inputs[0]].double().mean(0)
        ii = interval_of_all * float(share.max() / share.sum())  # of the longest pass
        uneven = level and bool(share.max() > share.min())
        latest = max(when[e].first for e in node.inputs)
        ready = max(when[e].last for e in node.inputs)
        depths = []
        for i, (edge, port) in enumerate(zip(node.inputs, ports, strict=True)):
            if port.name == SET:
                depths.append(0)  # one for every frame inside: see below
                continue
            beats = graph.burst(edge, port, 0)
            if beats and edge in away:
                depths.append(0)  # the frame waits in front of the converter
                continue
            if beats and len(ports) == 1:
                before = graph.node(edge).inputs[0]
                if (float(come[before].double().mean()) - 1) * beats + port.beats > ii:
                    depths.append(0)  # the token that is kept waits in front of the converter
                    continue
            wait = latest - when[edge].first
            frame = longest[edge] * port.beats
            if edge in away or (edge in outs and len(ports) > 1):
                wait = max(wait, frame)  # a loop must not wait for the others
            query = node.params.barrier() and len(ports) > 1 and i == 0
            if query:
                wait = ready - when[edge].first
            if not query and wait <= frame:
                # tokens that the late branch brings at once went into the early one before
                more = max(when[e].burst for e in node.inputs) if wait > 0 else 1
                depths.append(max(2, min(int(wait) + more * port.beats + 2, 2 * frame)))
            elif vary:
                frames = 2 if query else 1 + -(-wait // ii)
                depths.append(int(frames * frame) + port.beats)
            else:
                # in a steady state a frame comes every interval, and takes this long to come
                span = max(when[edge].last - when[edge].first, 1.0)
                whole, rest = divmod(wait, ii)
                more = 1 + max(when[e].burst for e in node.inputs)
                depths.append(int(frame * (whole + min(1.0, rest / span))) + more * port.beats)
            if uneven and (node.params.barrier() or wait > UNEVEN_WAIT * frame):
                depths[-1] += frame
        nodes.append(replace(node, depths=tuple(depths)))
    loops = []
    for loop in graph.loops:
        # a frame is on its way from its first beat on the way in to its last one on the way out,
        # and another one fills the gaps that they leave
        way = when[loop.out].last - when[loop.name].first
        flying = 2 + int(way / interval_of_all)
        beats = graph.port_of(loop.name).beats
        frame = longest[loop.name] * beats
        holds = any(graph.node(n).params.barrier() for n in loop.nodes)
        # one gathers while the one before it enters
        entry = frame + -(-frame // loop.passes)
        detours = [longest[d.back] * beats for d in loop.detours]
        loops.append(
            replace(
                loop,
                in_flight=flying,
                depth=(flying - holds) * frame,
                entry_depths=(entry, *detours),
            )
        )
    # the end of a frame may still be inside when its beginning enters again
    inside = {name: loop.in_flight + 1 for loop in loops for name in loop.nodes}
    nodes = [
        replace(n, depths=(*n.depths[:-1], inside[n.name])) if n.name in inside else n
        for n in nodes
    ]
    return replace(graph, nodes=nodes, loops=loops)


def minimum_fifos(graph: Graph) -> Graph:
    """Set the least FIFO depths with which no frame can block the graph; the rate may suffer.

    Where branches of a fork meet again, the node that joins them takes a beat of one branch only
    when the other has delivered its part, and for that the fork must have passed what the cores
    of the other branch ask for: a token, ``tp`` tokens, or the frame for a ``barrier()``. All that
    the first branch makes of it meanwhile must find room in the FIFO in front of the join.

    The bound is exact where the branch that waits comes straight from the fork. What cores and
    width converters on it could store themselves is not counted.
    """
    if graph.loops:
        raise ValueError("minimum_fifos: what a loop must store is not known; use size_fifos")
    nodes = []
    paths = {e: _paths(graph, e) for e in graph.edges()}
    for node in graph.nodes:
        hold = [0] * len(node.inputs)
        for root, count in paths.items() if len(hold) > 1 else []:
            through = [count[n] * paths[n][node.name] for n in paths if n not in (root, node.name)]
            if count[node.name] < 2 or count[node.name] in through:
                continue  # the branches do not part here, or meet before this node
            leaves = [(n.name, i) for n, i in graph.consumers(root)]
            late = {leaf: _demand(graph, root, leaf, False) for leaf in leaves}
            early = {leaf: _demand(graph, root, leaf, True) for leaf in leaves}
            step = graph.port_of(root).lanes
            for i, wait in ((i, w) for i in range(len(hold)) for w in leaves):
                for j, go in ((j, g) for j in range(len(hold)) for g in leaves):
                    if i == j or wait == go:
                        continue
                    have = _at_port(graph, node, i, early[wait], wait)
                    need = _at_port(graph, node, j, late[go], go)
                    part = _join(node, i, j, len(have), len(need))
                    if len(have) == 0 or len(part) == 0 or len(need) == 0:
                        continue
                    # the fork offers its next beat to all; those that are free take it
                    passed = need[part - 1] - step
                    beats = torch.searchsorted(have, passed, right=True)
                    hold[i] = max(hold[i], int((beats - torch.arange(len(have))).max()))
        # a FIFO holds one beat more in its output register
        depths = tuple(max(1, h - 1) if h > 0 else 0 for h in hold)
        nodes.append(replace(node, depths=depths))
    return replace(graph, nodes=nodes)


def _paths(graph: Graph, start: str) -> dict[str, int]:
    """Number of paths from an edge to every edge."""
    out = {Graph.INPUT: 0, **{n.name: 0 for n in graph.nodes}, start: 1}
    for node in graph.nodes:
        if node.name != start:
            out[node.name] = sum(out[e] for e in node.inputs)
    return out


#: cores whose output beat needs the same beat of their input and no more
BEATWISE = ("first_token", "lookup_table", "pos_embed", "residual_add")


def _demand(graph: Graph, root: str, leave: tuple[str, int], least: bool) -> dict[str, Tensor]:
    """How much of the longest frame on edge ``root`` stands behind every beat of other edges.

    Args:
        leave: (node, input index), the consumer of ``root`` by which the paths leave.
        least: assume the cores that hold data back only sometimes, do not.

    Returns by edge name int64 ``[beats]``: channels of ``root``, counted from the start of the
    frame, without which the beat cannot leave; edges that are not reached are missing.
    """
    out: dict[str, Tensor] = {}
    name, index = leave
    for node in graph.nodes:
        port, p = node.params.output(), node.params
        tokens = graph.max_tokens(node.name)
        sent = torch.arange(1, tokens * port.beats + 1) * port.lanes  # channels after each beat
        found = []
        for i, edge in enumerate(node.inputs):
            entry = node.name == name and i == index
            if not entry and edge not in out:
                continue
            need = _needed(node, i, sent, graph.max_tokens(edge), least)
            beats = need // p.inputs()[i].lanes
            behind = _at_port(graph, node, i, out, leave)
            found.append(torch.where(beats > 0, behind[(beats - 1).clamp(min=0)], 0))
        if found:
            out[node.name] = torch.stack(found).amax(0)
    return out


def _at_port(
    graph: Graph, node: Node, i: int, demand: Mapping[str, Tensor], leave: tuple[str, int]
) -> Tensor:
    """``_demand`` of every beat at input ``i`` of ``node``, behind the width converter; int64
    ``[beats]``, empty if no path leads there."""
    edge, port = node.inputs[i], node.params.inputs()[i]
    source = graph.port_of(edge)
    taken = torch.arange(1, graph.max_tokens(edge) * port.beats + 1) * port.lanes
    taken = -(-taken // lcm(source.lanes, port.lanes)) * lcm(source.lanes, port.lanes)
    if (node.name, i) == leave:
        return taken
    return demand[edge][taken // source.lanes - 1] if edge in demand else taken[:0]


def _needed(node: Node, i: int, sent: Tensor, tokens: int, least: bool) -> Tensor:
    """Channels of input ``i``, whole beats, without which ``sent`` channels (int64) cannot leave.

    ``tokens`` is the length of the input frame.
    """
    p, port = node.params, node.params.inputs()[i]
    if node.core in BEATWISE:
        # pos_embed makes its first token itself
        offset = p.output().channels if node.core == "pos_embed" else 0
        need = (sent - offset).clamp(min=0)
        return -(-need // port.lanes) * port.lanes
    token = -(-sent // p.output().channels)
    if p.barrier() and (i > 0 or len(p.inputs()) == 1):
        token = torch.full_like(token, tokens)
    elif p.barrier() and least:  # a part of the query may do
        return -(-sent * port.channels // p.output().channels // port.lanes) * port.lanes
    elif node.core == "token_select" and not least:  # all before it may have been dropped
        token = torch.full_like(token, tokens)
    group = getattr(p, "tp", 1)
    return (-(-token // group) * group).clamp(max=tokens) * port.channels


def _join(node: Node, i: int, j: int, beats: int, others: int) -> Tensor:
    """Beats of input ``j`` that must have come before each of the ``beats`` of input ``i`` can be
    taken; int64 ``[beats]``, empty if input ``i`` never waits. ``others``: beats of ``j``."""
    here, there = node.params.inputs()[i], node.params.inputs()[j]
    at = torch.arange(beats)
    if node.params.barrier():  # the first input waits for frames of the others
        return torch.full_like(at, others) if i == 0 else at[:0]
    if here.beats == there.beats:
        return at + 1
    return (at // here.beats + 1) * there.beats


def fifo_resources(port: Port, depth: int) -> Resources:
    """One ``axis_fifo``: its memory, three counters and its handshake."""
    if depth == 0:
        return Resources()
    words = max(depth, 2)
    address = (words - 1).bit_length()
    memory = memories.ram(words, port.lanes * port.itype.bits + 2)
    return memory + Resources(lut=3 * address + 8, ff=3 * address + 2)


def plumbing(graph: Graph) -> Resources:
    """FIFOs, forks, width converters and loops of a folded graph."""
    out = Resources()
    for node in graph.nodes:
        for edge, port, depth in zip(node.inputs, node.params.inputs(), node.depths, strict=False):
            out = out + fifo_resources(port, depth)
            source = graph.port_of(edge)
            out = out + fifo_resources(source, graph.burst(edge, port, depth))
            if source.lanes != port.lanes:
                bits = max(source.lanes, port.lanes) * port.itype.bits
                out = out + Resources(lut=bits * 1.2 + 20, ff=bits * 1.5 + 20)
    for loop in graph.loops:
        port = graph.port_of(loop.name)
        for depth in (loop.depth, *loop.entry_depths):
            out = out + fifo_resources(port, depth)
            # the choice of one, its counter
            out = out + Resources(lut=port.lanes * port.itype.bits / 2 + 20, ff=15)
    return out


def total(graph: Graph) -> Resources:
    """Predicted resources of a folded graph: cores and plumbing."""
    out = plumbing(graph)
    for node in graph.nodes:
        out = out + node.params.resources()
    return out


def _fits(used: Resources, budget: Resources) -> bool:
    return all(u <= b for u, b in zip(used.astuple(), budget.astuple(), strict=True))


def _excess(used: Resources, budget: Resources) -> str:
    lines = []
    for f in fields(Resources):
        u, b = getattr(used, f.name), getattr(budget, f.name)
        if u > b:
            lines.append(f"{f.name} {u:.0f} of {b:.0f} ({u - b:.0f} too many)")
    return (
        "no design fits; the nearest one asks for "
        + ", ".join(lines)
        + "; choose a larger board or a smaller model"
    )


def describe(params: CoreParams) -> dict[str, Any]:
    """Folding fields of a node's parameters, for people."""
    names = list(next(iter(params.foldings()), {}))
    if "mult_dsp" not in names and hasattr(params, "mult_dsp"):
        names.append("mult_dsp")
    return {n: getattr(params, n) for n in names}
