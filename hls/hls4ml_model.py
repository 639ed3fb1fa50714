# SPDX-License-Identifier: Apache-2.0
"""Graph -> QONNX whose every node hls4ml can make a layer of, given ``hls4ml_plugin``.

Dense matrices on frames of a fixed length become Linear and Quant, for which hls4ml has layers; all
other nodes stay cores, with frames between them (``hls4ml_ops``). qonnx executes the result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper

from sievit.hls import hls4ml_ops
from sievit.hls.codegen import identifier
from sievit.quant import custom_op
from sievit.quant.custom_op import CoreCall
from sievit.quant.graph import Graph, Node, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import camel

#: name of the input tensor, float ``[B, T, C]``
INPUT = "patches"

QONNX_DOMAIN = "qonnx.custom_op.general"

#: node metadata: beats that the FIFO behind the node's output holds
DEPTH = "sievit.depth"


def fixed_lengths(graph: Graph) -> set[str]:
    """Edges on which every frame has ``most_tokens`` tokens."""
    out = {Graph.INPUT}
    for node in graph.nodes:
        if all(e in out for e in node.inputs) and node.core != "token_select":
            out.add(node.name)
        elif node.core == "first_token":
            out.add(node.name)
    return out


def most_tokens(graph: Graph) -> dict[str, int]:
    """Most tokens of a frame on every edge, given that every image has ``graph.input_tokens``; what
    the cores could take may be more."""
    out = {Graph.INPUT: graph.input_tokens}
    for node in graph.nodes:
        out[node.name] = node.params.out_tokens(out[node.inputs[0]])
    return out


def is_dense(graph: Graph, node: Node, fixed: set[str]) -> bool:
    """hls4ml has a layer that computes the same: a full matrix, rounded half to even or not at
    all."""
    if node.core != "nm_matmul" or not set(node.inputs) <= fixed:
        return False
    p: Any = node.params
    whole = p.m == 1 and p.groups == 1 and p.sets == 1 and not p.entries
    return whole and (p.shift <= 0 or not p.half_up)


def with_frames(graph: Graph) -> Graph:
    """The graph with a FIFO of a whole frame in front of every input of a core that has several.

    With them no order in which its inputs arrive can block an unfolded graph: whatever waits for
    the whole frame of one branch finds the other branch's in its FIFO.
    """

    tokens = most_tokens(graph)

    def deep(node: Node) -> Node:
        frames = [
            tokens[e] * p.beats + 2 for e, p in zip(node.inputs, node.params.inputs(), strict=True)
        ]
        return replace(node, depths=tuple(frames)) if len(frames) > 1 else node

    return replace(graph, nodes=[deep(node) for node in graph.nodes])


def to_qonnx(graph: Graph, batch: int = 1, native: bool = True) -> ModelWrapper:
    """QONNX of a graph for ``batch`` images.

    Args:
        native: dense matrices become hls4ml's own layers; otherwise all stay cores.

    Raises UnsupportedError for a graph whose layers share cores (``Graph.loops``).
    """
    if graph.loops:
        raise UnsupportedError(
            graph.loops[0].name, "layers that share cores", "hls4ml takes the graph before roll()"
        )
    return _Writer(graph, batch, native).run()


class _Writer:
    def __init__(self, graph: Graph, batch: int, native: bool) -> None:
        self.graph, self.batch = graph, batch
        self.fixed, self.tokens = fixed_lengths(graph), most_tokens(graph)
        self.dense = {n.name for n in graph.nodes if native and is_dense(graph, n, self.fixed)}
        self.nodes: list[Any] = []
        self.values: list[Any] = []
        self.constants: list[Any] = []
        #: edge -> its tensor as a stream of hls4ml
        self.arrays: dict[str, str] = {}
        #: edge -> its tensors as frames, one for every core that reads it
        self.frames: dict[str, list[str]] = {}
        #: edge -> tensor of its frame state
        self.states: dict[str, str] = {}

    def run(self) -> ModelWrapper:
        graph, port = self.graph, self.graph.input
        shape = [self.batch, graph.input_tokens, port.channels]
        source = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)
        tensor = self.quant("input_quant", INPUT, port.itype, graph.input_exponent, shape)
        self.made(Graph.INPUT, tensor, False)
        for node in graph.nodes:
            if node.name in self.dense:
                self.matrix(node)
            else:
                self.core(node)
        out = graph.output
        name = self.arrays[out.name]
        shape = self.shape(out.name)
        self.values = [v for v in self.values if v.name != name]
        sink = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        made = helper.make_graph(
            self.nodes, identifier(graph.name), [source], [sink], self.constants,
            value_info=self.values,
        )  # fmt: skip
        domains = [("", 17), (QONNX_DOMAIN, 2), (custom_op.DOMAIN, 1), (hls4ml_ops.DOMAIN, 1)]
        opsets = [helper.make_opsetid(d, v) for d, v in domains]
        return ModelWrapper(helper.make_model(made, opset_imports=opsets, ir_version=10))

    # -- tensors ---------------------------------------------------------------------------------
    def shape(self, edge: str) -> list[int]:
        return [self.batch, self.tokens[edge], self.graph.port_of(edge).channels]

    def value(self, name: str, shape: list[int]) -> str:
        self.values.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, name: str, value: Any) -> str:
        array = np.asarray(value, dtype=np.float32)
        if bool((array != np.asarray(value, dtype=np.float64)).any()):
            raise UnsupportedError(name, "a constant does not fit float32", "use fewer bits")
        self.constants.append(numpy_helper.from_array(array, name))
        return self.value(name, list(array.shape))

    def node(
        self, op: str, inputs: list[str], outputs: list[str], name: str, domain: str = "",
        depth: int = 0, **attributes: Any,
    ) -> None:  # fmt: skip
        made = helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes)
        if depth:
            made.metadata_props.add(key=DEPTH, value=str(depth))
        self.nodes.append(made)

    def quant(self, name: str, x: str, t: IntType, exponent: int, shape: list[int]) -> str:
        scalars = {"scale": 2.0**exponent, "zero": 0.0, "bits": t.bits}
        inputs = [x, *(self.constant(f"{name}_{k}", v) for k, v in scalars.items())]
        out = self.value(f"{name}_out", shape)
        self.node(
            "Quant", inputs, [out], name, QONNX_DOMAIN,
            signed=int(t.signed), narrow=0, rounding_mode="ROUND",
        )  # fmt: skip
        return out

    def made(self, edge: str, tensor: str, frames: bool) -> None:
        """An edge is there; hand it to everything that reads it."""
        graph, port, name = self.graph, self.graph.port_of(edge), identifier(edge)
        sinks = [
            (f"{name}_to_{identifier(n.name)}_{i}", n.params.inputs()[i].lanes, depth(n, i))
            for n, i in graph.consumers(edge)
            if n.name not in self.dense
        ]
        outside = len(sinks) < len(graph.consumers(edge)) or edge == graph.output.name
        kind: dict[str, Any] = {"type": str(port.itype)}
        scaled: dict[str, Any] = {**kind, "exponent": self.exponent(edge)}
        if not frames:
            self.arrays[edge] = tensor
            if sinks:
                entered = self.value(f"{name}_frames", self.shape(edge))
                most = sinks[0][2] if len(sinks) == 1 and sinks[0][1] == port.lanes else 0
                self.node(
                    "EnterFrames", [tensor], [entered], f"{name}_enter", hls4ml_ops.DOMAIN, most,
                    lanes=port.lanes, **scaled,
                )  # fmt: skip
                tensor = entered
            outside = False
        readers = [*sinks, *([(f"{name}_to_leave", port.lanes, 0)] if outside else [])]
        ends = [tensor]
        if len(readers) > 1:
            ends = [self.value(r[0], self.shape(edge)) for r in readers]
            most = max([r[2] for r in readers if r[1] == port.lanes], default=0)
            self.node(
                "ForkFrames", [tensor], ends, f"{name}_fork", hls4ml_ops.DOMAIN, most,
                lanes=port.lanes, **kind,
            )  # fmt: skip
        if outside:
            left = self.arrays[edge] = self.value(f"{name}_left", self.shape(edge))
            self.node(
                "LeaveFrames", [ends.pop()], [left], f"{name}_leave", hls4ml_ops.DOMAIN,
                lanes=port.lanes, **scaled,
            )  # fmt: skip
        self.frames[edge] = []
        for (to, lanes, most), end in zip(sinks, ends, strict=False):
            if lanes != port.lanes:
                resized = self.value(f"{to}_resized", self.shape(edge))
                self.node(
                    "ResizeFrames", [end], [resized], f"{to}_resize", hls4ml_ops.DOMAIN, most,
                    lanes=port.lanes, out_lanes=lanes, **kind,
                )  # fmt: skip
                end = resized
            self.frames[edge].append(end)

    def exponent(self, edge: str) -> int:
        return self.graph.input_exponent if edge == Graph.INPUT else self.graph.node(edge).exponent

    # -- nodes -----------------------------------------------------------------------------------
    def matrix(self, node: Node) -> None:
        """Quant of a Linear; the accumulator itself leaves without a Quant."""
        p: Any = node.params
        name, edge = identifier(node.name), node.inputs[0]
        exponent = node.exponent - p.shift
        e = exponent - self.exponent(edge)
        weight, bias = (node.constants[k].double().numpy() for k in ("weight", "bias"))
        tensors = [
            self.constant(f"{name}_weight", weight.T * 2.0**e),
            self.constant(f"{name}_bias", bias * 2.0**exponent),
        ]
        shape = self.shape(node.name)
        total = self.value(f"{name}_sum", shape)
        self.node(
            "Linear", [self.arrays[edge], *tensors], [total], name, hls4ml_ops.DOMAIN,
            weight_type=str(p.weight_type), weight_exponent=e,
            bias_type=str(p.bias_type), bias_exponent=exponent,
        )  # fmt: skip
        if p.shift or p.out_type != p.acc_type:
            total = self.quant(f"{name}_quant", total, p.out_type, node.exponent, shape)
        self.made(node.name, total, False)

    def core(self, node: Node) -> None:
        name = identifier(node.name)
        call = CoreCall(
            node.core,
            node.params,
            node.constants,
            tuple(self.exponent(e) for e in node.inputs),
            node.exponent,
            frames=node.inputs[0] in self.states,
            makes_frames=True,
        )
        streams = [self.frames[e].pop(0) for e in node.inputs]
        state = [self.states[node.inputs[0]]] if call.frames else []
        constants = [self.constant(f"{name}_{k}", v) for k, v in sorted(node.constants.items())]
        out = self.value(f"{name}_out", self.shape(node.name))
        self.states[node.name] = self.value(f"{name}_state", [self.batch, 2])
        readers = self.graph.consumers(node.name)
        alone = len(readers) == 1 and self.lanes(*readers[0]) == node.params.output().lanes
        attributes = call.attributes()
        if not attributes["constants"]:
            del attributes["constants"]  # ONNX has no empty list of strings
        self.node(
            camel(node.core), [*streams, *state, *constants], [out, self.states[node.name]], name,
            custom_op.DOMAIN, depth(*readers[0]) if alone else 0, **attributes,
        )  # fmt: skip
        self.made(node.name, out, True)

    @staticmethod
    def lanes(node: Node, i: int) -> int:
        return node.params.inputs()[i].lanes


def depth(node: Node, i: int) -> int:
    """Beats of the FIFO in front of an input."""
    return node.depths[i] if i < len(node.depths) else 0
