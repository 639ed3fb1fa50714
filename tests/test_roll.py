# SPDX-License-Identifier: Apache-2.0
"""Blocks that share their cores compute what they computed one after the other: Graph, HLS, RTL."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hgpipe_network import Network

from sievit.boards import board as boards
from sievit.flow.build import folded, interval
from sievit.hls import codegen as hls_codegen
from sievit.hls import csim
from sievit.models import hgpipe, variants
from sievit.models.imported import Imported
from sievit.models.variants import Variant
from sievit.quant import fold
from sievit.quant.execute import execute, first_difference
from sievit.quant.graph import Graph, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import Resources, Stream
from sievit.quant.roll import roll, rolled_edges, rolled_lengths
from sievit.sim import runner

ROOM = Resources(2e4, 4e4, 200, 100, 0)


def network(folder: Path, seed: int, **sizes: int) -> Imported:
    path = folder / f"{seed}.npz"
    np.savez(path, **Network(seed, **sizes).a)  # type: ignore[arg-type]
    return hgpipe.load(path)


def images(graph: Graph, seed: int, count: int) -> Stream:
    rng = torch.Generator().manual_seed(seed)
    t = graph.input.itype
    shape = (count, graph.input_tokens, graph.input.channels)
    return Stream.full(torch.randint(t.min, t.max + 1, shape, generator=rng))


def compare_views(
    graph: Graph, want: dict[str, Stream], x: Stream, folder: Path, seed: int
) -> runner.RtlResult:
    """Every edge of the HLS design and of the RTL one, under stalls too; the run without."""
    hls_codegen.generate(graph, folder / "hls", boards.load("zcu102"), x)
    csim.compile(folder / "hls")
    got = csim.run(folder / "hls", graph, x, taps=True)
    assert first_difference(graph, want, got) is None and got.keys() == want.keys()

    runs = [runner.Run([x], stall, seed) for stall in ("none", "both", "bursts", "ready_25")]
    results = runner.run_graph_batch(graph, folder / "rtl", runs)
    for run, result in zip(runs, results, strict=True):
        assert result.edges.keys() == want.keys()
        assert first_difference(graph, want, result.edges) is None, run.stall
    return results[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Imported:
    """Three blocks."""
    folder = tmp_path_factory.mktemp("roll")
    return network(folder, seed, tokens=7, channels=12, hidden=24, blocks=3)


def test_one_block_stays(model: Imported, seed: int) -> None:
    graph = model.graph
    rolled = roll(graph)
    (loop,) = rolled.loops
    assert loop.name == "blocks_0_2" and loop.passes == 3
    assert 3 * len(loop.nodes) == len(graph.nodes) - len(rolled.nodes) + len(loop.nodes)
    rolled.check()
    x = images(graph, seed, 5)
    got, want = execute(rolled, x), rolled_edges(rolled, execute(graph, x))
    assert got.keys() == want.keys() == set(rolled.edges())
    assert first_difference(rolled, want, got) is None
    # a network without equal blocks is left alone
    assert roll(rolled) is rolled


def test_saved_and_loaded(model: Imported, tmp_path: Path) -> None:
    graph = fold.fold(roll(model.graph), ROOM, ii=2000)
    graph.save(tmp_path)
    again = Graph.load(tmp_path)
    assert again.loops == graph.loops
    assert [n.params for n in again.nodes] == [n.params for n in graph.nodes]


def test_blocks_of_other_types_stay_apart(model: Imported) -> None:
    graph = model.graph
    i, node = next(
        (i, n) for i, n in enumerate(graph.nodes) if n.name.startswith("blocks_1_mlp_fc2")
    )
    wider = replace(node.params, acc_type=replace(node.params.acc_type, bits=40))  # type: ignore
    nodes = [*graph.nodes[:i], replace(node, params=wider), *graph.nodes[i + 1 :]]
    assert not roll(replace(graph, nodes=nodes)).loops


def test_a_loop_is_closed(model: Imported) -> None:
    graph = roll(model.graph)
    inner = graph.loops[0].nodes[3]
    nodes = [*graph.nodes]
    nodes[-1] = replace(nodes[-1], inputs=(inner,))
    with pytest.raises(UnsupportedError, match="past the ends of the loop"):
        replace(graph, nodes=nodes).check()


@pytest.mark.slow
@pytest.mark.parametrize("ii", [4000, 900])
def test_three_views(model: Imported, tmp_path: Path, seed: int, ii: int) -> None:
    """Graph, HLS and RTL on every edge, with several frames in the loop and under stalls; the
    interval is the predicted one."""
    x = images(model.graph, seed, 9)
    rolled = roll(model.graph)
    lengths = rolled_lengths(rolled, {k: v.length for k, v in execute(model.graph, x).items()})
    graph = fold.fold(rolled, ROOM, lengths, ii=ii)
    assert graph.loops[0].in_flight > 1
    want = execute(graph, x)
    print(f"seed {seed}, {graph.loops[0].in_flight} frames in flight")

    plain = compare_views(graph, want, x, tmp_path, seed)
    ends = plain.out_last
    predicted, _ = fold.interval(graph, lengths)
    assert (ends[-1] - ends[4]) / 4 <= 1.1 * predicted
    few = plain.at[graph.loops[0].name]
    assert len(few) == len(x.length) * 3 * graph.max_tokens(graph.loops[0].name) * (
        graph.port_of(graph.loops[0].name).beats
    )


def test_selectors_are_detours(tmp_path: Path, seed: int) -> None:
    """All blocks are one, and a frame leaves it between two passes for a selector: the same
    integers on every edge in Graph, HLS and RTL, frames in flight before and behind selectors."""
    whole = network(tmp_path, seed, tokens=14, channels=24, hidden=24, blocks=5)
    model = variants.make(whole, "2_4", Variant((2, 4), (2, 4), keep=(70, 40)))
    rolled = roll(model.graph)
    (loop,) = rolled.loops
    assert loop.passes == 5 and loop.starts == (0, 1, 3)
    rolled.check()
    x = images(rolled, seed, 20)
    plain = execute(model.graph, x)
    want = rolled_edges(rolled, plain)
    assert first_difference(rolled, want, execute(rolled, x)) is None
    assert want.keys() == set(rolled.edges())

    lengths = rolled_lengths(rolled, {k: v.length for k, v in plain.items()})
    graph = fold.fold(rolled, ROOM, lengths, ii=1000)
    graph.save(tmp_path / "graph")
    assert Graph.load(tmp_path / "graph").loops == graph.loops
    print(f"seed {seed}, {graph.loops[0].in_flight} frames in flight")
    result = compare_views(graph, want, x, tmp_path, seed)
    loop, ends = graph.loops[0], result.out_last
    held = [result.fifos[loop.name, i] for i in range(-1, len(loop.entries))]
    depths = (loop.depth, *loop.entry_depths)
    assert all(0 < most <= depth for most, depth in zip(held, depths, strict=True))
    # keys of a long frame come while a short one has few queries, and the other way round
    assert (ends[-5] - ends[4]) / 11 <= 1.25 * fold.interval(graph, lengths)[0]


def test_what_parts_a_chain(tmp_path: Path, seed: int) -> None:
    """A selector that changes the type of the frames is no detour, and no loop begins behind it."""
    whole = network(tmp_path, seed, tokens=20, channels=48, hidden=48, blocks=4)
    graph = variants.make(whole, "dense_pruned").graph
    assert roll(graph).loops[0].starts == (0, 1, 2, 3)
    i = next(i for i, n in enumerate(graph.nodes) if n.name == "selectors_2_token_select")
    wide = replace(graph.nodes[i].params, x_type=IntType(30, True))  # type: ignore[call-arg]
    other = replace(graph.nodes[i], params=wide)
    nodes = [*graph.nodes[:i], other, *graph.nodes[i + 1 :]]
    assert [loop.starts for loop in roll(replace(graph, nodes=nodes)).loops] == [(0, 1)]


def test_what_does_not_fit_is_rolled(model: Imported) -> None:
    """With room for one block alone the design has a loop, with room for all it has none."""
    zcu102 = boards.load("zcu102")
    lengths = {e: torch.tensor([model.graph.max_tokens(e)]) for e in model.graph.edges()}
    free, _ = folded(model.graph, zcu102, lengths, ii=1e5)
    assert not free.loops
    tight = replace(zcu102, lut=int(0.8 * fold.total(free).lut / zcu102.usable_lut))
    found, own = folded(model.graph, tight, lengths, ii=1e5)
    assert found.loops and own[found.loops[0].set].numel() == 3


@pytest.mark.parametrize("odd", [0, 1])
def test_frames_in_flight_end_at_different_distances(odd: int) -> None:
    """The interval is the mean of those that come in turn, of frames that end while others come."""
    distances = [9, 90, *[52, 62] * 5, *[52] * odd, 30, 20]
    ends = np.cumsum(distances).tolist()
    result = runner.RtlResult(Stream.full(torch.zeros(1, 1, 1)), [], [ends[-3]], [], ends)
    assert interval(result, 3) == pytest.approx(57)
    assert abs(interval(result) - 57) > 1
