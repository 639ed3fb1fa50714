# SPDX-License-Identifier: Apache-2.0
"""QONNX operators of networks for hls4ml that are no cores; domain ``sievit.hls.hls4ml_ops``.

``Linear`` is a matrix product with bias, which becomes hls4ml's own pointwise convolution: its ONNX
front end (1.3.0) stops at a MatMul of tokens followed by a bias. ``FloatLayernorm`` and
``SoftmaxAttention`` are what a plain Vision Transformer computes in float between two quantisers;
here it is integers of a fixed precision that is far above that of float32.

The rest lies between cores and hls4ml's layers. A tensor float ``[B, T, C]`` is either a stream of
hls4ml (T tokens for every image) or frames of the cores (the tokens that are left, zeros behind
them). ``EnterFrames`` and ``LeaveFrames`` lead from one to the other, ``ForkFrames`` gives every
reader of frames its own stream, ``ResizeFrames`` changes the lanes of a beat. None of these changes
a value, so qonnx executes them as copies.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from onnx import helper
from qonnx.custom_op.base import CustomOp
from torch import Tensor

from sievit.quant.custom_op import read_attributes
from sievit.quant.itype import IntType

DOMAIN = "sievit.hls.hls4ml_ops"

#: bits of an exponential; exp(0) is 2^(EXP_BITS - 2)
EXP_BITS = 32


class _Copy(CustomOp):
    """Every output is the input."""

    #: attributes and their kinds
    ATTRIBUTES: ClassVar[dict[str, str]] = {}

    def get_nodeattr_types(self) -> dict[str, Any]:
        return {
            name: (kind, True, "" if kind == "s" else 0) for name, kind in self.ATTRIBUTES.items()
        }

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

    ATTRIBUTES: ClassVar = {"type": "s", "exponent": "i", "lanes": "i"}


class LeaveFrames(EnterFrames):
    """In the declared shape: ``[B, C]`` where a single token was taken out."""

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        x, name = context[self.onnx_node.input[0]], self.onnx_node.output[0]
        (declared,) = (v for v in (*graph.value_info, *graph.output) if v.name == name)
        context[name] = x.reshape([d.dim_value for d in declared.type.tensor_type.shape.dim])


class ForkFrames(_Copy):
    ATTRIBUTES: ClassVar = {"type": "s", "lanes": "i"}


class ResizeFrames(_Copy):
    ATTRIBUTES: ClassVar = {"type": "s", "lanes": "i", "out_lanes": "i"}


#: names of the operators that change no value
COPIES = ("EnterFrames", "LeaveFrames", "ForkFrames", "ResizeFrames")


class Linear(_Copy):
    """``x @ weight + bias`` per token; float weight ``[in, out]``, bias ``[out]``, both integers of
    a type times 2^exponent."""

    ATTRIBUTES: ClassVar = {
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


class FloatLayernorm(_Copy):
    """Layer normalisation of quantised tokens, rounded once: ``hls/nnet/float_layernorm.hpp``.

    Inputs x, int64 ``gain`` (``gain_frac`` fraction bits) and ``offset`` (``frac`` ones, in steps
    of the result), both ``[C]``.
    """

    ATTRIBUTES: ClassVar = {
        "in_type": "s",
        "in_exponent": "i",
        "out_type": "s",
        "out_exponent": "i",
        "eps": "i",
        "eps_frac": "i",
        "root_bits": "i",
        "gain_frac": "i",
        "frac": "i",
        "result_bits": "i",
    }

    def make_shape_compatible_op(self, model: Any) -> Any:
        node = self.onnx_node
        return helper.make_node("Identity", [node.input[0]], list(node.output))

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        x, gain, offset = (context[name] for name in self.onnx_node.input)
        a = read_attributes(self.onnx_node)
        y = float_layernorm(a, codes(x, a["in_exponent"]), gain, offset)
        context[self.onnx_node.output[0]] = values(y, a["out_exponent"])


def float_layernorm(a: dict[str, Any], x: Any, gain: Any, offset: Any) -> Any:
    """int64 ``[B, T, C]`` of int64 ``[B, T, C]``, in integers of any size."""
    out, k = IntType.parse(a["out_type"]), a["root_bits"]
    shift = layernorm_shift(a)
    flat = x.reshape(-1, x.shape[-1])
    done = np.zeros_like(flat)
    for row, token in enumerate(flat.tolist()):
        c, total = len(token), sum(token)
        v = ((c * sum(t * t for t in token) - total * total) << a["eps_frac"]) + a["eps"]
        half = (2 * k - v.bit_length()) >> 1
        reciprocal = (1 << (2 * k - 1)) // math.isqrt(v << (2 * half))
        for i, t in enumerate(token):
            y = (t * c - total) * reciprocal * int(gain[i])
            y = (y >> (shift - half)) + int(offset[i])
            done[row, i] = _round(y, a["frac"])
    return np.clip(done, out.min, out.max).reshape(x.shape)


def layernorm_shift(a: dict[str, Any]) -> int:
    """Shift of the product of difference, reciprocal and gain for a variance that needs none."""
    return int(
        2 * a["root_bits"] - 1 + a["gain_frac"] + a["out_exponent"] - a["eps_frac"] // 2 - a["frac"]
    )


def _round(x: Any, s: int) -> Any:
    """``x / 2^s`` half to even, of ints or int64 arrays."""
    if s <= 0:
        return x << -s
    return (x + (1 << (s - 1)) - 1 + ((x >> s) & 1)) >> s


class SoftmaxAttention(_Copy):
    """Attention with quantised scores and probabilities: ``hls/nnet/softmax_attention.hpp``.

    Inputs q, k, v; int64 ``q_map``, ``k_map``, ``v_map`` ``[heads, head_dim]``: the channels that a
    head sees; ``order`` ``[C]``: place ``h * head_dim + d`` of every channel of the result; ``exp``
    ``[2^bits of a score]``.
    """

    ATTRIBUTES: ClassVar = {
        "q_type": "s",
        "q_exponent": "i",
        "k_type": "s",
        "k_exponent": "i",
        "v_type": "s",
        "v_exponent": "i",
        "score_type": "s",
        "score_exponent": "i",
        "prob_type": "s",
        "prob_exponent": "i",
        "out_type": "s",
        "out_exponent": "i",
        "scale": "i",
        "score_shift": "i",
    }

    def make_shape_compatible_op(self, model: Any) -> Any:
        node = self.onnx_node
        shape = model.get_tensor_shape(node.output[0])
        return helper.make_node("RandomNormal", [], [node.output[0]], shape=shape, dtype=1)

    def execute_node(self, context: dict[str, Any], graph: Any) -> None:
        a = read_attributes(self.onnx_node)
        q, k, v, q_map, k_map, v_map, order, exp = (context[n] for n in self.onnx_node.input)
        q, k, v = (
            codes(x, a[f"{n}_exponent"])[..., m].swapaxes(1, 2)
            for n, x, m in (("q", q, q_map), ("k", k, k_map), ("v", v, v_map))
        )  # [B, heads, T, head_dim]
        y = softmax_attention(a, q, k, v, exp).swapaxes(1, 2)
        y = y.reshape(*y.shape[:2], -1)[..., order]
        context[self.onnx_node.output[0]] = values(y, a["out_exponent"])


def softmax_attention(a: dict[str, Any], q: Any, k: Any, v: Any, exp: Any) -> Any:
    """int64 ``[B, heads, T, head_dim]`` of the same."""
    score_type, prob, out = (IntType.parse(a[f"{n}_type"]) for n in ("score", "prob", "out"))
    score = _round(q @ k.swapaxes(-1, -2) * a["scale"], a["score_shift"])
    score = np.clip(score, score_type.min, score_type.max)
    weight = exp[score.max(-1, keepdims=True) - score]
    total = weight.sum(-1, keepdims=True)
    above = weight << -a["prob_exponent"]
    p, rest = above // total, above % total
    p = p + ((2 * rest > total) | ((2 * rest == total) & (p % 2 == 1)))
    p = np.clip(p, prob.min, prob.max)
    y = _round(p @ v, a["out_exponent"] - a["prob_exponent"] - a["v_exponent"])
    return np.clip(y, out.min, out.max)


def cpp(
    op: str, a: dict[str, Any], tables: list[Tensor], shape: list[int]
) -> tuple[dict[str, tuple[IntType, Tensor]], dict[str, int]]:
    """(constant arrays, fields of the config struct) in C++ of one of the two operators; ``shape``:
    of its output, ``[B, T, C]``."""
    kinds = {k.removesuffix("_type"): IntType.parse(v) for k, v in a.items() if k.endswith("_type")}
    config = {"tokens": shape[1]}
    for kind, t in kinds.items():
        config |= {f"{kind}_bits": t.bits, f"{kind}_signed": int(t.signed)}
    if op == "FloatLayernorm":
        gain, offset = tables
        types = {"gain": _signed(gain), "offset": IntType(a["result_bits"], True)}
        config |= {k: a[k] for k in ("eps", "eps_frac", "root_bits", "frac")}
        config |= {f"{k}_bits": t.bits for k, t in types.items()}
        config |= {"channels": shape[2], "shift": layernorm_shift(a)}
        return {"gain": (types["gain"], gain), "offset": (types["offset"], offset)}, config
    *maps, exp = tables
    index, weight = IntType(16, False), IntType(EXP_BITS, False)
    config |= {
        "heads": maps[0].shape[0],
        "head_dim": maps[0].shape[1],
        "channels": shape[2],
        "exp_bits": weight.bits,
        "scale": a["scale"],
        "scale_bits": IntType.fitting(min(-1, a["scale"]), a["scale"]).bits,
        "score_shift": a["score_shift"],
        "prob_frac": -a["prob_exponent"],
        "out_shift": a["out_exponent"] - a["prob_exponent"] - a["v_exponent"],
    }
    names = ("q_map", "k_map", "v_map", "order")
    arrays = {n: (index, t) for n, t in zip(names, maps, strict=True)}
    return {**arrays, "exp": (weight, exp)}, config


def _signed(x: Tensor) -> IntType:
    return IntType.fitting(min(-1, int(x.min())), int(x.max()))


def codes(x: Any, exponent: int) -> Any:
    """int64 codes of scaled integers."""
    return np.round(x.astype(np.float64) * 2.0**-exponent).astype(np.int64)


def values(x: Any, exponent: int) -> Any:
    """Scaled integers, float32, of codes."""
    return (x.astype(np.float64) * 2.0**exponent).astype(np.float32)


custom_op = {
    c.__name__: c
    for c in (
        EnterFrames, LeaveFrames, ForkFrames, ResizeFrames, Linear, FloatLayernorm, SoftmaxAttention
    )
}  # fmt: skip
