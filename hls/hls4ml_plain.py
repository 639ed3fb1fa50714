# SPDX-License-Identifier: Apache-2.0
"""Parts of a plain Vision Transformer that hls4ml's ONNX front end lacks, as operators it can have.

The model is anybody's: Brevitas layers beside float layer norms, softmax and activation functions,
exported as QONNX. What is float there stands between quantisers, and so is a function of integers:

* LayerNormalization -> Quant becomes ``FloatLayernorm``;
* the layout, products, scale and softmax of attention become ``SoftmaxAttention``;
* a function of single values between two Quants becomes a table of all codes (``LookupTable``),
  computed with the model's own operators;
* the class token is taken out by ``FirstToken``;
* MatMul and Add of tokens become ``Linear``.

The first two are computed in integers so precise that they give what the model gives, unless
float32 itself, which rounds some 10^-5 of a step, meets the middle between two steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.general.quant import quant as quantise
from qonnx.transformation.gemm_to_matmul import GemmToMatMul
from qonnx.transformation.general import GiveUniqueNodeNames
from qonnx.transformation.infer_shapes import InferShapes

from sievit.hls import hls4ml_ops
from sievit.hls.codegen import identifier
from sievit.quant import custom_op
from sievit.quant.cores.first_token import FirstTokenParams
from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.custom_op import CoreCall, read_attributes
from sievit.quant.graph import UnsupportedError
from sievit.quant.itype import IntType
from sievit.quant.params import camel

#: operators that move values and change none
LAYOUT = {
    "Reshape", "Transpose", "Gather", "Slice", "Split", "Squeeze", "Unsqueeze", "Flatten",
    "Identity",
}  # fmt: skip

#: functions of single values that hls4ml has no exact layer for, and what they are made of
CURVES = {
    "Erf", "Gelu", "Tanh", "Sigmoid", "Exp", "Log", "Sqrt", "Pow", "Softplus", "HardSigmoid",
    "HardSwish", "Elu", "Selu", "LeakyRelu",
}  # fmt: skip
ELEMENTWISE = CURVES | {
    "Add", "Sub", "Mul", "Div", "Relu", "Neg", "Abs", "Clip", "Min", "Max", "Cast",
}  # fmt: skip

#: fraction bits of a constant that stands for a float
FRAC = 40

#: more would not be a quantised weight, but a float one that happens to be finite
WEIGHT_BITS = 20


@dataclass(frozen=True)
class Grid:
    """Type and scale of a quantised activation."""

    itype: IntType
    exponent: int


@dataclass(frozen=True)
class Operand:
    """An activation as one factor of attention sees it."""

    tensor: str
    grid: Grid
    #: int64 ``[heads, head_dim]``: channel of the tensor's tokens
    channels: Any
    #: constant factor on the way
    factor: float


def rewrite(model: Any, known: set[str]) -> Any:
    """A copy of a QONNX model in which the operators above stand; the model itself if no node of it
    needs one.

    Args:
        known: ONNX operators that hls4ml has a handler for.

    Raises UnsupportedError, which names the node and the remedy, for what cannot be replaced.
    """
    constants = {i.name for i in model.graph.initializer}
    makers = {o: n for n in model.graph.node for o in n.output}

    def is_constant(name: str) -> bool:
        if name in constants or not name:
            return True
        return name in makers and all(is_constant(i) for i in makers[name].input)

    def needs(node: Any) -> bool:
        if node.op_type == "MatMul":
            return not is_constant(node.input[1])
        return node.op_type not in known and node.op_type not in ("Gemm", "Identity", "Dropout")

    if not any(needs(node) for node in model.graph.node):
        return model
    return _Rewriter(ModelWrapper(getattr(model, "model", model), make_deepcopy=True)).run()


class _Rewriter:
    def __init__(self, wrapper: ModelWrapper) -> None:
        for step in (GemmToMatMul(), InferShapes(), GiveUniqueNodeNames()):
            wrapper = wrapper.transform(step)
        self.wrapper = wrapper
        self.opset = next(
            o.version for o in wrapper.model.opset_import if o.domain in ("", "ai.onnx")
        )
        self.grids: dict[str, Grid] = {}
        self.index()

    def index(self) -> None:
        graph = self.wrapper.graph
        self.maker = {o: n for n in graph.node for o in n.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def run(self) -> ModelWrapper:
        steps = {
            "Softmax": self.attention,
            "LayerNormalization": self.layernorm,
            "MatMul": self.linear,
        }
        for op, step in steps.items():
            for node in [n for n in self.wrapper.graph.node if n.op_type == op]:
                step(node)
            self.sweep()
        for node in [n for n in self.wrapper.graph.node if n.op_type in LAYOUT]:
            self.token(node)
        for node in [n for n in self.wrapper.graph.node if n.op_type == "Quant"]:
            self.curve(node)
        self.sweep()
        domains = {o.domain for o in self.wrapper.model.opset_import}
        for domain in sorted({custom_op.DOMAIN, hls4ml_ops.DOMAIN} - domains):
            self.wrapper.model.opset_import.append(helper.make_opsetid(domain, 1))
        return self.wrapper

    # -- the graph -------------------------------------------------------------------------------
    def const(self, name: str) -> Any:
        """Value of a constant tensor, through a weight quantiser; None for an activation."""
        value = self.wrapper.get_initializer(name)
        if value is not None:
            return value
        node = self.maker.get(name)
        if node is None or any(self.const(i) is None for i in node.input if i):
            return None
        inputs = {i: self.const(i) for i in node.input if i}
        if node.op_type == "Quant":
            return self.quantised(node, inputs[node.input[0]])
        return self.evaluate([node], inputs, name)

    def evaluate(self, nodes: list[Any], inputs: dict[str, Any], output: str) -> Any:
        """``output`` of some nodes of the standard domain, by onnxruntime."""
        made = {o for n in nodes for o in n.output}
        for name in {i for n in nodes for i in n.input if i} - made - set(inputs):
            inputs[name] = self.const(name)
        sources = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in inputs.items()
        ]
        sink = helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "part", sources, [sink])
        opset = [helper.make_opsetid("", self.opset)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        return session.run([output], inputs)[0]

    def quantised(self, node: Any, value: Any) -> Any:
        a = read_attributes(node)
        scale, zero, bits = (self.const(i) for i in node.input[1:4])
        return quantise(
            value, scale, zero, bits, signed=a["signed"], narrow=a["narrow"],
            rounding_mode=a.get("rounding_mode", "ROUND"),
        )  # fmt: skip

    def shape(self, name: str) -> list[int]:
        return list(self.wrapper.get_tensor_shape(name))

    def stands(self, node: Any) -> bool:
        """It has not been replaced."""
        return self.maker.get(node.output[0]) is node

    def only_reader(self, node: Any, tensor: str) -> Any:
        readers = self.readers.get(tensor, [])
        return readers[0] if len(readers) == 1 else None

    def grid_of(self, node: Any, quant: Any) -> Grid:
        """What an activation's Quant node makes. Raises UnsupportedError for what the integers here
        do not cover."""
        a = read_attributes(quant)
        scale, zero, bits = (np.asarray(self.const(i), dtype=np.float64) for i in quant.input[1:4])
        exact = scale.size == 1 and scale.min() > 0 and math.frexp(float(scale.max()))[0] == 0.5
        if not exact or np.any(zero):
            raise UnsupportedError(
                quant.name,
                f"scale {scale.flatten()[:3]}, zero point {zero.flatten()[:3]} next to {node.name}",
                "use one power-of-two scale and zero point 0 (Brevitas: ...PerTensorFixedPoint)",
            )
        if a.get("rounding_mode", "ROUND") != "ROUND" or a["narrow"]:
            raise UnsupportedError(
                quant.name, f"rounding or narrow range next to {node.name}", "use ROUND, narrow = 0"
            )
        t = IntType(int(bits.flatten()[0]), bool(a["signed"]))
        return Grid(t, math.frexp(float(scale.flatten()[0]))[1] - 1)

    def source_grid(self, node: Any, tensor: str) -> Grid:
        """Of a tensor that a node reads."""
        if tensor in self.grids:
            return self.grids[tensor]
        maker = self.maker.get(tensor)
        if maker is None or maker.op_type != "Quant":
            raise UnsupportedError(
                node.name,
                f"reads {tensor!r}, which is not quantised",
                "put a QuantIdentity in front",
            )
        return self.grid_of(node, maker)

    def result_quants(self, node: Any) -> list[Any]:
        """The Quant nodes that read a node's result; nothing else may."""
        readers = self.readers.get(node.output[0], [])
        if not readers or any(r.op_type != "Quant" for r in readers):
            raise UnsupportedError(
                node.name, "its result is not quantised", "put a QuantIdentity behind it"
            )
        return readers

    def add(
        self, op: str, inputs: list[str], output: str, name: str, domain: str,
        grid: Grid | None = None, **attributes: Any,
    ) -> None:  # fmt: skip
        """A node in place of whatever made ``output``."""
        old = self.maker.get(output)
        at = len(self.wrapper.graph.node)
        if old is not None:
            at = list(self.wrapper.graph.node).index(old)
            old.output[list(old.output).index(output)] = ""
            if not any(old.output):
                self.wrapper.graph.node.remove(old)
        made = helper.make_node(op, inputs, [output], name=name, domain=domain, **attributes)
        self.wrapper.graph.node.insert(at, made)
        if grid:
            self.grids[output] = grid
        self.index()

    def tensor(self, name: str, shape: list[int]) -> str:
        self.wrapper.set_tensor_shape(name, shape)
        return name

    def integers(self, name: str, value: Any) -> str:
        array = np.ascontiguousarray(value, dtype=np.int64)
        self.wrapper.graph.initializer.append(numpy_helper.from_array(array, name))
        info = helper.make_tensor_value_info(name, TensorProto.INT64, array.shape)
        self.wrapper.graph.value_info.append(info)
        return name

    def sweep(self) -> None:
        """Remove what nothing reads, and put the rest in order."""
        graph = self.wrapper.graph
        outputs = {o.name for o in graph.output}
        while True:
            read = outputs | {i for n in graph.node for i in n.input}
            dead = [n for n in graph.node if not read & {o for o in n.output if o}]
            if not dead:
                break
            for node in dead:
                graph.node.remove(node)
        for kind in (graph.initializer, graph.value_info):
            for item in [v for v in kind if v.name not in read]:
                kind.remove(item)
        made = {i.name for i in (*graph.input, *graph.initializer)} | {""}
        todo, order = list(graph.node), []
        while todo:
            ready = [n for n in todo if all(i in made for i in n.input)]
            for node in ready:
                made |= set(node.output)
                todo.remove(node)
            order += ready
        del graph.node[:]
        graph.node.extend(order)
        self.index()

    # -- layer norm ------------------------------------------------------------------------------
    def layernorm(self, node: Any) -> None:
        a = read_attributes(node)
        x = node.input[0]
        shape = self.shape(x)
        if a.get("axis", -1) not in (-1, len(shape) - 1) or len(shape) != 3:
            raise UnsupportedError(
                node.name, f"normalises {shape} along {a.get('axis', -1)}", "tokens are [B, T, C]"
            )
        grid, c = self.source_grid(node, x), shape[-1]
        given = [self.const(i) for i in node.input[1:]] + [np.zeros(1)]
        gain, offset = (np.broadcast_to(v, (c,)) for v in given[:2])
        for i, quant in enumerate(self.result_quants(node)):
            out = self.grid_of(node, quant)
            name = f"{identifier(node.name)}_{i}"
            attributes = layernorm_attributes(grid, out, c, a.get("epsilon", 1e-5), gain, offset)
            step = 2.0**-out.exponent
            tables = [
                np.round(gain.astype(np.float64) * 2.0 ** attributes["gain_frac"]),
                np.round(offset.astype(np.float64) * step * 2.0 ** attributes["frac"]),
            ]
            keys = ("gain", "offset")
            inputs = [self.integers(f"{name}_{k}", t) for k, t in zip(keys, tables, strict=True)]
            self.add(
                "FloatLayernorm", [x, *inputs], quant.output[0], name, hls4ml_ops.DOMAIN, out,
                **attributes,
            )  # fmt: skip

    # -- attention -------------------------------------------------------------------------------
    def attention(self, node: Any) -> None:
        if len(self.shape(node.input[0])) < 3:
            return  # of the logits, which hls4ml has a layer for
        score = self.maker.get(node.input[0])
        if score is None or score.op_type != "Quant":
            raise UnsupportedError(
                node.name, "the scores are not quantised", "put a QuantIdentity in front of softmax"
            )
        rank = len(self.shape(node.input[0]))
        if read_attributes(node).get("axis", -1) not in (-1, rank - 1):
            raise UnsupportedError(node.name, "softmax along another axis", "use the last axis")
        (prob,) = self.result_quants(node)[:1]
        product, factor = self.scaled(node, score.input[0])
        value = self.only_reader(node, prob.output[0])
        if value is None or value.op_type != "MatMul" or value.input[0] != prob.output[0]:
            raise UnsupportedError(
                node.name, "no matrix product reads the probabilities alone", "compute p @ v"
            )
        q = self.operand(node, product.input[0], False)
        k = self.operand(node, product.input[1], True)
        v = self.operand(node, value.input[1], False)
        out, end, order = self.result(node, value, q.channels.shape)
        grids = {"q": q.grid, "k": k.grid, "v": v.grid, "out": out}
        grids |= {"score": self.grid_of(node, score), "prob": self.grid_of(node, prob)}
        s, p = grids["score"], grids["prob"]
        scale = (
            factor * q.factor * k.factor * 2.0 ** (q.grid.exponent + k.grid.exponent - s.exponent)
        )
        scale, shift = rational(scale)
        if p.exponent > 0 or s.itype.bits > 12:
            raise UnsupportedError(
                node.name, f"{s.itype} scores, probabilities in steps of 2^{p.exponent}",
                "use at most 12 bits for scores and steps of at most 1 for probabilities",
            )  # fmt: skip
        if v.factor != 1:
            raise UnsupportedError(
                node.name, "the values are scaled", "scale them before the Quant"
            )
        name = identifier(node.name)
        maps = {f"{key}_map": o.channels for key, o in (("q", q), ("k", k), ("v", v))}
        tables = {**maps, "order": order, "exp": exponentials(s)}
        inputs = [self.integers(f"{name}_{key}", t) for key, t in tables.items()]
        attributes: dict[str, Any] = {}
        for key, grid in grids.items():
            attributes |= {f"{key}_type": str(grid.itype), f"{key}_exponent": grid.exponent}
        self.add(
            "SoftmaxAttention", [q.tensor, k.tensor, v.tensor, *inputs], end, name,
            hls4ml_ops.DOMAIN, out, scale=scale, score_shift=shift, **attributes,
        )  # fmt: skip

    def scaled(self, node: Any, tensor: str) -> tuple[Any, float]:
        """The product of two activations behind constant factors, and these."""
        factor = 1.0
        while True:
            maker = self.maker.get(tensor)
            found = self.factor(maker) if maker is not None else None
            if found:
                tensor, factor = found[0], factor * found[1]
            elif maker is not None and maker.op_type == "MatMul":
                return maker, factor
            else:
                raise UnsupportedError(
                    node.name, "the scores are no scaled product q k", "leave masks and biases out"
                )

    def factor(self, node: Any) -> tuple[str, float] | None:
        """(tensor, constant that it is multiplied by) of a Mul or Div by one number."""
        if node.op_type not in ("Mul", "Div"):
            return None
        for i, name in enumerate(node.input):
            value = self.const(name)
            if value is not None and value.size == 1 and (node.op_type == "Mul" or i == 1):
                number = float(value.flatten()[0])
                return node.input[1 - i], number if node.op_type == "Mul" else 1 / number
        return None

    def operand(self, node: Any, tensor: str, transposed: bool) -> Operand:
        """Follow a factor of a product back to the tokens that it is made of."""
        chain: list[Any] = []
        quant, factor, shape = None, 1.0, self.shape(tensor)
        end = tensor
        while (maker := self.maker.get(tensor)) is not None:
            found = self.factor(maker)
            if maker.op_type in LAYOUT:
                chain.insert(0, maker)
            elif found and quant is None:
                factor *= found[1]
                tensor = found[0]
                chain.insert(0, helper.make_node("Identity", [tensor], [maker.output[0]]))
                continue
            elif maker.op_type == "Quant" and quant is None:
                quant = maker
                chain.insert(0, helper.make_node("Identity", [maker.input[0]], [maker.output[0]]))
            else:
                break
            tensor = maker.input[0]
        if quant is None:
            raise UnsupportedError(
                node.name, f"its factor {end!r} is not quantised", "put a QuantIdentity in front"
            )
        grid, root = self.grid_of(node, quant), self.shape(tensor)
        if len(root) != 3:
            raise UnsupportedError(
                node.name, f"{tensor!r} has shape {root}", "start from tokens [B, T, C]"
            )
        index = np.arange(math.prod(root), dtype=np.float32).reshape(root)
        seen = self.evaluate(chain, {tensor: index}, end).astype(np.int64)
        if transposed:
            seen = seen.swapaxes(-1, -2)
        seen = seen.reshape(-1, *seen.shape[-2:])  # [heads, T, head_dim]
        channels = seen[:, 0]
        rows = np.arange(root[1])[:, None] * root[2]
        if (
            seen.shape[1] != root[1]
            or (seen != channels[:, None] + rows).any()
            or channels.max() >= root[2]
        ):
            raise UnsupportedError(
                node.name, f"mixes tokens on the way from {tensor!r}, {shape}",
                "split channels into heads, keep the tokens",
            )  # fmt: skip
        source = quant.output[0]
        if quant.input[0] != tensor:  # quantised behind the layout: the same in front of it
            source = self.tensor(f"{identifier(quant.output[0])}_tokens", root)
            if source not in self.maker:
                self.add(
                    "Quant", [tensor, *quant.input[1:]], source, f"{identifier(source)}_quant",
                    "qonnx.custom_op.general", **read_attributes(quant),
                )  # fmt: skip
        return Operand(source, grid, channels, factor)

    def result(self, node: Any, value: Any, heads: tuple[int, int]) -> tuple[Grid, str, Any]:
        """Follow the product with the values to its quantised tokens: their grid and tensor, and
        where in it each channel comes from."""
        start = tensor = value.output[0]
        chain: list[Any] = []
        quant = None
        while quant is None or len(self.shape(tensor)) != 3:
            reader = self.only_reader(node, tensor)
            if reader is None or (reader.op_type not in LAYOUT and reader.op_type != "Quant"):
                raise UnsupportedError(
                    node.name, f"its result {tensor!r} is not quantised tokens [B, T, C]",
                    "put a QuantIdentity behind p @ v",
                )  # fmt: skip
            if reader.op_type == "Quant":
                quant = reader
                reader = helper.make_node("Identity", [tensor], [quant.output[0]])
            chain.append(reader)
            tensor = reader.output[0]
        shape = self.shape(start)
        index = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        seen = self.evaluate(chain, {start: index}, tensor).astype(np.int64)[0]
        count, dim = heads[0], shape[-1]
        tokens = shape[-2]
        head, rest = seen // (tokens * dim), seen % (tokens * dim)
        order = (head * dim + rest % dim)[0]
        if (
            (rest // dim != np.arange(tokens)[:, None]).any()
            or (head * dim + rest % dim != order).any()
            or len(order) != count * dim
        ):
            raise UnsupportedError(
                node.name, f"mixes tokens on the way to {tensor!r}", "join the heads of each token"
            )
        return self.grid_of(node, quant), tensor, order

    # -- matrices --------------------------------------------------------------------------------
    def linear(self, node: Any) -> None:
        """MatMul by a constant, and the Add of a bias behind it."""
        weight = self.const(node.input[1])
        x = node.input[0]
        if weight is None:
            raise UnsupportedError(
                node.name,
                "a product of two activations",
                "only attention (softmax between) is known",
            )
        end, bias = node.output[0], np.zeros(weight.shape[1])
        reader = self.only_reader(node, end)
        if reader is not None and reader.op_type == "Add":
            other = next((i for i in reader.input if i != end), end)
            value = self.const(other)
            if value is not None and value.size in (1, weight.shape[1]):
                bias, end = np.broadcast_to(value.flatten(), (weight.shape[1],)), reader.output[0]
        name = identifier(node.name)
        attributes: dict[str, Any] = {}
        tensors = []
        for key, array in (("weight", weight), ("bias", bias)):
            ints, exponent = scaled_integers(array)
            t = IntType.fitting(min(-1, int(ints.min())), max(0, int(ints.max())))
            if key == "weight" and t.bits > WEIGHT_BITS:
                raise UnsupportedError(
                    node.name, f"its weights are no {WEIGHT_BITS}-bit multiples of a power of two",
                    "quantise them (Brevitas: Int8WeightPerTensorFixedPoint)",
                )  # fmt: skip
            attributes |= {f"{key}_type": str(t), f"{key}_exponent": exponent}
            tensor = f"{name}_{key}"
            values = (ints.astype(np.float64) * 2.0**exponent).astype(np.float32)
            self.wrapper.set_initializer(tensor, values)
            tensors.append(tensor)
        self.add("Linear", [x, *tensors], end, name, hls4ml_ops.DOMAIN, **attributes)

    # -- what becomes a core ---------------------------------------------------------------------
    def token(self, node: Any) -> None:
        """The class token: token 0 of every image."""
        x = node.input[0]
        if not self.stands(node) or len(self.shape(x)) != 3:
            return
        if node.op_type not in ("Gather", "Slice") or self.const(x) is not None:
            return
        shape = self.shape(x)
        index = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        end = node.output[0]
        if not np.array_equal(
            self.evaluate([node], {x: index}, end).flatten(), np.arange(shape[2])
        ):
            raise UnsupportedError(
                node.name, f"takes {self.shape(end)} of {shape}", "only token 0 can be taken out"
            )
        grid = self.source_grid(node, x)
        p = FirstTokenParams(max_tokens=shape[1], channels=shape[2], simd=1, in_type=grid.itype)
        call = CoreCall("first_token", p, {}, (grid.exponent,), grid.exponent)
        self.core(call, identifier(node.name), x, end, grid, grid)

    def curve(self, quant: Any) -> None:
        """A function of single values between two quantisers, as a table."""
        if self.const(quant.input[0]) is not None or not self.stands(quant):
            return
        part: list[Any] = []
        sources: set[str] = set()
        todo = [quant.input[0]]
        while todo:
            tensor = todo.pop()
            maker = self.maker.get(tensor)
            if maker is None or maker.op_type not in ELEMENTWISE:
                sources.add(tensor)
            elif maker not in part:
                part.append(maker)
                todo += [i for i in maker.input if i and self.const(i) is None]
        if not any(n.op_type in CURVES for n in part):
            return
        if len(sources) != 1:
            raise UnsupportedError(
                part[0].name, f"a function of {len(sources)} tensors", "quantise in between"
            )
        (x,) = sources
        grid, out = self.source_grid(part[-1], x), self.grid_of(quant, quant)
        if grid.itype.bits > 16:
            raise UnsupportedError(quant.name, f"a table of {grid.itype}", "use at most 16 bits")
        part = [n for n in self.wrapper.graph.node if n in part]  # in their order
        codes = np.arange(grid.itype.min, grid.itype.max + 1)
        values = hls4ml_ops.values(codes[None, :, None], grid.exponent)
        result = self.quantised(quant, self.evaluate(part, {x: values}, quant.input[0]))
        table = hls4ml_ops.codes(result, out.exponent).flatten()
        shape = self.shape(x)
        p = LookupTableParams(
            max_tokens=shape[1] if len(shape) == 3 else 1, channels=shape[-1], simd=1,
            in_type=grid.itype, out_type=out.itype, offset=-grid.itype.min, shift=0,
            entries=len(codes),
        )  # fmt: skip
        constants = {"table": torch.from_numpy(table)}
        call = CoreCall("lookup_table", p, constants, (grid.exponent,), out.exponent)
        self.core(call, f"{identifier(quant.name)}_table", x, quant.output[0], grid, out)

    def core(self, call: CoreCall, name: str, x: str, end: str, grid: Grid, out: Grid) -> None:
        """A core between streams of hls4ml."""
        shape = self.shape(x)
        p = call.params
        tokens, t = p.out_tokens(p.max_tokens), p.output()
        entered = self.tensor(f"{name}_entered", shape)
        left = self.tensor(f"{name}_frames", [1, tokens, t.channels])
        kinds: list[dict[str, Any]] = [
            {"type": str(g.itype), "exponent": g.exponent, "lanes": 1} for g in (grid, out)
        ]
        tables = []
        for key, value in sorted(call.constants.items()):
            tables.append(f"{name}_{key}")
            self.wrapper.set_initializer(tables[-1], value.float().numpy())
        attributes: dict[str, Any] = call.attributes()
        if not attributes["constants"]:
            del attributes["constants"]
        domain = hls4ml_ops.DOMAIN
        self.add("LeaveFrames", [left], end, f"{name}_leave", domain, out, **kinds[1])
        self.add("EnterFrames", [x], entered, f"{name}_enter", domain, **kinds[0])
        self.add(camel(call.stem), [entered, *tables], left, name, custom_op.DOMAIN, **attributes)


def layernorm_attributes(
    x: Grid, y: Grid, channels: int, epsilon: float, gain: Any, offset: Any
) -> dict[str, Any]:
    """Attributes of FloatLayernorm: widths at which its result is right to some 10^-7 steps."""
    eps, eps_frac = epsilon * channels**2 * 2.0 ** (-2 * x.exponent), 32
    while eps * 2.0**eps_frac >= 1 << 60:
        eps_frac -= 2
    fixed = max(1, round(eps * 2.0**eps_frac))
    most = max(abs(x.itype.min), x.itype.max)
    bits = max(((channels * most) ** 2 << max(eps_frac, 0)).bit_length(), fixed.bit_length()) + 1
    largest = math.sqrt(channels) * float(np.abs(gain).max()) + float(np.abs(offset).max())
    frac, gain_frac = 24, 30
    return {
        "in_type": str(x.itype),
        "in_exponent": x.exponent,
        "out_type": str(y.itype),
        "out_exponent": y.exponent,
        "eps": fixed,
        "eps_frac": eps_frac,
        "root_bits": max(40, -(-bits // 2)),
        "gain_frac": gain_frac,
        "frac": frac,
        "result_bits": frac + max(1, math.ceil(math.log2(largest * 2.0**-y.exponent + 1))) + 2,
    }


def exponentials(score: Grid) -> Any:
    """int64 ``[2^bits]``: exp of the negative of every difference of two scores."""
    codes = np.arange(1 << score.itype.bits)
    exact = np.exp(-codes * 2.0**score.exponent) * 2.0 ** (hls4ml_ops.EXP_BITS - 2)
    return np.round(exact).astype(np.int64)


def rational(x: float) -> tuple[int, int]:
    """(m, s) with ``x = m / 2^s``, m odd and of at most 31 bits."""
    mantissa, exponent = math.frexp(x)
    m, s = round(mantissa * 2**30), 30 - exponent
    while m and m % 2 == 0:
        m, s = m // 2, s - 1
    return m, s


def scaled_integers(x: Any) -> tuple[Any, int]:
    """(int64, e) with ``x = ints * 2^e``; e is the largest one, at least -FRAC, to which x is
    rounded."""
    x = np.asarray(x, dtype=np.float64)
    ints, e = np.round(x * 2.0**FRAC).astype(np.int64), -FRAC
    while ints.any() and not (ints & 1).any():
        ints, e = ints >> 1, e + 1
    return ints, e if ints.any() else 0
