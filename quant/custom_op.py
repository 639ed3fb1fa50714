# SPDX-License-Identifier: Apache-2.0
"""The cores as QONNX operators: domain ``sievit.quant.custom_op``, one operator per core.

A node ``NmMatmul``, ``Layernorm``, ... carries the core's parameters as attributes (ints, types as
text such as ``int8``), ``in_exponents`` and ``out_exponent`` (value = integer * 2^exponent) and the
names of its constants. Inputs: the data streams float ``[B, T, C]``, then, if ``frames`` is 1, the
frame state float ``[B, 2]`` (tokens alive, package flag), then the constants. Outputs: the data
stream and, if ``makes_frames`` is 1, its frame state. Rows past a frame's length are 0. qonnx finds
the operators by importing the domain; nothing to register.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import helper
from qonnx.custom_op.base import CustomOp
from torch import Tensor

from sievit.quant.params import (
    CoreParams,
    Stream,
    camel,
    core_names,
    load_core,
    most_tokens,
)

DOMAIN = "sievit.quant.custom_op"


@dataclass(frozen=True)
class CoreCall:
    """One application of a core to scaled floats: the same for QAT, QONNX and lowering."""

    stem: str
    params: CoreParams
    constants: dict[str, Tensor]
    in_exponents: tuple[int, ...]
    out_exponent: int
    frames: bool = False
    makes_frames: bool = False

    def run(self, data: list[Tensor], frames: Tensor | None) -> tuple[Tensor, Tensor]:
        """(data float ``[B, T, C]``, frames float ``[B, 2]``) of the golden function."""
        streams = []
        for x, e in zip(data, self.in_exponents, strict=True):
            ints = (x.double() * 2.0**-e).round().long()
            if frames is None:
                streams.append(Stream.full(ints))
            else:
                stream = Stream(ints, frames[:, 0].long(), frames[:, 1] > 0)
                streams.append(stream.with_data(ints))
        y = load_core(self.stem).golden(self.params, self.constants, *streams)
        state = torch.stack([y.length.float(), y.package.float()], 1)
        values = y.data[:, : most_tokens(self.params, self.params.max_tokens)]
        return (values.double() * 2.0**self.out_exponent).float(), state

    def attributes(self) -> dict[str, Any]:
        """ONNX attributes, without their kind suffix."""
        return {
            **self.params.to_dict(),
            "in_exponents": list(self.in_exponents),
            "out_exponent": self.out_exponent,
            "frames": int(self.frames),
            "makes_frames": int(self.makes_frames),
            "constants": sorted(self.constants),
        }


def read_attributes(node: Any) -> dict[str, Any]:
    """Attributes of a sievit ONNX node as Python values."""

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        return [plain(v) for v in value] if isinstance(value, list) else value

    return {a.name: plain(helper.get_attribute_value(a)) for a in node.attribute}


def core_call(op_type: str, attributes: dict[str, Any], constants: list[Any]) -> CoreCall:
    """Rebuild the CoreCall of a node; ``constants``: arrays in the order of the attribute."""
    stem = next((s for s in core_names() if camel(s) == op_type), None)
    if stem is None:
        raise KeyError(f"{op_type} is no core; known: {', '.join(map(camel, core_names()))}")
    values = dict(attributes)
    names = values.pop("constants", [])
    call = {k: values.pop(k) for k in ("in_exponents", "out_exponent", "frames", "makes_frames")}
    return CoreCall(
        stem,
        load_core(stem).params.from_dict(values),
        {
            n: torch.from_numpy(np.asarray(c)).round().long()
            for n, c in zip(names, constants, strict=True)
        },
        tuple(call["in_exponents"]),
        call["out_exponent"],
        bool(call["frames"]),
        bool(call["makes_frames"]),
    )


class CoreOp(CustomOp):
    """QONNX execution of any core by its golden function."""

    def get_nodeattr_types(self) -> dict[str, Any]:
        kinds = {int: ("i", True, 0), str: ("s", True, ""), list: ("ints", True, [])}
        out = {k: kinds[type(v)] for k, v in read_attributes(self.onnx_node).items()}
        if "constants" in out:
            out["constants"] = ("strings", True, [""])
        return out

    def call(self, constants: list[Any]) -> CoreCall:
        return core_call(self.onnx_node.op_type, read_attributes(self.onnx_node), constants)

    def make_shape_compatible_op(self, model: Any) -> Any:
        attributes = read_attributes(self.onnx_node)
        attributes.pop("constants", None)
        params = core_call(self.onnx_node.op_type, attributes, []).params
        batch = model.get_tensor_shape(model.graph.input[0].name)[0]
        shape = [batch, most_tokens(params, params.max_tokens), params.output().channels]
        return helper.make_node(
            "RandomNormal", [], [self.onnx_node.output[0]], shape=shape, dtype=1
        )

    def infer_node_datatype(self, model: Any) -> None:
        """Scaled integers travel as float32."""

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        node = self.onnx_node
        streams = len(read_attributes(node)["in_exponents"])
        uses = read_attributes(node)["frames"]
        data = [torch.from_numpy(np.array(context[n])) for n in node.input[:streams]]
        frames = torch.from_numpy(np.array(context[node.input[streams]])) if uses else None
        call = self.call([context[n] for n in node.input[streams + uses :]])
        y, state = call.run(data, frames)
        context[node.output[0]] = y.numpy()
        if len(node.output) > 1:
            context[node.output[1]] = state.numpy()

    def verify_node(self) -> list[str]:
        return []


custom_op = {camel(stem): type(camel(stem), (CoreOp,), {}) for stem in core_names()}
globals().update(custom_op)
__all__ = ["DOMAIN", "CoreCall", "core_call", "read_attributes", *custom_op]
