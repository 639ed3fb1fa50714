# SPDX-License-Identifier: Apache-2.0
"""A generated module is the graph: same integers on every edge, same files for the same graph."""

from pathlib import Path

import pytest
import torch
from device_network import two_clocks

from sievit.flow.build import interval
from sievit.quant.execute import execute, first_difference
from sievit.quant.fold import total
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import CoreParams, Port, Stream, load_core, random_frames
from sievit.rtl import codegen
from sievit.sim.harness import build_root
from sievit.sim.runner import lint, run_graph

T8, T10 = IntType(8, True), IntType(10, True)
TOKENS = 5


def small_graph() -> Graph:
    """Embedding, a residual branch of table and matrices, a gated sum in front of the output."""
    rng = torch.Generator().manual_seed(3)
    nodes: list[Node] = []

    def add(name: str, core: str, inputs: tuple[str, ...], *depths: int, **fields: object) -> None:
        params: CoreParams = load_core(core).params(max_tokens=TOKENS + 1, **fields)
        constants, _ = load_core(core).stimuli(rng, params, 2)
        nodes.append(Node(name, core, params, constants, inputs, depths))

    add("left", "nm_matmul", ("input",), in_channels=6, out_channels=12, m=3, n=1, simd=3, pe=4,
        in_type=T8, out_type=T8, shift=5)  # fmt: skip
    add("right", "nm_matmul", ("input",), 4, in_channels=6, out_channels=12, m=1, n=1, simd=2, pe=3,
        in_type=T8, out_type=T8, shift=6)  # fmt: skip
    add("act", "lookup_table", ("right",), channels=12, simd=4, in_type=T8, out_type=T8)
    add("branch", "nm_matmul", ("act",), 7, in_channels=12, out_channels=12, groups=2, m=2, n=1,
        simd=6, pe=2, in_type=T8, out_type=T8, shift=4)  # fmt: skip
    add("sum", "residual_add", ("left", "branch"), 24, 1, channels=12, simd=6, a_type=T8,
        b_type=T8, out_type=T10, b_shift=1)  # fmt: skip
    add("gate", "gated_sum", ("sum", "sum"), channels=12, simd=4, a_type=T10, b_type=T10,
        out_type=IntType(24, True))  # fmt: skip
    return Graph("small_graph", Port("s_axis", 6, 2, T8), TOKENS, 0, nodes)


def test_every_edge() -> None:
    graph = small_graph()
    x = random_frames(torch.Generator().manual_seed(7), graph.input, 12, TOKENS, True)
    golden = execute(graph, x)
    for stall in ("none", "both"):
        result = run_graph(graph, build_root() / "codegen", x, stall, seed=5)
        assert set(result.edges) == set(golden)
        assert first_difference(graph, golden, result.edges) is None
        assert result.output == golden["gate"]
        beats = [len(result.at[e]) for e, _, _ in codegen.taps(graph)]
        want = [int(golden[e].length.sum()) * p.beats for e, _, p in codegen.taps(graph)]
        assert beats == want


def test_a_token_that_is_kept_holds_up_none_that_are_dropped(seed: int) -> None:
    """first_token takes 8 beats of each of 6 tokens; what reads it needs 32 of these 48 cycles."""
    rng = torch.Generator().manual_seed(seed)
    nodes: list[Node] = []
    for name, core, edge, tokens, simd in (
        ("first", "first_token", "input", 6, 4), ("act", "lookup_table", "first", 1, 1),
    ):  # fmt: skip
        types = {"in_type": T8} | ({"out_type": T8} if core == "lookup_table" else {})
        params = load_core(core).params(channels=32, simd=simd, max_tokens=tokens, **types)
        constants, _ = load_core(core).stimuli(rng, params, 2)
        nodes.append(Node(name, core, params, constants, (edge,), (0,)))
    graph = Graph("burst_net", Port("s_axis", 32, 4, T8), 6, 0, nodes)
    x = Stream.full(torch.randint(-128, 128, (16, 6, 32), generator=rng))
    result = run_graph(graph, build_root() / "codegen_burst", x, "none", seed=seed)
    assert result.output == execute(graph, x)["act"]
    assert interval(result) == 48
    assert total(graph).lut > sum(n.params.resources().lut for n in nodes)


def test_deterministic(tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        codegen.generate(small_graph(), folder)
        files.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")})
    assert files[0] == files[1]
    names = {str(p) for p in files[0]}
    assert {"small_graph.sv", "mem/small_graph.u_left.weights.hex0"} <= names
    lint("small_graph", [tmp_path / "a" / "small_graph.sv"])


def test_only_instances_and_wires(tmp_path: Path) -> None:
    text = codegen.generate(small_graph(), tmp_path).read_text()
    assert not any(word in text for word in ("always", "initial", "function", "<=", "?"))


def test_second_clock(tmp_path: Path) -> None:
    """A module has it where a core does, and hands it to that core alone."""
    one, two = (codegen.generate(g, tmp_path) for g in (small_graph(), two_clocks()))
    assert "wire clk2x_i" not in one.read_text() and ".clk2x_i," not in one.read_text()
    text = two.read_text()
    assert text.count("wire clk2x_i") == text.count(".clk2x_i,") == 1
    assert text.index("u_embed") < text.index(".clk2x_i,") < text.index("u_mean")
    lint("device_net", [two])


@pytest.mark.slow
def test_two_clocks_simulated() -> None:
    """Every edge, under stalls on both ends, in the cycles that were promised."""
    graph = two_clocks()
    x = random_frames(torch.Generator().manual_seed(2), graph.input, 6, 5)
    golden = execute(graph, x)
    for stall in ("none", "both"):
        result = run_graph(graph, build_root() / "two_clocks", x, stall, 2)
        assert first_difference(graph, golden, result.edges) is None


def test_unread_edge_is_refused(tmp_path: Path) -> None:
    graph = small_graph()
    node = graph.node("left")
    graph.nodes.insert(0, Node("loose", node.core, node.params, node.constants, ("input",)))
    with pytest.raises(ValueError, match="nobody reads edge 'loose'"):
        codegen.generate(graph, tmp_path)
