# SPDX-License-Identifier: Apache-2.0
"""Brevitas quantisers of the models: per tensor, power-of-two scales, round half to even.

Activation scales are collected over the first training steps and are fixed parameters from then on,
so nothing after training changes an integer.
"""

from __future__ import annotations

import math
from typing import Any

import brevitas.nn as qnn
import torch
from brevitas.core.scaling import ScalingImplType
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8WeightPerTensorFixedPoint,
    Int32Bias,
    Uint8ActPerTensorFixedPoint,
)
from brevitas.quant_tensor import IntQuantTensor
from torch import Tensor, nn

from sievit.quant.itype import IntType


class IntWeightPerTensorPoT(Int8WeightPerTensorFixedPoint):
    """Weights, narrow range; the scale follows the largest magnitude."""


class IntActPerTensorPoT(Int8ActPerTensorFixedPoint):
    """Signed activations."""

    collect_stats_steps = 60


class UintInputPoT(Uint8ActPerTensorFixedPoint):
    """Pixels ``0..levels`` as ``x / 2^ceil(log2 levels)``: the scale is given, not learned."""

    scaling_impl_type = ScalingImplType.CONST


class QuantLinear(qnn.QuantLinear):
    """Linear layer with quantised weights and bias under a fixed pattern of zeros.

    Attributes:
        mask: bool ``[out_features, in_features]``, False where a weight is held at zero.
        nm: the (n, m) that the finished weights obey along the inputs; (1, 1) is dense.
    """

    def __init__(
        self, in_features: int, out_features: int, bits: int, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            bias=bias,
            weight_quant=IntWeightPerTensorPoT,
            weight_bit_width=bits,
            bias_quant=Int32Bias if bias else None,
            return_quant_tensor=False,
        )
        blocks = [torch.ones(out_features // groups, in_features // groups)] * groups
        self.groups = groups
        self.nm = (1, 1)
        self.mask: Tensor
        self.register_buffer("mask", torch.block_diag(*blocks).bool())
        bound = math.sqrt(1.0 / (in_features // groups))
        nn.init.uniform_(self.weight, -bound, bound)
        self.project()

    @torch.no_grad()
    def project(self) -> None:
        """Set the masked weights to zero."""
        self.weight.mul_(self.mask)


def act(bits: int, percentile: float = 99.9) -> nn.Module:
    """Quantiser of a signed activation of ``bits`` bits; the range covers ``percentile`` %."""
    return qnn.QuantIdentity(
        act_quant=IntActPerTensorPoT,
        bit_width=bits,
        high_percentile_q=percentile,
        return_quant_tensor=True,
    )


def pixels(levels: int) -> nn.Module:
    """Quantiser of pixels ``0..levels`` given as ``x / 2^ceil(log2 levels)``."""
    bits, scale = levels.bit_length(), input_scale(levels)
    return qnn.QuantIdentity(
        act_quant=UintInputPoT,
        bit_width=bits,
        scaling_init=scale * 2**bits,
        return_quant_tensor=True,
    )


def input_scale(levels: int) -> float:
    """Value of one pixel step: the power of two that maps 0..levels into 0..1."""
    return 2.0 ** -((levels - 1).bit_length())


def statistics(model: nn.Module) -> dict[str, list[Any]]:
    """(steps, running value) of every quantiser: what its state_dict leaves out."""
    return {
        n: [m.counter, m.buffer.clone()]
        for n, m in model.named_modules()
        if hasattr(m, "collect_stats_steps")
    }


@torch.no_grad()
def load_statistics(model: nn.Module, saved: dict[str, list[Any]]) -> None:
    """Go on collecting where ``statistics`` was taken."""
    for name, (counter, buffer) in saved.items():
        module: Any = model.get_submodule(name)
        if counter <= module.collect_stats_steps:
            module.counter = counter
            module.buffer.copy_(buffer)
            module.value.fill_(1.0)


def exponent(q: IntQuantTensor) -> int:
    """log2 of the scale of a quantised tensor. Raises ValueError if it is not a power of two.

    While a quantiser still collects statistics (the first training steps), Brevitas returns the raw
    scale; then the next power of two is taken, so that every integer stays in range.
    """
    scale = float(q.scale.detach())
    e = math.ceil(math.log2(scale))
    if 2.0**e != scale and not q.training:
        raise ValueError(f"scale {scale} is not a power of two")
    return e


def itype(q: IntQuantTensor) -> IntType:
    """Integer type of a quantised tensor."""
    return IntType(int(q.bit_width), bool(q.signed))


def dims(q: IntQuantTensor) -> tuple[int, ...]:
    """Shape as plain numbers; the ONNX tracer would give tensors."""
    return tuple(int(n) for n in q.value.shape)


def quant_tensor(value: Tensor, e: int, t: IntType, training: bool) -> IntQuantTensor:
    """Wrap scaled integers ``value`` (float, multiples of 2^e) of type ``t``."""
    return IntQuantTensor(
        value,
        torch.tensor(2.0**e),
        torch.tensor(0.0),
        torch.tensor(float(t.bits)),
        t.signed,
        training,
    )
