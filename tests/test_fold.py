# SPDX-License-Identifier: Apache-2.0
"""Folding: what it promises for every budget."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

import pytest
import torch
from conftest import Tiny

from sievit.boards import board as boards
from sievit.quant import fold
from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.execute import execute
from sievit.quant.fold import BudgetError
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import Device, Resources, Stream, load_core

CLOCK = 300e6


@pytest.fixture(scope="module")
def lengths(tiny_edges: dict[str, Stream]) -> dict[str, torch.Tensor]:
    return {k: v.length for k, v in tiny_edges.items()}


def budget(share: float) -> Resources:
    b = boards.load("zcu102").budget()
    return Resources(*(v * share for v in b.astuple()))


def typical(tokens: torch.Tensor) -> int:
    """Tokens of a typical frame on an edge that frames pass once."""
    (length,) = fold.typical_tokens(tokens[:, None])
    return length


def fits(graph: Graph, limit: Resources) -> bool:
    used = fold.total(graph)
    return all(u <= b for u, b in zip(used.astuple(), limit.astuple(), strict=True))


def folding(graph: Graph) -> dict[str, dict[str, int]]:
    return {n.name: fold.describe(n.params) for n in graph.nodes}


def least_share(graph: Graph, lengths: dict[str, torch.Tensor]) -> float:
    """Least multiple of a hundredth of the board that some folding fits."""
    for hundredth in range(1, 100):
        try:
            fold.fold(graph, budget(hundredth / 100), lengths)
        except fold.BudgetError:
            continue
        return hundredth / 100
    raise AssertionError("does not fit the board")


def test_bigger_budget_is_never_slower(tiny_graph: Graph, lengths: dict[str, torch.Tensor]) -> None:
    """Every design fits; the interval falls with the budget, and does fall."""
    found = []
    least = least_share(tiny_graph, lengths)
    for share in (least, 1.3 * least, 2 * least, 4 * least, 4.0):
        design = fold.fold(tiny_graph, budget(share), lengths)
        assert fits(design, budget(share)), share
        found.append(fold.interval(design, lengths)[0])
    assert found == sorted(found, reverse=True) and found[0] > 2 * found[-1], found


@pytest.mark.parametrize("name", boards.names())
def test_every_board_is_kept_or_refused(
    name: str, tiny_graph: Graph, lengths: dict[str, torch.Tensor]
) -> None:
    limit = boards.load(name).budget()
    try:
        design = fold.fold(tiny_graph, limit, lengths)
    except BudgetError:
        smallest = fold.fold(tiny_graph, budget(100), lengths, 1e12)
        assert fold.total(smallest).lut > 0.9 * limit.lut
    else:
        assert fits(design, limit)


def test_a_budget_that_cannot_be_met(tiny_graph: Graph, lengths: dict[str, torch.Tensor]) -> None:
    """The message names every resource that does not fit, and by how much."""
    with pytest.raises(BudgetError, match="no design fits") as caught:
        fold.fold(tiny_graph, Resources(lut=2000, ff=1e9, dsp=1e9, bram36=1e9), lengths)
    found = re.search(r"asks for lut (\d+) of 2000 \((\d+) too many\); choose", str(caught.value))
    assert found and int(found[1]) - 2000 == int(found[2]) > 0
    assert "ff" not in str(caught.value).split("asks for")[1].split(";")[0]
    with pytest.raises(BudgetError, match=r"ff \d+ of 100 \(\d+ too many\)"):
        fold.fold(tiny_graph, Resources(lut=1e9, ff=100, dsp=1e9, bram36=1e9), lengths)


def test_nearest_design_beyond_a_budget(
    tiny_graph: Graph, lengths: dict[str, torch.Tensor]
) -> None:
    """Asked for, it comes without a refusal, and as fast as was asked."""
    small = budget(0.001)
    with pytest.raises(BudgetError):
        fold.fold(tiny_graph, small, lengths, 300.0)
    design = fold.fold(tiny_graph, small, lengths, 300.0, within=False)
    design.check()
    assert not fits(design, small) and fits(design, budget(1.0))
    assert all(n.params.cycles(typical(lengths[n.inputs[0]])) <= 300 for n in design.nodes)


def test_intervals_that_are_tried_first() -> None:
    """The first and the last, and no gap of more than a stride unless there is nothing in it: a
    slower design is not always a smaller one, so that a bisection alone misses what fits."""
    targets = [100.0, 101.0, 124.0, 126.0, 150.0, 400.0, 410.0]
    assert list(fold._walk(targets)) == [0, 3, 5, 6]
    assert list(fold._walk([7.0])) == [0]


@pytest.mark.parametrize("ii", [200.0, 210.0, 400.0, 1000.0])
def test_target_interval(ii: float, tiny_graph: Graph, lengths: dict[str, torch.Tensor]) -> None:
    """Reached, and with no more resources than the fastest design."""
    design = fold.fold(tiny_graph, budget(1.0), lengths, ii)
    fastest = fold.fold(tiny_graph, budget(1.0), lengths)
    limit = max(
        fold.mean_cycles(n.params, torch.tensor([typical(lengths[n.inputs[0]])]))
        for n in design.nodes
    )
    assert limit <= ii
    assert fold.total(design).lut < fold.total(fastest).lut
    assert fold.interval(design, lengths)[0] > fold.interval(fastest, lengths)[0]


def test_lanes_are_legal_and_ports_fit(tiny_graph: Graph, lengths: dict[str, torch.Tensor]) -> None:
    for share in (0.2, 1.0, 4.0):
        design = fold.fold(tiny_graph, budget(share), lengths)
        design.check()
        assert [n.name for n in design.nodes] == [n.name for n in tiny_graph.nodes]
        for node in design.nodes:
            legal = list(node.params.foldings())
            mine = fold.describe(node.params)
            assert {k: v for k, v in mine.items() if k in legal[0]} in legal, node.name
            assert mine.keys() - legal[0].keys() <= {"mult_dsp"}, "every choice comes from foldings"
            ports = (*node.params.inputs(), node.params.output())
            assert all(p.channels % p.lanes == 0 for p in ports)
            assert len(node.depths) == len(node.inputs) and min(node.depths) >= 2
        assert design.input.channels % design.input.lanes == 0


def test_folding_does_not_change_a_value(
    tiny: Tiny, tiny_graph: Graph, tiny_edges: dict[str, Stream], lengths: dict[str, torch.Tensor]
) -> None:
    before = folding(tiny_graph)
    design = fold.fold(tiny_graph, budget(1.0), lengths)
    edges = execute(design, Stream.full(tiny.patches))
    assert edges == tiny_edges
    assert folding(tiny_graph) == before, "fold changed its argument"


def test_deterministic(tiny_graph: Graph, lengths: dict[str, torch.Tensor]) -> None:
    a, b = (fold.fold(tiny_graph, budget(0.5), lengths) for _ in range(2))
    assert folding(a) == folding(b)
    assert [n.depths for n in a.nodes] == [n.depths for n in b.nodes]


def test_predictions(tiny_graph: Graph, lengths: dict[str, torch.Tensor]) -> None:
    """Positive, the latency longer than the interval of any node, the slowest node a node."""
    design = fold.fold(tiny_graph, budget(0.5), lengths)
    ii, slowest = fold.interval(design, lengths)
    assert ii > 0 and slowest in {n.name for n in design.nodes}
    worst, _ = fold.interval(design)
    assert worst >= ii, "the profile has no longer frames than the longest"
    longest = {e: design.max_tokens(e) for e in [Graph.INPUT, *(n.name for n in design.nodes)]}
    when = fold.arrivals(design, longest)
    assert all(0 <= a.first <= a.last for a in when.values())
    assert fold.latency(design, longest) > worst
    order = [Graph.INPUT, *(n.name for n in design.nodes)]
    for node in design.nodes:
        assert all(when[e].first < when[node.name].first for e in node.inputs)
    assert set(when) == set(order)


def single(**values: int) -> Graph:
    """A graph of one nm_matmul whose input comes a beat per cycle."""
    p = NmMatmulParams(in_channels=16, out_channels=8, max_tokens=9, **values)
    constants, _ = load_core("nm_matmul").stimuli(torch.Generator().manual_seed(1), p, 2)
    port = replace(p.inputs()[0], lanes=p.simd)
    return Graph("one", port, 9, 0, [Node("product", "nm_matmul", p, constants, ("input",))])


@pytest.mark.parametrize(("tokens", "groups"), [(1, 1), (3, 1), (4, 2), (8, 3), (9, 3)])
def test_tokens_side_by_side_are_collected_first(tokens: int, groups: int) -> None:
    """Three at a time: the first output waits for them, every group takes the steps of one token,
    and the last token still has to be computed when it has come."""
    count = {Graph.INPUT: tokens, "product": tokens}
    one, three = (single(simd=4, pe=1, tp=t) for t in (1, 3))
    steps, beats = 8 * 4, 4
    a, b = (fold.arrivals(g, count)["product"] for g in (one, three))
    stages = three.nodes[0].params.head_latency(1) - one.nodes[0].params.head_latency(1)
    assert b.first - a.first == (min(3, tokens) - 1) * beats + stages
    assert three.nodes[0].params.cycles(tokens) == groups * steps
    assert b.last >= b.first + groups * steps - 1 and a.last >= a.first + tokens * steps - 1
    assert b.last - b.first < groups * steps + 3 * (beats + 8)


def test_slow_tokens_are_waited_for() -> None:
    """A producer that needs 32 cycles per token delays a core that takes three tokens at once."""
    first = single(simd=4, pe=1).nodes[0]
    p = replace(first.params, in_channels=8, tp=3)
    constants, _ = load_core("nm_matmul").stimuli(torch.Generator().manual_seed(1), p, 2)
    graph = replace(single(simd=4, pe=1), nodes=[
        first, Node("next", "nm_matmul", p, constants, ("product",)),
    ])  # fmt: skip
    when = fold.arrivals(graph, {Graph.INPUT: 9, "product": 9, "next": 9})
    assert when["next"].first >= when["product"].first + 3 * 32 - 1


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 16)])
def test_second_clock_where_dsp_blocks_bear_it(n: int, m: int) -> None:
    board = boards.load("zcu102")
    assert board.device().pump == 2
    assert replace(board, clock_mhz=400.0).device().pump == 1  # 800 MHz
    assert boards.load("pynq_z2").device().pump == boards.load("ulx3s_85f").device().pump == 1
    t = IntType(3, True)
    p = NmMatmulParams(
        in_channels=192, out_channels=192, n=n, m=m, in_type=t, weight_type=t, max_tokens=9,
        simd=m,
    )  # fmt: skip
    node, tokens = Node("n", "nm_matmul", p, {}, ("input",)), torch.tensor([[9]])
    made = fold.choices(node, tokens, board.device())
    assert {c.changes["pump"] for c in made} == {1, 2}
    assert {c.changes["pump"] for c in fold.choices(node, tokens)} == {1}
    once = {str(c.changes): c.resources for c in made}
    for choice in made:
        if choice.changes["pump"] == 2:
            single = once[str({**choice.changes, "pump": 1})]
            assert choice.resources.dsp == single.dsp / 2
            # what chooses inputs is shared, too, and costs more than taking turns
            assert n == m or choice.resources.lut < single.lut
    with pytest.raises(boards.BoardError, match=r"only ultrascale\+ has a second clock"):
        replace(boards.load("pynq_z2"), dsp_mhz=500.0)


def test_only_what_the_device_can_do() -> None:
    """Shared multipliers by the operands of the DSP block, UltraRAM where a bitstream fills it."""
    p = NmMatmulParams(in_channels=768, out_channels=192, in_type=IntType(6, True), max_tokens=9)
    node, tokens = Node("n", "nm_matmul", p, {}, ("input",)), torch.tensor([[9]])

    def found(device: Device) -> tuple[set[int], set[int]]:
        changes = [c.changes for c in fold.choices(node, tokens, device)]
        return {c["pack"] for c in changes}, {c["weight_ram"] for c in changes}

    assert found(boards.load("zcu104").device()) == ({1, 2, 3}, {0, 1})  # 3 x 10 bits: 27 x 4
    assert found(boards.load("pynq_z2").device()) == ({1, 2}, {0, 1})
    assert found(boards.load("vck190").device()) == ({1, 2, 3}, {0, 1, 2})
    assert found(Device((18, 18))) == ({1, 2}, {0, 1})
    assert found(Device((16, 16))) == ({1}, {0, 1})


def test_multipliers_are_shared_where_blocks_are_short(
    tiny_graph: Graph, lengths: dict[str, torch.Tensor]
) -> None:
    """With few DSP blocks the products per block rise above one, and the design is faster than
    with unshared blocks."""
    least = least_share(tiny_graph, lengths)
    few = replace(budget(2 * least), dsp=budget(0.6 * least).dsp)
    design = fold.fold(tiny_graph, few, lengths)
    shared = [n.name for n in design.nodes if getattr(n.params, "pack", 1) > 1]
    assert shared and fits(design, few)
    alone = fold.fold(tiny_graph, few, lengths, device=Device((12, 12)))
    assert all(getattr(n.params, "pack", 1) == 1 for n in alone.nodes)
    assert fold.interval(design, lengths)[0] < fold.interval(alone, lengths)[0]


def test_without_a_profile_every_frame_is_longest(tiny_graph: Graph) -> None:
    design = fold.fold(tiny_graph, budget(0.5))
    assert fits(design, budget(0.5))
    full = {
        e: torch.tensor([design.max_tokens(e)])
        for e in [Graph.INPUT, *(n.name for n in design.nodes)]
    }
    assert fold.interval(design) == fold.interval(design, full)


def test_multipliers_move_to_dsps_only_if_there_are_any(
    tiny_graph: Graph, lengths: dict[str, torch.Tensor]
) -> None:
    plenty, none = budget(1.0), replace(budget(1.0), dsp=0.0)
    assert fold.total(fold.fold(tiny_graph, plenty, lengths)).dsp > 0
    try:
        design = fold.fold(tiny_graph, none, lengths)
    except BudgetError as error:
        assert "dsp" in str(error)
    else:
        assert fold.total(design).dsp == 0 and dataclasses.astuple(none)[2] == 0
