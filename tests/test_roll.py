# SPDX-License-Identifier: Apache-2.0
"""Blocks that share their cores compute what they computed one after the other: Graph, HLS, RTL."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hgpipe_network import Network

from sievit.boards import board as boards
from sievit.flow.build import folded
from sievit.hls import codegen as hls_codegen
from sievit.hls import csim
from sievit.models import hgpipe, variants
from sievit.models.imported import Imported
from sievit.quant import fold
from sievit.quant.execute import execute, first_difference
from sievit.quant.graph import Graph, UnsupportedError
from sievit.quant.params import Resources, Stream
from sievit.quant.roll import roll, rolled_edges, rolled_lengths
from sievit.sim import runner

ROOM = Resources(1e9, 1e9, 1e6, 1e6, 0)


def network(folder: Path, seed: int, **sizes: int) -> Imported:
    path = folder / f"{seed}.npz"
    np.savez(path, **Network(seed, **sizes).a)  # type: ignore[arg-type]
    return hgpipe.load(path)


def images(graph: Graph, seed: int, count: int) -> Stream:
    rng = torch.Generator().manual_seed(seed)
    t = graph.input.itype
    shape = (count, graph.input_tokens, graph.input.channels)
    return Stream.full(torch.randint(t.min, t.max + 1, shape, generator=rng))


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

    hls_codegen.generate(graph, tmp_path / "hls", boards.load("zcu102"), x)
    csim.compile(tmp_path / "hls")
    got = csim.run(tmp_path / "hls", graph, x, taps=True)
    assert first_difference(graph, want, got) is None and got.keys() == want.keys()

    runs = [runner.Run([x], stall, seed) for stall in ("none", "both", "bursts", "ready_25")]
    results = runner.run_graph_batch(graph, tmp_path / "rtl", runs)
    for run, result in zip(runs, results, strict=True):
        assert result.edges.keys() == want.keys()
        assert first_difference(graph, want, result.edges) is None, run.stall
    ends = results[0].out_last
    predicted, _ = fold.interval(graph, lengths)
    assert (ends[-1] - ends[4]) / 4 <= 1.1 * predicted
    few = results[0].at[graph.loops[0].name]
    assert len(few) == len(x.length) * 3 * graph.max_tokens(graph.loops[0].name) * (
        graph.port_of(graph.loops[0].name).beats
    )


def test_selectors_part_loops(tmp_path: Path, seed: int) -> None:
    """Blocks between two selectors share; a frame is shorter in every loop."""
    whole = network(tmp_path, seed, tokens=20, channels=48, hidden=48, blocks=8)
    model = variants.make(whole, "4_16_pruned")
    graph = roll(model.graph)
    assert [loop.passes for loop in graph.loops] == [2, 2, 2, 2]
    x = images(graph, seed, 3)
    got, want = execute(graph, x), rolled_edges(graph, execute(model.graph, x))
    assert first_difference(graph, want, got) is None


def test_what_does_not_fit_is_rolled(model: Imported) -> None:
    """With room for one block alone the design has a loop, with room for all it has none."""
    zcu102 = boards.load("zcu102")
    lengths = {e: torch.tensor([model.graph.max_tokens(e)]) for e in model.graph.edges()}
    free, _ = folded(model.graph, zcu102, lengths, ii=1e5)
    assert not free.loops
    tight = replace(zcu102, lut=int(0.8 * fold.total(free).lut / zcu102.usable_lut))
    found, own = folded(model.graph, tight, lengths, ii=1e5)
    assert found.loops and own[found.loops[0].set].numel() == 3
