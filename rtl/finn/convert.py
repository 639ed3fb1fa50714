# SPDX-License-Identifier: Apache-2.0
"""QONNX -> FINN graph, in named steps after each of which it can be executed and compared.

``integers``    the cores of the folded Graph become FINN operators on integers. The dense products,
                which FINN's MVAU computes, stay what they were: Quant, MatMul, Add, Quant
``finn_onnx``   FINN's ConvertQONNXtoFINN: weights folded, quantisers are thresholds, made half to
                even at once
``streamline``  FINN's streamlining: scales move into thresholds and out of the network
``to_hw``       FINN's MVAU and Thresholding; streams with several readers get a SievitFork
``partition``   FINN's CreateDataflowPartition, its inside; the scale of the logits stays outside
``specialise``  FINN's SpecializeLayers for the part, the widths that the values need, the folding
``stitchable``  FINN's width converters and FIFOs

What a dense product needs behind the MVAU: thresholds where its result has at most 8 bits (FINN's
own limit), else SievitRequantise with the bias.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finn.transformation.fpgadataflow.convert_to_hw.quantized_matrix_vector_activation import (
    InferQuantizedMatrixVectorActivation,
)
from finn.transformation.fpgadataflow.convert_to_hw.thresholding import InferThresholdingLayer
from finn.transformation.fpgadataflow.create_dataflow_partition import CreateDataflowPartition
from finn.transformation.fpgadataflow.insert_dwc import InsertDWC
from finn.transformation.fpgadataflow.insert_fifo import InsertFIFO
from finn.transformation.fpgadataflow.minimize_accumulator_width import MinimizeAccumulatorWidth
from finn.transformation.fpgadataflow.minimize_weight_bit_width import MinimizeWeightBitWidth
from finn.transformation.fpgadataflow.set_exec_mode import SetExecMode
from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
from finn.transformation.streamline.absorb import (
    AbsorbAddIntoMultiThreshold,
    AbsorbMulIntoMultiThreshold,
    AbsorbScalarBiasIntoMultiThreshold,
    FactorOutMulSignMagnitude,
)
from finn.transformation.streamline.collapse_repeated import (
    CollapseRepeatedAdd,
    CollapseRepeatedMul,
)
from finn.transformation.streamline.reorder import MoveAddPastMul, MoveScalarMulPastMatMul
from finn.transformation.streamline.round_thresholds import RoundAndClipThresholds
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.datatype import DataType
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.general import (
    ConvertDivToMul,
    GiveReadableTensorNames,
    GiveUniqueNodeNames,
)
from qonnx.transformation.infer_data_layouts import InferDataLayouts
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.remove import RemoveIdentityOps
from torch import Tensor

from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.cores.nm_matmul import NmMatmulParams, accumulator_type
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.graph import Graph, Node, UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import CoreParams, divisors
from sievit.rtl.finn.ops import DOMAIN, FINN_NAMES, data_type, frame_after, op_name

#: results of more bits get no thresholds: FINN's own limit
THRESHOLD_BITS = 8
INPUT, OUTPUT = "pixels", "logits"
#: metadata of the ONNX file: by tensor the exponent of the step of its values
STEPS = "sievit.steps"


def is_dense(node: Node) -> bool:
    """A product that FINN's MVAU computes as it is: no zeros that a core would leave out."""
    p = node.params
    return isinstance(p, NmMatmulParams) and p.groups == 1 and p.m == 1


def finn_graph(graph: Graph) -> None:
    """Raises UnsupportedError for what FINN's static shapes rule out."""
    if graph.loops:
        raise UnsupportedError(graph.name, "layers share a core", "fold it without loops")
    for node in graph.nodes:
        if node.core == "token_select":
            frame_after(node.params, False)


# -- integers ------------------------------------------------------------------------------------


def integers(onnx: ModelWrapper, graph: Graph, interval: float) -> ModelWrapper:
    """The folded Graph of an exported network as FINN operators, dense products left as QONNX.

    Input ``pixels``: integers ``[1, T, channels]``; output ``logits``, scaled as in the QONNX file.
    Around FINN's nodes, whose folding FINN has no attributes for yet, what has lanes keeps up with
    ``interval`` cycles per frame.
    """
    finn_graph(graph)
    return _Integers(onnx, graph, interval).run()


class _Integers:
    def __init__(self, onnx: ModelWrapper, graph: Graph, interval: float) -> None:
        self.onnx, self.graph, self.interval = onnx, graph, interval
        self.tensors: dict[str, str] = dict(graph.meta["tensors"])
        source = onnx.find_consumer(onnx.graph.input[0].name)
        self.tensors[Graph.INPUT] = source.output[0]
        self.exponents = {n.name: n.exponent for n in graph.nodes}
        self.exponents[Graph.INPUT] = graph.input_exponent
        self.nodes: list[Any] = []
        self.values: dict[str, np.ndarray] = {}
        self.shapes: dict[str, list[int]] = {}
        #: edge -> tensor with its integers; whether its frames end in a package token
        self.made = {Graph.INPUT: INPUT}
        self.package = {Graph.INPUT: False}
        self.scaled: set[str] = set()
        self.steps: dict[str, int] = {}

    def run(self) -> ModelWrapper:
        tokens, port = self.graph.input_tokens, self.graph.input
        self.shapes[INPUT] = [1, tokens, port.channels]
        for node in self.graph.nodes:
            self.package[node.name] = self.package[node.inputs[0]]
            if is_dense(node):
                self.dense(node)
            else:
                self.core(node)
        out = self.graph.output
        self.scale(self.made[out.name], OUTPUT, self.exponents[out.name])
        count = out.params.output().channels

        def info(name: str, shape: list[int]) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        made = helper.make_graph(
            self.nodes, self.graph.name,
            [info(INPUT, self.shapes[INPUT])], [info(OUTPUT, [1, 1, count])],
            [numpy_helper.from_array(v, k) for k, v in self.values.items()],
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 17)]
        opsets += [helper.make_opsetid(d, 1) for d in (DOMAIN, "qonnx.custom_op.general")]
        model = ModelWrapper(helper.make_model(made, opset_imports=opsets))
        model.set_tensor_datatype(INPUT, data_type(port.itype))
        model.set_metadata_prop(STEPS, json.dumps(self.steps))
        for name in list(self.values):
            for node in model.find_consumers(name) or []:
                if node.domain == DOMAIN:  # exact by construction: they are the cores' constants
                    value = self.values[name]
                    t = IntType.fitting(min(-1, int(value.min())), int(value.max()))
                    model.set_tensor_datatype(name, data_type(t))
        return tidy(model)

    def constant(self, name: str, value: Tensor | float) -> str:
        self.values[name] = np.asarray(value, dtype=np.float32)
        return name

    def scale(self, source: str, target: str, exponent: int) -> None:
        factor = self.constant(f"{target}_scale", 2.0**exponent)
        self.nodes.append(helper.make_node("Mul", [source, factor], [target], f"{target}_mul"))

    def operator(
        self, op: str, name: str, p: CoreParams, inputs: list[str], package: bool,
        constants: dict[str, Tensor], depths: Sequence[int] = (),
    ) -> str:  # fmt: skip
        """Emit a FINN operator; returns the tensor with its integers."""
        extra = [self.constant(f"{name}.{k}", v) for k, v in sorted(constants.items())]
        attributes = {FINN_NAMES.get(k, k): v for k, v in p.to_dict().items()}
        attributes["inFIFODepths"] = [max(2, d) for d in depths or [0] * len(inputs)]
        if op == "SievitFirstToken":
            # the token leaves at once, or what reads it slower holds up those that are dropped
            attributes["outFIFODepths"] = [max(2, p.output().beats)]
        if op != "SievitRequantise":
            attributes["constants"] = sorted(constants) or [""]
        target = f"{name}_int"
        self.nodes.append(
            helper.make_node(
                op,
                [*inputs, *extra],
                [target],
                name,
                domain=DOMAIN,
                backend="fpgadataflow",
                package=int(package),
                origin=name,
                **attributes,
            )
        )
        return target

    def core(self, node: Node) -> None:
        package = self.package[node.inputs[0]]
        self.made[node.name] = self.operator(
            op_name(node.core), node.name, node.params,
            [self.made[e] for e in node.inputs], package, dict(node.constants), node.depths,
        )  # fmt: skip
        self.package[node.name] = frame_after(node.params, package)[1]

    def dense(self, node: Node) -> None:
        """The QONNX nodes of a product; behind them its requantisation, or its table."""
        p, edge = node.params, node.inputs[0]
        assert isinstance(p, NmMatmulParams)
        source = self.tensors[edge]
        if edge not in self.scaled:
            self.scale(self.made[edge], source, self.exponents[edge])
            self.scaled.add(edge)
        target = self.tensors[node.name]
        if p.entries:
            target = self.onnx.find_producer(target).input[0]
        mid = p.mid_type if p.entries else p.out_type
        quant = self.onnx.find_producer(target)
        accumulators = self.exponents[node.name] - p.shift
        if p.entries:
            accumulators = _exponent(self.onnx, quant) - p.shift
        if mid.bits > THRESHOLD_BITS or quant.op_type != "Quant":
            product = next(n for n in self.fragment(source, target) if n.op_type == "MatMul")
            self.take(source, product.output[0])
            integer = f"{node.name}_sums"
            self.scale(product.output[0], integer, -accumulators)
            self.made[node.name] = self.requantise(node, p, integer, mid)
        else:
            self.take(source, target)
            self.steps[quant.input[0]] = accumulators
            self.made[node.name] = f"{node.name}_codes"
            self.scale(target, self.made[node.name], -_exponent(self.onnx, quant))
        if p.entries:
            table = LookupTableParams(
                max_tokens=p.max_tokens, channels=p.out_channels,
                simd=self.lanes(p.out_channels, p.max_tokens), in_type=mid, out_type=p.out_type,
                offset=p.table_offset, shift=p.table_shift, entries=p.entries,
            )  # fmt: skip
            self.made[node.name] = self.operator(
                "SievitLookupTable", f"{node.name}_table", table, [self.made[node.name]],
                self.package[edge], {"table": node.constants["table"]},
            )  # fmt: skip

    def requantise(self, node: Node, p: NmMatmulParams, sums: str, out: IntType) -> str:
        weight, bias = node.constants["weight"], node.constants["bias"]
        add = ResidualAddParams(
            max_tokens=p.max_tokens, channels=p.out_channels,
            simd=self.lanes(p.out_channels, p.max_tokens),
            a_type=accumulator_type(weight, torch.zeros_like(bias), p.in_type),
            b_type=p.bias_type, out_type=out, a_shift=max(0, -p.shift), b_shift=max(0, -p.shift),
            shift=max(0, p.shift), half_up=p.half_up,
        )  # fmt: skip
        return self.operator(
            "SievitRequantise", f"{node.name}_requantise", add, [sums],
            self.package[node.inputs[0]], {"bias": bias},
        )  # fmt: skip

    def lanes(self, channels: int, tokens: int) -> int:
        """Fewest lanes that keep up with the interval."""
        return next(
            (d for d in divisors(channels) if tokens * channels / d <= self.interval), channels
        )

    def fragment(self, source: str, target: str) -> list[Any]:
        """QONNX nodes between two tensors, in order."""
        found, todo = [], [target]
        while todo:
            node = self.onnx.find_producer(todo.pop())
            if node is not None and node not in found:
                found.append(node)
                todo += [i for i in node.input if i != source]
        return [n for n in self.onnx.graph.node if n in found]

    def take(self, source: str, target: str) -> None:
        for node in self.fragment(source, target):
            self.nodes.append(node)
            for name in node.input:
                value = self.onnx.get_initializer(name)
                if value is not None:
                    self.values[name] = np.asarray(value)


def _exponent(model: ModelWrapper, quant: Any) -> int:
    return round(math.log2(float(model.get_initializer(quant.input[1]))))


# -- FINN's own transformations ------------------------------------------------------------------


def tidy(model: ModelWrapper) -> ModelWrapper:
    """Shapes, types and layouts. Tensors of three axes are tokens: channels last."""
    for step in (InferShapes(), InferDataTypes(), InferDataLayouts()):
        model = model.transform(step)
    return model


def finn_onnx(model: ModelWrapper) -> ModelWrapper:
    """FINN's dialect, rounding half to even. Raises UnsupportedError for another rounding."""
    scales = {}
    for node in model.get_nodes_by_op_type("Quant"):
        if model.get_initializer(node.input[0]) is None:
            if getCustomOp(node).get_nodeattr("rounding_mode") != "ROUND":
                raise UnsupportedError(node.name, "is not rounded half to even", "use ROUND")
            scales[node.input[0]] = float(model.get_initializer(node.input[1]))
    steps = json.loads(model.get_metadata_prop(STEPS) or "{}")
    model = model.transform(ConvertQONNXtoFINN())
    for node in model.get_nodes_by_op_type("MultiThreshold"):
        getCustomOp(node).set_nodeattr("data_layout", "NWC")
        half_even(model, node, scales[node.input[0]], 2.0 ** steps[node.input[0]])
    for node in model.get_nodes_by_op_type("Add"):  # FINN asks the bias which of its axes is which
        for name in node.input:
            value = model.get_initializer(name)
            if value is not None and value.ndim == 1:
                model.set_tensor_layout(name, ["C"])
    return tidy(model)


def half_even(model: ModelWrapper, node: Any, scale: float, step: float) -> None:
    """Make the thresholds of a quantiser round half to even, as QONNX's ROUND does.

    ConvertQONNXtoFINN places them at ``(n - 1/2) * scale``, and a MultiThreshold counts those that
    are not above the value: half up. What is quantised are multiples of ``step``, so only a tie
    lies between the threshold of an odd level ``n`` and half a step above it: there it belongs.
    (A smallest float above it would vanish when the bias is subtracted.)
    """
    thresholds = model.get_initializer(node.input[1])
    level = thresholds / scale + 0.5
    whole = np.rint(level)
    if not (level == whole).all():
        raise UnsupportedError(node.name, "has thresholds between the ties", "use one scale")
    if scale > step:  # else there are no ties
        thresholds = np.where(whole.astype(np.int64) % 2 != 0, thresholds + step / 2, thresholds)
        model.set_initializer(node.input[1], thresholds.astype(np.float32))


#: what FINN's Streamline does with scales and biases around MatMul and MultiThreshold; the rest of
#: it is for convolutions and pools, and infers all types and names after each of 22 steps
STREAMLINE = (
    ConvertDivToMul,
    AbsorbScalarBiasIntoMultiThreshold,
    MoveAddPastMul,
    MoveScalarMulPastMatMul,
    MoveAddPastMul,
    CollapseRepeatedAdd,
    CollapseRepeatedMul,
    AbsorbAddIntoMultiThreshold,
    FactorOutMulSignMagnitude,
    AbsorbMulIntoMultiThreshold,
    RemoveIdentityOps,
)


def streamline(model: ModelWrapper) -> ModelWrapper:
    """Scales and biases moved into the thresholds, or to the end of the network."""
    model = ModelWrapper(model.model, make_deepcopy=True)
    for _ in range(2):
        for step in STREAMLINE:
            model = model.transform(step(), make_deepcopy=False)
    return tidy(model.transform(GiveUniqueNodeNames()))


def to_hw(model: ModelWrapper, interval: float) -> ModelWrapper:
    """FINN's hardware operators, folded to keep up with ``interval`` cycles per frame."""
    model = model.transform(RoundAndClipThresholds())
    model = model.transform(InferThresholdingLayer())
    model = model.transform(InferQuantizedMatrixVectorActivation())
    model = fork(tidy(model))
    for node in model.graph.node:
        fold_native(node, interval)
    return tidy(model.transform(GiveUniqueNodeNames()))


def fork(model: ModelWrapper) -> ModelWrapper:
    """A SievitFork behind every tensor that several nodes read."""
    made = {t: node for node in model.graph.node for t in node.output}
    for tensor in [model.graph.input[0].name, *made]:
        readers = [(n, i) for n in model.graph.node for i, t in enumerate(n.input) if t == tensor]
        if len(readers) < 2 or not all(n.domain.startswith(DOMAIN) for n, _ in readers):
            continue
        node, at = made.get(tensor), 0
        if node is not None:
            folded = getCustomOp(node).get_folded_output_shape(list(node.output).index(tensor))
            at = list(model.graph.node).index(node) + 1
        else:
            folded = getCustomOp(readers[0][0]).get_folded_input_shape(readers[0][1])
        shape, datatype = model.get_tensor_shape(tensor), model.get_tensor_datatype(tensor)
        copies = [f"{tensor}_copy{i}" for i in range(len(readers))]
        for (reader, i), copy in zip(readers, copies, strict=True):
            model.set_tensor_shape(copy, shape)
            model.set_tensor_datatype(copy, datatype)
            reader.input[i] = copy
        new = helper.make_node(
            "SievitFork", [tensor], copies, f"{tensor}_fork", domain=DOMAIN,
            backend="fpgadataflow", copies=len(readers), tokens=shape[1], channels=shape[2],
            PE=int(folded[-1]), data_type=datatype.name.lower(), outFIFODepths=[2] * len(readers),
        )  # fmt: skip
        model.graph.node.insert(at, new)
    return model


def fold_native(node: Any, interval: float) -> None:
    """Set PE and SIMD of one of FINN's own nodes: the fewest that keep up with the interval."""
    if not node.domain.startswith(DOMAIN):
        return
    op = getCustomOp(node)
    if node.op_type.startswith("MVAU"):
        inputs, outputs = op.get_nodeattr("MW"), op.get_nodeattr("MH")
        tokens = math.prod(op.get_nodeattr("numInputVectors"))
        pairs = [(p, s) for p in divisors(outputs) for s in divisors(inputs)]
        pairs.sort(key=lambda f: (f[0] * f[1], f[0]))
        work = tokens * inputs * outputs
        pe, simd = next((f for f in pairs if work / (f[0] * f[1]) <= interval), pairs[-1])
        op.set_nodeattr("PE", pe)
        op.set_nodeattr("SIMD", simd)
        # a vector that waits here is read at once; without, its first fold is as slow as it comes
        depth = max(2, inputs // simd) if pe < outputs else 2
        op.set_nodeattr("inFIFODepths", [depth])
    elif node.op_type.startswith("Thresholding"):
        channels = op.get_nodeattr("NumChannels")
        tokens = math.prod(op.get_nodeattr("numInputVectors"))
        lanes = (d for d in divisors(channels) if tokens * channels / d <= interval)
        op.set_nodeattr("PE", next(lanes, channels))


def partition(model: ModelWrapper, folder: Path) -> tuple[ModelWrapper, ModelWrapper]:
    """(the model whose middle is one node, that node's inside)."""
    parent = model.transform(CreateDataflowPartition(str(folder)))
    (node,) = parent.get_nodes_by_op_type("StreamingDataflowPartition")
    child = ModelWrapper(getCustomOp(node).get_nodeattr("model"))
    return parent, child


def specialise(model: ModelWrapper, part: str) -> ModelWrapper:
    """RTL variants for the part, in the widths that their values need.

    Raises UnsupportedError for a node that would become HLS or compute in floating point.
    """
    for node in model.graph.node:
        if node.op_type == "MVAU":
            getCustomOp(node).set_nodeattr("preferred_impl_style", "rtl")
    model = widths(model, part)
    model = model.transform(SpecializeLayers(part))
    model = widths(model, part)
    check_rtl(model)
    return model.transform(SetExecMode("cppsim"))


def widths(model: ModelWrapper, part: str) -> ModelWrapper:
    """FINN's smallest weights, accumulators and thresholds."""
    for step in (MinimizeWeightBitWidth(), MinimizeAccumulatorWidth(), InferDataTypes(),
                 RoundAndClipThresholds(), InferDataTypes(), MinimizeWeightBitWidth(),
                 InferDataTypes()):  # fmt: skip
        model = model.transform(step)
    for node in model.graph.node:
        if node.op_type.startswith("MVAU"):
            # DSP48E1 wants the most negative code unused; one more bit has it
            op, weights = getCustomOp(node), model.get_initializer(node.input[1])
            t = op.get_input_datatype(1)
            least = IntType.fitting(int(-np.abs(weights).max()), int(np.abs(weights).max()))
            bits = max(least.bits, 4, t.bitwidth())
            op.set_nodeattr("weightDataType", f"INT{bits}")
            model.set_tensor_datatype(node.input[1], DataType[f"INT{bits}"])
    return model


def check_rtl(model: ModelWrapper) -> None:
    """Raise UnsupportedError for a node that is not RTL, or not of integers."""
    for node in model.graph.node:
        op = getCustomOp(node)
        if not node.domain.endswith(".rtl"):
            why = f"{node.op_type} has no RTL here"
            raise UnsupportedError(node.name, why, "see docs/finn_backend.md")
        streams = [i for i in range(len(node.input)) if op.get_instream_width(i)]
        types = [op.get_input_datatype(i) for i in streams]
        types += [op.get_output_datatype(i) for i in range(len(node.output))]
        if not all(t.is_integer() for t in types):
            raise UnsupportedError(node.name, "computes in floating point", "quantise its input")


def stitchable(model: ModelWrapper, part: str) -> ModelWrapper:
    """FINN's width converters and FIFOs, whose depths the nodes' inFIFODepths and outFIFODepths
    say."""
    model = split_widths(model.transform(InsertDWC()))
    model = model.transform(InsertFIFO(create_shallow_fifos=False))
    model = model.transform(SpecializeLayers(part))
    model = model.transform(GiveUniqueNodeNames())
    model = model.transform(GiveReadableTensorNames())
    check_rtl(model)
    return model.transform(SetExecMode("cppsim"))


def split_widths(model: ModelWrapper) -> ModelWrapper:
    """Two width converters for one between widths of which neither divides the other: by way of
    their least common multiple. FINN's RTL of one alone (vpc) takes 12 cycles and more from 8 beats
    to 6, that of the two the 8 that the narrower side needs."""
    model = ModelWrapper(model.model, make_deepcopy=True)
    for node in model.get_nodes_by_op_type("StreamingDataWidthConverter"):
        op = getCustomOp(node)
        narrow, wide = sorted((op.get_nodeattr("inWidth"), op.get_nodeattr("outWidth")))
        if wide % narrow == 0:
            continue
        source, target = node.input[0], node.output[0]
        middle = model.make_new_valueinfo_name()
        model.set_tensor_shape(middle, model.get_tensor_shape(source))
        model.set_tensor_datatype(middle, op.get_input_datatype())
        second = helper.make_node(node.op_type, [middle], [target], domain=node.domain)
        second.attribute.extend(node.attribute)
        node.output[0] = middle
        op.set_nodeattr("outWidth", math.lcm(narrow, wide))
        getCustomOp(second).set_nodeattr("inWidth", math.lcm(narrow, wide))
        model.graph.node.insert(list(model.graph.node).index(node) + 1, second)
    return model


# -- execution -----------------------------------------------------------------------------------

#: attributes of FINN's nodes whose first number counts frames
BATCHED = ("numInputVectors", "inShape", "outShape", "normal_shape", "folded_shape")


def batched(model: ModelWrapper, count: int) -> ModelWrapper:
    """The model for ``count`` frames at once."""
    model = ModelWrapper(model.model, make_deepcopy=True)
    for node in model.graph.node:
        if not node.domain.startswith(DOMAIN):
            continue
        op = getCustomOp(node)
        known = op.get_nodeattr_types()
        if "batch" in known:
            op.set_nodeattr("batch", count)
        for name in BATCHED:
            if name in known:
                op.set_nodeattr(name, [count, *list(op.get_nodeattr(name))[1:]])
    keep = {INPUT, OUTPUT, *(i.name for i in model.graph.initializer)}
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        if value.name not in keep or value in (*model.graph.input, *model.graph.output):
            shape = value.type.tensor_type.shape
            if len(shape.dim) == 3:
                shape.dim[0].dim_value = count
    return model


def execute(model: ModelWrapper, pixels: Tensor) -> Tensor:
    """Output float32 ``[N, channels]`` of FINN's Python execution; ``pixels``: integers
    ``[N, T, channels]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = batched(model, len(pixels))
        name = made.graph.input[0].name
        out = execute_onnx(made, {name: pixels.numpy().astype(np.float32)})
    return torch.from_numpy(out[made.graph.output[0].name]).flatten(1)
