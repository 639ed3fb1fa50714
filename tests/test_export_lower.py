# SPDX-License-Identifier: Apache-2.0
"""QAT == QONNX == Graph on every test image; what cannot be lowered is refused by name."""

from __future__ import annotations

import copy
import filecmp
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Tiny
from onnx import helper
from qonnx.core.modelwrapper import ModelWrapper

from sievit.models import export as exporter
from sievit.models.qvit import image_input
from sievit.models.train import logits
from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.custom_op import DOMAIN
from sievit.quant.execute import execute, first_difference
from sievit.quant.graph import Graph, Node, UnsupportedError
from sievit.quant.lower import fuse_tables, lower
from sievit.quant.params import Stream


# -- equality ------------------------------------------------------------------------------------
def test_network_qonnx_and_graph_are_equal(
    tiny: Tiny, tiny_onnx: ModelWrapper, tiny_graph: Graph, tiny_edges: dict[str, Stream]
) -> None:
    """Every logit of every test image."""
    qat = logits(tiny.network, tiny.patches, tiny.data.levels)
    assert qat.shape == (360, 10) and len(qat.unique()) > 100
    x = image_input(tiny.patches, tiny.data.levels)
    qonnx = torch.from_numpy(exporter.execute(tiny_onnx, x)[exporter.OUTPUT]).flatten(1)
    assert torch.equal(qat, qonnx)
    out = tiny_graph.output
    graph = tiny_edges[out.name].data[:, 0].double() * 2.0**out.exponent
    assert torch.equal(qonnx.double(), graph)


def test_lowered_graph_has_the_cores_of_the_network(tiny_graph: Graph) -> None:
    count: dict[str, int] = {}
    for node in tiny_graph.nodes:
        count[node.core] = count.get(node.core, 0) + 1
    assert count == {
        "attention": 2,
        "first_token": 1,
        "gated_sum": 2,
        "layernorm": 7,
        "nm_matmul": 28,
        "pos_embed": 1,
        "residual_add": 4,
        "token_mean": 2,
        "token_select": 2,
    }
    for node in tiny_graph.nodes:
        sparse = node.core == "attention" or (
            node.core == "nm_matmul" and node.name.startswith("blocks")
        )
        if sparse:
            assert (node.params.n, node.params.m) == (2, 4), node.name
    tables = [n.name for n in tiny_graph.nodes if n.core == "nm_matmul" and n.params.entries]
    assert len(tables) == 14 and "blocks_0_mlp_fc1" in tables


# -- tables as a part of the matrix product in front ----------------------------------------------
def apart(graph: Graph) -> Graph:
    """The graph with a lookup_table of its own behind every nm_matmul that has a table."""
    nodes, tensors = [], {}
    for node in graph.nodes:
        p = node.params
        if not isinstance(p, NmMatmulParams) or not p.entries:
            nodes.append(node)
            tensors[node.name] = graph.meta["tensors"][node.name]
            continue
        plain = replace(p, out_type=p.mid_type, entries=0, table_offset=0, table_shift=0)
        table = LookupTableParams(
            max_tokens=p.max_tokens,
            channels=p.out_channels,
            simd=1,
            in_type=p.mid_type,
            out_type=p.out_type,
            offset=p.table_offset,
            shift=p.table_shift,
            entries=p.entries,
        )
        rest = {k: v for k, v in node.constants.items() if k != "table"}
        name = f"{node.name}_argument"
        nodes += [
            replace(node, name=name, params=plain, constants=rest, exponent=0),
            Node(node.name, "lookup_table", table, {"table": node.constants["table"]}, (name,),
                 exponent=node.exponent),
        ]  # fmt: skip
        tensors |= {name: "", node.name: graph.meta["tensors"][node.name]}
    out = replace(graph, nodes=nodes, meta={**graph.meta, "tensors": tensors})
    out.check()
    return out


def test_fused_tables_are_the_tables(tiny: Tiny, tiny_graph: Graph) -> None:
    """Apart: the same values on every edge that both have; fused again: the same graph but for the
    names of the products."""
    long = apart(tiny_graph)
    x = Stream.full(tiny.patches[:16])
    short_edges, long_edges = execute(tiny_graph, x), execute(long, x)
    assert set(short_edges) < set(long_edges) and len(long.nodes) == len(tiny_graph.nodes) + 14
    assert first_difference(tiny_graph, long_edges, short_edges) is None
    again = fuse_tables(long)
    again.check()
    names = {n.name for n in again.nodes}
    assert set(again.meta["tensors"]) == names and len(names) == len(tiny_graph.nodes)
    for one, two in zip(tiny_graph.nodes, again.nodes, strict=True):
        assert one.params == two.params
        assert one.exponent == two.exponent
        assert again.meta["tensors"][two.name] == tiny_graph.meta["tensors"][one.name]
    assert execute(again, x)[again.output.name] == short_edges[tiny_graph.output.name]


def test_a_product_that_others_read_keeps_its_table_outside(tiny_graph: Graph) -> None:
    long = apart(tiny_graph)
    name = "blocks_0_mlp_fc1"
    table = long.node(name)
    twin = replace(table, name="twin")
    at = long.nodes.index(table)
    both = replace(long, nodes=[*long.nodes[:at], twin, *long.nodes[at:]])
    both.meta["tensors"]["twin"] = ""
    fused = fuse_tables(both)
    kept = [n.name for n in fused.nodes if n.core == "lookup_table"]
    assert kept == ["twin", name]
    assert fused.node(f"{name}_argument").params.entries == 0


# -- determinism and files -----------------------------------------------------------------------
def test_same_network_same_file(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("a", "b"):
        exporter.export(tiny.network, tmp_path / f"{name}.onnx")
    a, b = ((tmp_path / f"{n}.onnx").read_bytes() for n in ("a", "b"))
    assert a == b and len(a) > 10_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_saved_graph(
    tiny: Tiny, tiny_graph: Graph, tiny_edges: dict[str, Stream], tmp_path: Path
) -> None:
    """Saved twice: the same bytes; loaded: the same graph and the same values."""
    for name in ("a", "b"):
        tiny_graph.save(tmp_path / name)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    match, mismatch, errors = filecmp.cmpfiles(
        tmp_path / "a", tmp_path / "b", files(tmp_path / "a"), shallow=False
    )
    assert len(match) > 50 and not mismatch and not errors
    back = Graph.load(tmp_path / "a")
    assert [replace(n, constants={}) for n in back.nodes] == [
        replace(n, constants={}) for n in tiny_graph.nodes
    ]
    assert (back.input, back.input_tokens, back.input_exponent, back.meta) == (
        tiny_graph.input,
        tiny_graph.input_tokens,
        tiny_graph.input_exponent,
        tiny_graph.meta,
    )
    assert execute(back, Stream.full(tiny.patches)) == tiny_edges
    back.save(tmp_path / "c")
    assert (tmp_path / "c" / "manifest.json").read_bytes() == (
        tmp_path / "a" / "manifest.json"
    ).read_bytes()


@pytest.mark.parametrize("name", ["constants/head.weight.npy", "graph.json"])
def test_changed_file_is_refused(tiny_graph: Graph, tmp_path: Path, name: str) -> None:
    tiny_graph.save(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[-3] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=f"{name} was changed after the build; build again"):
        Graph.load(tmp_path)


# -- refusals ------------------------------------------------------------------------------------
def copied(model: ModelWrapper) -> ModelWrapper:
    return ModelWrapper(copy.deepcopy(model.model))


def nodes(model: ModelWrapper, kind: str) -> list[Any]:
    return [n for n in model.graph.node if n.op_type == kind]


def weight_quants(model: ModelWrapper) -> list[Any]:
    """Quant nodes of constants that have more than one value."""
    found = []
    for node in nodes(model, "Quant"):
        value = model.get_initializer(node.input[0])
        if value is not None and value.ndim == 2:
            found.append(node)
    return found


def activation_quants(model: ModelWrapper) -> list[Any]:
    return [n for n in nodes(model, "Quant") if model.get_initializer(n.input[0]) is None]


def attribute(node: Any, name: str, value: Any) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def constant(model: ModelWrapper, node: Any, index: int, value: np.ndarray) -> None:
    """Give an input of a node an initializer of its own."""
    name = f"{node.output[0]}_changed_{index}"
    node.input[index] = name
    model.set_initializer(name, value)


def float_operator(op_type: str, domain: str = "") -> Callable[[ModelWrapper], str]:
    def change(model: ModelWrapper) -> str:
        quant = activation_quants(model)[3]
        made = helper.make_node(
            op_type, [quant.output[0]], ["float_out"], name="/foreign/Op", domain=domain
        )
        for node in model.graph.node:
            for i, name in enumerate(node.input):
                if name == quant.output[0]:
                    node.input[i] = "float_out"
        model.graph.node.insert(list(model.graph.node).index(quant) + 1, made)
        return made.name

    return change


def odd_scale(model: ModelWrapper) -> str:
    node = activation_quants(model)[2]
    constant(model, node, 1, np.array(0.3, np.float32))
    return node.name


def zero_scale(model: ModelWrapper) -> str:
    node = activation_quants(model)[2]
    constant(model, node, 1, np.array(0.0, np.float32))
    return node.name


def not_a_scale(model: ModelWrapper) -> str:
    node = activation_quants(model)[2]
    constant(model, node, 1, np.array(np.nan, np.float32))
    return node.name


def odd_weight_scale(model: ModelWrapper) -> str:
    node = weight_quants(model)[1]
    constant(model, node, 1, np.array(0.3, np.float32))
    return node.name


def channel_scale(model: ModelWrapper) -> str:
    node = weight_quants(model)[1]
    rows = model.get_initializer(node.input[0]).shape[0]
    constant(model, node, 1, np.full((rows, 1), 0.25, np.float32))
    return node.name


def zero_point(model: ModelWrapper) -> str:
    node = activation_quants(model)[2]
    constant(model, node, 2, np.array(3.0, np.float32))
    return node.name


def floor_rounding(model: ModelWrapper) -> str:
    node = activation_quants(model)[1]
    attribute(node, "rounding_mode", "FLOOR")
    return node.name


def narrow_activation(model: ModelWrapper) -> str:
    node = activation_quants(model)[1]
    attribute(node, "narrow", 1)
    return node.name


def plain_weights(model: ModelWrapper) -> str:
    quant = weight_quants(model)[2]
    value = model.get_initializer(quant.input[0])
    readers = [n for n in model.graph.node if quant.output[0] in n.input]
    assert len(readers) == 1
    model.graph.node.remove(quant)
    model.set_initializer(quant.output[0], value)
    while readers[0].op_type != "MatMul":
        readers = [n for n in model.graph.node if readers[0].output[0] in n.input]
    return readers[0].name


def broken_pattern(model: ModelWrapper) -> str:
    quant = next(n for n in weight_quants(model) if "blocks.1/mlp/fc1" in n.name)
    value = model.get_initializer(quant.input[0]).copy()
    value[:] = np.abs(value).max()
    constant(model, quant, 0, value)
    return "blocks.1.mlp.fc1"


def two_activations(model: ModelWrapper) -> str:
    node = nodes(model, "MatMul")[2]
    node.input[1] = node.input[0]
    return node.name


def quantised_twice(model: ModelWrapper) -> str:
    quant = activation_quants(model)[2]
    again = copy.deepcopy(quant)
    again.name, again.input[0], again.output[0] = "/again/Quant", quant.output[0], "again_out"
    model.graph.node.insert(list(model.graph.node).index(quant) + 1, again)
    return again.name


def moved_scale(model: ModelWrapper) -> str:
    """A core that expects another scale than its input has."""
    node = next(n for n in model.graph.node if n.domain == DOMAIN)
    attribute(node, "in_exponents", [-17])
    return node.name


def unknown_core(model: ModelWrapper) -> str:
    node = next(n for n in model.graph.node if n.domain == DOMAIN)
    node.op_type = "WarpDrive"
    return node.name


@pytest.mark.parametrize(
    ("change", "reason", "hint"),
    [
        (float_operator("Relu"), "operator Relu has no core", "write a core"),
        (float_operator("LayerNormalization"), "operator LayerNormalization has", "write a core"),
        (float_operator("Relu", "some.where"), "operator Relu has no core", "write a core"),
        (odd_scale, r"scale 0\.3\d* is not a power of two", "use the quantisers"),
        (zero_scale, r"scale 0\.0 is not a power of two", "use the quantisers"),
        (not_a_scale, "scale nan is not a power of two", "use the quantisers"),
        (odd_weight_scale, r"scale 0\.3\d* is not a power of two", "use the quantisers"),
        (channel_scale, "per-channel scale or zero point", "one symmetric scale per tensor"),
        (zero_point, "per-channel scale or zero point", "one symmetric scale per tensor"),
        (floor_rounding, "rounding mode FLOOR", "use ROUND"),
        (narrow_activation, "narrow range of an activation", "use the full range"),
        (plain_weights, "weights are not quantised", "add a weight quantiser"),
        (broken_pattern, "weights break 2:4: output 0, inputs 0..3 hold 4", "prune the weights"),
        (two_activations, "a product of two activations", "use the attention core"),
        (quantised_twice, "quantised already", "remove one of the two"),
        (moved_scale, r"expects scale 2\^-17", "export the network again"),
        (unknown_core, "WarpDrive is no core; known: Attention", "export the network again"),
    ],
)
def test_refused(
    change: Callable[[ModelWrapper], str], reason: str, hint: str, tiny_onnx: ModelWrapper
) -> None:
    """UnsupportedError names node, reason and remedy; nothing else escapes."""
    model = copied(tiny_onnx)
    where = change(model)
    with pytest.raises(UnsupportedError, match=reason) as caught:
        lower(model, "changed")
    assert caught.value.node == where and hint in caught.value.hint
    assert str(caught.value) == f"{where}: {caught.value.reason}; {caught.value.hint}"


def test_the_copy_itself_is_lowered(tiny_onnx: ModelWrapper, tiny_graph: Graph) -> None:
    """So the refusals are due to the changes."""
    again = lower(copied(tiny_onnx), tiny_graph.name)
    assert [n.name for n in again.nodes] == [n.name for n in tiny_graph.nodes]


# -- finding a difference ------------------------------------------------------------------------
def damaged(edges: dict[str, Stream], edge: str) -> tuple[dict[str, Stream], Stream]:
    other = dict(edges)
    x = edges[edge]
    other[edge] = Stream(x.data.clone(), x.length.clone(), x.package.clone())
    return other, other[edge]


@pytest.mark.parametrize("edge", ["input", "selectors_0_token_select", "blocks_1_attn_q", "head"])
def test_first_difference_of_a_value(
    edge: str, tiny_graph: Graph, tiny_edges: dict[str, Stream]
) -> None:
    other, x = damaged(tiny_edges, edge)
    token, channel = int(x.length[7]) - 1, x.data.shape[2] - 1
    old = int(x.data[7, token, channel])
    x.data[7, token, channel] += 5
    assert first_difference(tiny_graph, tiny_edges, other) == (
        f"edge {edge}, frame 7, token {token}, channel {channel}: {old + 5} instead of {old}"
    )


def test_first_difference_of_frames(tiny_graph: Graph, tiny_edges: dict[str, Stream]) -> None:
    edge = "selectors_0_token_select"
    other, x = damaged(tiny_edges, edge)
    tokens = int(x.length[3])
    x.length[3] -= 1
    assert first_difference(tiny_graph, tiny_edges, other) == (
        f"edge {edge}, frame 3: {tokens - 1} tokens instead of {tokens}"
    )
    other, x = damaged(tiny_edges, edge)
    x.package[5] = ~x.package[5]
    assert first_difference(tiny_graph, tiny_edges, other) == (
        f"edge {edge}, frame 5: package flag {bool(x.package[5])}"
    )
    count = len(x.length)
    other[edge] = Stream(x.data[:4], tiny_edges[edge].length[:4], tiny_edges[edge].package[:4])
    assert first_difference(tiny_graph, tiny_edges, other) == f"edge {edge}, frame 4: missing"
    want = tiny_edges[edge]
    more = [torch.cat([t, t[:1]]) for t in (want.data, want.length, want.package)]
    other[edge] = Stream(*more)
    assert first_difference(tiny_graph, tiny_edges, other) == (
        f"edge {edge}: {count + 1} frames instead of {count}"
    )


def test_first_difference_is_the_first(tiny_graph: Graph, tiny_edges: dict[str, Stream]) -> None:
    """In graph order; edges that are not there are not compared; equal is None."""
    other = dict(tiny_edges)
    for edge in ("head", "blocks_0_attn_v", "blocks_1_norm2"):
        other = damaged(other, edge)[0]
        other[edge].data[2, 0, 0] += 1
    found = first_difference(tiny_graph, tiny_edges, other)
    assert found is not None and found.startswith("edge blocks_0_attn_v, frame 2, token 0")
    del other["blocks_0_attn_v"]
    found = first_difference(tiny_graph, tiny_edges, other)
    assert found is not None and re.match("edge blocks_1_norm2, frame 2", found)
    assert first_difference(tiny_graph, tiny_edges, dict(tiny_edges)) is None
    assert first_difference(tiny_graph, tiny_edges, {}) is None


def test_padding_is_no_difference(tiny_graph: Graph, tiny_edges: dict[str, Stream]) -> None:
    edge = "selectors_1_token_select"
    other, x = damaged(tiny_edges, edge)
    other[edge] = Stream(torch.nn.functional.pad(x.data, (0, 0, 0, 9)), x.length, x.package)
    assert first_difference(tiny_graph, tiny_edges, other) is None
