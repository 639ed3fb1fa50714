# SPDX-License-Identifier: Apache-2.0
"""Composed graphs never get stuck with the least FIFOs, and do with less."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Tiny

from sievit.boards import board as boards
from sievit.quant import fold
from sievit.quant.execute import execute
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream, core_names, load_core, random_frames
from sievit.sim import liveness
from sievit.sim.harness import build_root
from sievit.sim.runner import Run, SimulationError, run_graph_batch

T6, T8 = IntType(6, True), IntType(8, True)
TOKENS = 5


def residual(*branch: tuple[str, dict[str, object]]) -> Graph:
    """``input + f(input)`` over 8 channels, 2 per beat; ``branch``: the cores of f with their
    fields."""
    rng = torch.Generator().manual_seed(4)
    nodes: list[Node] = []
    edge = Graph.INPUT
    for i, (core, values) in enumerate(branch):
        library = load_core(core)
        params = library.params(max_tokens=TOKENS, **values)
        constants, _ = library.stimuli(rng, params, 2)
        inputs = (edge,) * len(params.inputs())
        nodes.append(Node(f"f{i}", core, params, constants, inputs))
        edge = f"f{i}"
    add = load_core("residual_add").params(
        max_tokens=TOKENS, channels=8, simd=2, a_type=T6, b_type=T8, out_type=T8
    )
    nodes.append(Node("add", "residual_add", add, {}, (Graph.INPUT, edge)))
    return Graph("live", Port("s_axis", 8, 2, T6), TOKENS, 0, nodes)


def with_depth(graph: Graph, name: str, depths: tuple[int, ...]) -> Graph:
    nodes = [replace(n, depths=depths) if n.name == name else n for n in graph.nodes]
    return replace(graph, nodes=nodes)


ATTENTION = ("attention", {"channels": 8, "heads": 2, "q_type": T6, "k_type": T6, "v_type": T6})
MATMUL = (
    "nm_matmul",
    {"in_channels": 8, "out_channels": 8, "simd": 4, "in_type": T6, "pe": 2, "tp": 3},
)
NORM = ("layernorm", {"channels": 8, "simd": 2, "in_type": T6, "out_type": T6})
TABLE = ("lookup_table", {"channels": 8, "simd": 4, "in_type": T6, "out_type": T8})


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("branch", "tokens"),
    [((ATTENTION,), TOKENS), ((NORM, ATTENTION), TOKENS), ((MATMUL,), 3)],
    ids=["attention", "layernorm-attention", "nm_matmul"],
)
def test_least_fifo_is_tight(
    branch: tuple[tuple[str, dict[str, object]], ...], tokens: int, rng: torch.Generator
) -> None:
    """The skip connection holds what the branch takes before its first beat; one beat less and the
    watchdog ends the simulation."""
    graph = fold.minimum_fifos(residual(*branch))
    skip = tokens * 4  # beats: 4 per token
    # one stands at the fork, which the branch has taken; one in the FIFO's output register
    assert graph.node("add").depths == (skip - 2, 0)
    x = random_frames(rng, graph.input, 6, TOKENS)
    golden = execute(graph, x)
    folder = build_root() / f"tight-{len(branch)}-{branch[-1][0]}"
    runs = [Run([x], stall) for stall in ("none", "both", "starve")]
    for result in run_graph_batch(graph, folder / "least", runs):
        assert result.output == golden["add"]
    less = with_depth(graph, "add", (skip - 3, 0))
    with pytest.raises(SimulationError, match="no end in sight"):
        run_graph_batch(less, folder / "less", runs[:1])


def test_beatwise_branch_needs_no_fifo() -> None:
    """A table passes beats on as they come; with a wider beat the skip waits for it."""
    graph = fold.minimum_fifos(residual(TABLE))
    assert graph.node("add").depths == (1, 0)
    table = (TABLE[0], {**TABLE[1], "simd": 2})
    assert fold.minimum_fifos(residual(table)).node("add").depths == (0, 0)


def test_sized_fifos_are_no_smaller(tiny: Tiny, tiny_graph: Graph) -> None:
    """What folding builds for speed also suffices."""
    design = fold.fold(tiny_graph, boards.load("zcu102").budget())
    least = fold.minimum_fifos(design)
    for node, other in zip(design.nodes, least.nodes, strict=True):
        pairs = zip(node.depths, other.depths, strict=True)
        assert all(a >= b for a, b in pairs), (node.name, node.depths, other.depths)


@pytest.mark.slow
def test_random_graphs_are_as_promised() -> None:
    """3 to 9 nodes over all cores; lanes differ, edges fork, frames change their length."""
    seen: set[str] = set()
    converters = forks = shorter = 0
    for seed, core in enumerate(core_names() * 3):
        rng = torch.Generator().manual_seed(seed)
        graph, x, edges = liveness.random_case(rng, 20, core)
        cores = {n.core for n in graph.nodes}
        assert core in cores and 3 <= len(graph.nodes) <= liveness.MAX_NODES
        seen |= cores
        ports = [
            (e, p) for n in graph.nodes for e, p in zip(n.inputs, n.params.inputs(), strict=True)
        ]
        converters += any(graph.port_of(e).lanes != p.lanes for e, p in ports)
        forks += any(len(graph.consumers(e)) > 1 for e, _ in ports)
        selected = [n for n in graph.nodes if n.core == "token_select"]
        shorter += any(not torch.equal(edges[n.name].length, x.length) for n in selected)
    assert seen == set(core_names())
    assert min(converters, forks) >= 15 and shorter >= 3


@pytest.mark.slow
def test_200_frames(seed: int) -> None:
    """The sample of ``make soak``: ten graphs, every core among them."""
    folder = build_root() / "liveness-200"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "liveness.json").unlink(missing_ok=True)
    found = liveness.run(200, seed, folder)
    assert found["frames"] >= 200 and found["graphs"] == 10
    assert all(count > 0 for count in found["nodes"].values())
    # a second call finds everything done
    again = json.loads((folder / "liveness.json").read_text())
    assert liveness.run(200, seed, folder) == found
    assert json.loads((folder / "liveness.json").read_text()) == again


@pytest.mark.slow
def test_failures_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong beat and a stuck graph stop the run, and say which graph it was."""
    graph = fold.minimum_fifos(residual(ATTENTION))
    x = random_frames(torch.Generator().manual_seed(1), graph.input, 12, TOKENS)

    def wrong(*_: object) -> tuple[Graph, Stream, dict[str, Stream]]:
        edges = execute(graph, x)
        edges["add"] = edges["add"].with_data(edges["add"].data ^ 1)
        return graph, x, edges

    monkeypatch.setattr(liveness, "random_case", wrong)
    with pytest.raises(liveness.LivenessError, match=r"seed 3, graph 7.*edge add, frame 0"):
        liveness.check(3, 7, 12, tmp_path / "a")

    less = with_depth(graph, "add", (TOKENS * 4 - 3, 0))
    monkeypatch.setattr(liveness, "random_case", lambda *_: (less, x, execute(less, x)))
    with pytest.raises(liveness.LivenessError, match=r"seed 3, graph 8.*no end in sight"):
        liveness.check(3, 8, 12, tmp_path / "b")
