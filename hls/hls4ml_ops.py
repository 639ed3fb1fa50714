# SPDX-License-Identifier: Apache-2.0
"""QONNX operators of networks for hls4ml that are no cores; domain ``sievit.hls.hls4ml_ops``.

``Linear`` is a matrix product with bias, which becomes hls4ml's own pointwise convolution: its ONNX
front end (1.3.0) stops at a MatMul of tokens followed by a bias. The others lie between cores and
hls4ml's layers. A tensor float ``[B, T, C]`` is either a stream of hls4ml (T tokens
for every image) or frames of the cores (the tokens that are left, zeros behind them). ``EnterFrames``
and ``LeaveFrames`` lead from one to the other, ``ForkFrames`` gives every reader of frames its own
stream, ``ResizeFrames`` changes the lanes of a beat. None of them changes a value, so qonnx executes
them as copies.
"""

from __future__ import annotations

from typing import Any

from onnx import helper
from qonnx.custom_op.base import CustomOp

DOMAIN = "sievit.hls.hls4ml_ops"


class _Copy(CustomOp):
    """Every output is the input."""

    #: attributes and their kinds
    ATTRIBUTES: dict[str, str] = {}

    def get_nodeattr_types(self) -> dict[str, Any]:
        return {name: (kind, True, "" if kind == "s" else 0) for name, kind in self.ATTRIBUTES.items()}

    def make_shape_compatible_op(self, model: Any) -> Any:
        node = self.onnx_node
        return helper.make_node("Identity", [node.input[0]], [node.output[0]])

    def infer_node_datatype(self, model: Any) -> None:
        """Scaled integers travel as float32."""

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        for name in self.onnx_node.output:
            context[name] = context[self.onnx_node.input[0]].copy()

    def verify_node(self) -> list[str]:
        return []


class EnterFrames(_Copy):
    """``type``, ``exponent``: value = integer * 2^exponent; ``lanes`` channels per beat."""

    ATTRIBUTES = {"type": "s", "exponent": "i", "lanes": "i"}


class LeaveFrames(EnterFrames):
    pass


class ForkFrames(_Copy):
    ATTRIBUTES = {"type": "s", "lanes": "i"}


class ResizeFrames(_Copy):
    ATTRIBUTES = {"type": "s", "lanes": "i", "out_lanes": "i"}


#: names of the operators that change no value
COPIES = ("EnterFrames", "LeaveFrames", "ForkFrames", "ResizeFrames")


class Linear(_Copy):
    """``x @ weight + bias`` per token; float weight ``[in, out]``, bias ``[out]``, both integers of
    a type times 2^exponent."""

    ATTRIBUTES = {
        "weight_type": "s",
        "weight_exponent": "i",
        "bias_type": "s",
        "bias_exponent": "i",
    }

    def make_shape_compatible_op(self, model: Any) -> Any:
        node = self.onnx_node
        return helper.make_node("MatMul", list(node.input[:2]), list(node.output))

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        x, weight, bias = (context[name] for name in self.onnx_node.input)
        context[self.onnx_node.output[0]] = x @ weight + bias


custom_op = {
    c.__name__: c for c in (EnterFrames, LeaveFrames, ForkFrames, ResizeFrames, Linear)
}
