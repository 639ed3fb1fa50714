# SPDX-License-Identifier: Apache-2.0
"""QONNX -> Graph. What cannot be lowered is refused by node, reason and hint."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.general.quant import quant
from torch import Tensor

from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.cores.nm_matmul import NmMatmulParams, accumulator_type
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.custom_op import DOMAIN, core_call, read_attributes
from sievit.quant.graph import Graph, Node, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import Port, divisors, most_tokens


@dataclass(frozen=True)
class Edge:
    """An activation tensor: the graph edge that carries it, its type and scale."""

    name: str
    itype: IntType
    exponent: int
    channels: int
    tokens: int


@dataclass(frozen=True)
class Linear:
    """A matrix product that still waits for its bias and its output quantiser."""

    layer: str
    x: Edge
    weight: Tensor
    weight_exponent: int
    bias: Tensor | None = None


@dataclass(frozen=True)
class Sum:
    """A sum of two edges that still waits for its output quantiser."""

    name: str
    a: Edge
    b: Edge


@dataclass(frozen=True)
class Constant:
    """An initializer: ``value`` is exact; ``exponent`` is known if it went through a Quant node."""

    value: Tensor
    exponent: int | None = None


def lower(model: ModelWrapper, name: str) -> Graph:
    """Graph of an exported network (batch size 1), unfolded.

    Raises UnsupportedError for a node, a scale, a rounding mode or weights that have no core.
    """
    return _Lowering(model, name).run()


class _Lowering:
    def __init__(self, model: ModelWrapper, name: str) -> None:
        self.model, self.name = model, name
        self.nodes: list[Node] = []
        self.promised: dict[str, str] = json.loads(model.get_metadata_prop("sievit.nm") or "{}")
        self.input: Edge | None = None
        self.values: dict[str, Any] = {}
        self.tensors: dict[str, str] = {}
        for info in model.graph.initializer:
            array = model.get_initializer(info.name)
            self.values[info.name] = Constant(torch.from_numpy(np.array(array)).double())

    def run(self) -> Graph:
        graph = self.model.graph
        self.source = graph.input[0].name
        for node in graph.node:
            made = len(self.nodes)
            handler = {
                "Quant": self.quant,
                "MatMul": self.matmul,
                "Add": self.add,
                "Transpose": self.transpose,
            }.get(node.op_type)
            if node.domain == DOMAIN:
                self.core(node)
            elif handler:
                handler(node)
            else:
                raise UnsupportedError(
                    node.name,
                    f"operator {node.op_type} has no core",
                    "use the layers of sievit.models, or write a core (make core NAME=...)",
                )
            for new in self.nodes[made:]:
                self.tensors[new.name] = node.output[0]
        output = self.values.get(graph.output[0].name)
        if isinstance(output, Linear):
            self.tensors[self.linear(output, None).name] = graph.output[0].name
        elif not isinstance(output, Edge):
            raise UnsupportedError(
                "output", "no integer result", "end in a linear layer or a Quant"
            )
        if self.input is None:
            raise UnsupportedError("input", "the input is not quantised", "start with a Quant node")
        port = Port("s_axis", self.input.channels, 1, self.input.itype)
        meta = {"tensors": self.tensors}  # ONNX tensor of every edge
        out = Graph(self.name, port, self.input.tokens, self.input.exponent, self.nodes, meta)
        out = fuse_tables(out)
        out.check()
        return out

    # -- helpers ---------------------------------------------------------------------------------
    def edge(self, node: Any, tensor: str) -> Edge:
        value = self.values.get(tensor)
        if not isinstance(value, Edge):
            kind = type(value).__name__.lower() if value is not None else "float"
            raise UnsupportedError(
                node.name,
                f"input {tensor!r} is a {kind} value, not a quantised activation",
                "put a Quant node in front",
            )
        return value

    def emit(self, node: Node) -> Edge:
        used = {n.name for n in self.nodes} | {Graph.INPUT}
        if node.name in used:
            node = replace(node, name=f"{node.name}_{node.core}")
        self.nodes.append(node)
        port = node.params.output()
        tokens = most_tokens(node.params, node.params.max_tokens)
        return Edge(node.name, port.itype, node.exponent, port.channels, tokens)

    # -- ONNX operators --------------------------------------------------------------------------
    def quant(self, node: Any) -> None:
        attributes = read_attributes(node)
        scale, zero, bits = (self.values[i].value for i in node.input[1:4])
        if attributes.get("rounding_mode", "ROUND") != "ROUND":
            raise UnsupportedError(
                node.name,
                f"rounding mode {attributes['rounding_mode']}",
                "use ROUND (half to even)",
            )
        if scale.numel() != 1 or bool((zero != 0).any()):
            raise UnsupportedError(
                node.name, "per-channel scale or zero point", "use one symmetric scale per tensor"
            )
        exponent = _exponent(node.name, float(scale))
        source = self.values.get(node.input[0])
        if isinstance(source, Constant):
            value = quant(
                source.value.numpy(),
                scale.numpy(),
                zero.numpy(),
                bits.numpy(),
                signed=attributes["signed"],
                narrow=attributes["narrow"],
                rounding_mode="ROUND",
            )
            self.values[node.output[0]] = Constant(torch.from_numpy(value), exponent)
            return
        if attributes["narrow"]:
            raise UnsupportedError(
                node.name, "narrow range of an activation", "use the full range (narrow = 0)"
            )
        t = IntType(int(bits), bool(attributes["signed"]))
        if node.input[0] == self.source:
            _, tokens, channels = self.model.get_tensor_shape(self.source)
            self.input = Edge(Graph.INPUT, t, exponent, channels, tokens)
            result = self.input
        elif isinstance(source, Linear):
            result = self.linear(source, (t, exponent))
        elif isinstance(source, Sum):
            result = self.sum(source, t, exponent)
        else:
            raise UnsupportedError(
                node.name,
                "requantises a value that is quantised already",
                "remove one of the two quantisers",
            )
        self.values[node.output[0]] = result

    def matmul(self, node: Any) -> None:
        x, w = self.edge(node, node.input[0]), self.values.get(node.input[1])
        if not isinstance(w, Constant):
            raise UnsupportedError(
                node.name, "a product of two activations", "use the attention core"
            )
        weight, exponent = _integers(node.name, w)
        self.values[node.output[0]] = Linear(_scope(node.name), x, weight.T, exponent)

    def add(self, node: Any) -> None:
        a, b = (self.values.get(i) for i in node.input)
        if isinstance(a, Constant):
            a, b = b, a
        if isinstance(a, Linear) and isinstance(b, Constant) and a.bias is None:
            scaled = b.value.flatten() * 2.0 ** -(a.x.exponent + a.weight_exponent)
            bias = scaled.round()
            if bool((bias != scaled).any()):
                raise UnsupportedError(
                    node.name, "bias is no multiple of the accumulator's step", "quantise the bias"
                )
            self.values[node.output[0]] = replace(a, bias=bias.long())
        elif isinstance(a, Edge) and isinstance(b, Edge):
            self.values[node.output[0]] = Sum(_name(node.name), a, b)
        else:
            raise UnsupportedError(
                node.name, "adds values that are not quantised", "put a Quant node in front"
            )

    def transpose(self, node: Any) -> None:
        source = self.values.get(node.input[0])
        if not isinstance(source, Constant):
            raise UnsupportedError(
                node.name, "transposes an activation", "streams are token by token, channels inside"
            )
        perm = read_attributes(node).get("perm") or list(range(source.value.ndim))[::-1]
        self.values[node.output[0]] = replace(source, value=source.value.permute(*perm))

    def core(self, node: Any) -> None:
        attributes = read_attributes(node)
        streams = len(attributes["in_exponents"])
        constants = [
            self.values[i].value.numpy() for i in node.input[streams + attributes["frames"] :]
        ]
        try:
            call = core_call(node.op_type, attributes, constants)
        except (KeyError, ValueError) as error:
            raise UnsupportedError(node.name, str(error), "export the network again") from error
        edges = [self.edge(node, i) for i in node.input[:streams]]
        for edge, exponent in zip(edges, call.in_exponents, strict=True):
            if edge.exponent != exponent:
                raise UnsupportedError(
                    node.name,
                    f"expects scale 2^{exponent}, {edge.name} has 2^{edge.exponent}",
                    "export the network again",
                )
        params = replace(call.params, max_tokens=edges[0].tokens)
        inputs = tuple(e.name for e in edges)
        own = node.op_type in ("Layernorm", "LookupTable")
        name = _clean(_scope(node.name)) if own else _name(node.name)
        made = Node(name, call.stem, params, call.constants, inputs, exponent=call.out_exponent)
        self.values[node.output[0]] = self.emit(made)

    # -- cores that come out of patterns ---------------------------------------------------------
    def linear(self, f: Linear, out: tuple[IntType, int] | None) -> Edge:
        """nm_matmul of a matrix product; without ``out`` the accumulator itself leaves."""
        rows, columns = f.weight.shape
        bias = f.bias if f.bias is not None else torch.zeros(rows, dtype=torch.int64)
        groups = _groups(f.weight)
        blocks = f.weight.reshape(groups, rows // groups, groups, columns // groups)
        weight = torch.cat([blocks[g, :, g] for g in range(groups)])
        n, m = self.pattern(f.layer, weight)
        acc = accumulator_type(weight, bias, f.x.itype)
        exponent = f.x.exponent + f.weight_exponent
        out_type, out_exponent = out if out else (acc, exponent)
        params = NmMatmulParams(
            max_tokens=f.x.tokens,
            in_channels=columns,
            out_channels=rows,
            groups=groups,
            n=n,
            m=m,
            simd=m,
            pe=1,
            in_type=f.x.itype,
            weight_type=IntType.fitting(min(-1, int(weight.min())), int(weight.max())),
            bias_type=IntType.fitting(min(-1, int(bias.min())), int(bias.max())),
            acc_type=acc,
            out_type=out_type,
            shift=out_exponent - exponent,
        )
        constants = {"weight": weight.contiguous(), "bias": bias}
        try:
            params.compressed(weight)
        except ValueError as error:
            raise UnsupportedError(
                f.layer, str(error), "prune the weights to the pattern or change the recipe"
            ) from error
        return self.emit(
            Node(
                _clean(f.layer), "nm_matmul", params, constants, (f.x.name,), exponent=out_exponent
            )
        )

    def pattern(self, layer: str, weight: Tensor) -> tuple[int, int]:
        """The promised N:M, or the sparsest that the zeros obey; (1, 1) is dense."""
        if layer in self.promised:
            n, m = (int(v) for v in self.promised[layer].split(":"))
            return n, m
        best = (1, 1)
        for m in (2, 4, 8, 16):
            if weight.shape[1] % m == 0:
                n = int((weight.reshape(len(weight), -1, m) != 0).sum(-1).max())
                n = max(n, 1)
                if n * best[1] < best[0] * m:
                    best = (n, m)
        return best

    def sum(self, s: Sum, t: IntType, exponent: int) -> Edge:
        low = min(s.a.exponent, s.b.exponent)
        params = ResidualAddParams(
            max_tokens=s.a.tokens,
            channels=s.a.channels,
            simd=1,
            a_type=s.a.itype,
            b_type=s.b.itype,
            out_type=t,
            a_shift=s.a.exponent - low,
            b_shift=s.b.exponent - low,
            shift=exponent - low,
        )
        node = Node(s.name, "residual_add", params, {}, (s.a.name, s.b.name), exponent=exponent)
        return self.emit(node)


def fuse_tables(graph: Graph) -> Graph:
    """The graph with every lookup_table that alone reads an nm_matmul made a part of it.

    The matrix product keeps its name, and gives the table's values and ONNX tensor; the edge
    between the two and the table's name vanish.
    """
    nodes, tensors = list(graph.nodes), dict(graph.meta["tensors"])
    for table in graph.nodes:
        source = next((n for n in nodes if n.name in table.inputs), None)
        if (
            not isinstance(table.params, LookupTableParams)
            or source is None
            or not isinstance(source.params, NmMatmulParams)
            or source.params.entries
            or len(graph.consumers(source.name)) > 1
        ):
            continue
        fused = replace(
            source,
            params=replace(
                source.params,
                mid_type=source.params.out_type,
                out_type=table.params.out_type,
                entries=table.params.entries,
                table_offset=table.params.offset,
                table_shift=table.params.shift,
            ),
            constants={**source.constants, **table.constants},
            exponent=table.exponent,
        )
        tensors[source.name] = tensors.pop(table.name)
        renamed = {table.name: source.name}
        nodes = [
            replace(n, inputs=tuple(renamed.get(e, e) for e in n.inputs))
            for n in (fused if n.name == table.name else n for n in nodes if n is not source)
        ]
    return replace(graph, nodes=nodes, meta={**graph.meta, "tensors": tensors})


def _exponent(node: str, scale: float) -> int:
    if not scale > 0 or not math.isfinite(scale) or 2.0 ** round(math.log2(scale)) != scale:
        raise UnsupportedError(
            node, f"scale {scale} is not a power of two", "use the quantisers of sievit.models"
        )
    return round(math.log2(scale))


def _integers(node: str, c: Constant) -> tuple[Tensor, int]:
    """Weights as integers and the exponent of their step."""
    if c.exponent is None:
        raise UnsupportedError(node, "weights are not quantised", "add a weight quantiser")
    return (c.value * 2.0**-c.exponent).round().long(), c.exponent


def _groups(weight: Tensor) -> int:
    """Most groups of which the matrix ``[out, in]`` is block diagonal."""
    rows, columns = weight.shape
    for g in sorted(divisors(math.gcd(rows, columns)), reverse=True):
        blocks = weight.reshape(g, rows // g, g, columns // g).abs().sum((1, 3))
        if bool((blocks == torch.diag(blocks.diagonal())).all()):
            return g
    return 1


def _scope(name: str) -> str:
    """``/blocks.0/attn/q/MatMul`` -> ``blocks.0.attn.q``."""
    return ".".join(name.strip("/").split("/")[:-1]) or name


def _clean(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _name(name: str) -> str:
    """``/selectors.1/TokenMean`` -> ``selectors_1_token_mean``."""
    return _clean(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name))
