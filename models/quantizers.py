# SPDX-License-Identifier: Apache-2.0
"""Brevitas quantisers of the models: per tensor, power-of-two scales, round half to even.

Activation scales are collected over the first training steps and are fixed parameters from then on,
so nothing after training changes an integer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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

#: forward passes that need gradients compute the smooth counterparts of the cores
_SMOOTH = ContextVar("smooth", default=False)


@contextmanager
def smooth_forward() -> Iterator[None]:
    """Within, passes that need gradients compute the smooth counterparts of the cores, rounded to
    the cores' grid, instead of the cores' integers: no tables, and nothing read back from a GPU.

    A result may then differ by the error of a core's tables. Where frames change their length the
    cores still decide. The scale of weights gets no gradient."""
    token = _SMOOTH.set(True)
    try:
        yield
    finally:
        _SMOOTH.reset(token)


def is_smooth() -> bool:
    """``smooth_forward`` is in force."""
    return _SMOOTH.get() and torch.is_grad_enabled()


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
        self.weight_bits = bits
        self.groups = groups
        self.nm = (1, 1)
        self.mask: Tensor
        self.register_buffer("mask", torch.block_diag(*blocks).bool())
        bound = math.sqrt(1.0 / (in_features // groups))
        nn.init.uniform_(self.weight, -bound, bound)
        self.project()

    def forward(self, x: Any) -> Any:
        if not is_smooth():
            return super().forward(x)
        with torch.no_grad():  # the least power of two above the largest magnitude spans all bits
            top = self.weight.abs().max().clamp(min=2.0**-24).log2().ceil()
            step = 2.0 ** (top - (self.weight_bits - 1))
        limit = 2 ** (self.weight_bits - 1) - 1
        weight = _RoundBy.apply(self.weight, step, limit)
        bias = None
        if self.bias is not None:
            bias = _RoundBy.apply(self.bias, step * 2.0 ** exponent(x), 2**31 - 1)
        return nn.functional.linear(x.value, weight, bias)

    @torch.no_grad()
    def project(self) -> None:
        """Set the masked weights to zero."""
        self.weight.mul_(self.mask)


class QuantActivation(qnn.QuantIdentity):
    """Quantiser of a signed activation.

    In training, once the scale is fixed, it rounds to the known grid itself: the same values and
    gradients, without computing the scale and reading it back from a GPU.
    """

    def forward(self, x: Any) -> Any:
        if not self.training:
            return super().forward(x)
        scaling = self.act_quant.fused_activation_quant_proxy.tensor_quant.scaling_impl
        fixed = scaling.counter > scaling.collect_stats_steps and not scaling.value.requires_grad
        known = getattr(self, "_grid", None)
        if fixed and known and known[0] == scaling.value._version:
            _, e, t = known
            value = x.value if isinstance(x, IntQuantTensor) else x
            return quant_tensor(round_to_grid(value, e, t), e, t, True)
        y = super().forward(x)
        if fixed:
            self._grid = (scaling.value._version, exponent(y), itype(y))
        return y


class QuantPixels(qnn.QuantIdentity):
    """Quantiser of pixels; they lie on its grid."""

    def __init__(self, levels: int) -> None:
        bits, scale = levels.bit_length(), input_scale(levels)
        super().__init__(
            act_quant=UintInputPoT,
            bit_width=bits,
            scaling_init=scale * 2**bits,
            return_quant_tensor=True,
        )
        self.grid = round(math.log2(scale)), IntType(bits, False)

    def forward(self, x: Any) -> Any:
        return quant_tensor(x, *self.grid, True) if is_smooth() else super().forward(x)


def act(bits: int, percentile: float = 99.9) -> nn.Module:
    """Quantiser of a signed activation of ``bits`` bits; the range covers ``percentile`` %."""
    return QuantActivation(
        act_quant=IntActPerTensorPoT,
        bit_width=bits,
        high_percentile_q=percentile,
        return_quant_tensor=True,
    )


def pixels(levels: int) -> nn.Module:
    """Quantiser of pixels ``0..levels`` given as ``x / 2^ceil(log2 levels)``."""
    return QuantPixels(levels)


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


def collecting(model: nn.Module) -> list[nn.Module]:
    """Scales that are not fixed yet; their tensors are ``buffer`` and ``value``."""
    found: list[Any] = [m for m in model.modules() if hasattr(m, "collect_stats_steps")]
    return [m for m in found if m.counter <= m.collect_stats_steps]


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
    """Wrap scaled integers ``value`` (float, multiples of 2^e) of type ``t``.

    Scale and width are known here: they stay on the CPU, where reading them waits for no device.
    """
    scale, zero, bits = (torch.tensor(v, device="cpu") for v in (2.0**e, 0.0, float(t.bits)))
    return IntQuantTensor(value, scale, zero, bits, t.signed, training)


class _Round(torch.autograd.Function):
    """The nearest multiple of 2^e in the range of a type; the gradient stops at its ends."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, e: int, low: int, high: int) -> Tensor:
        y = (x * 2.0**-e).round_()
        ctx.save_for_backward(y)
        ctx.ends = low - 0.5, high + 0.5
        return y.clamp(low, high).mul_(2.0**e)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        # one vectorised pass; a product with a mask of bool is several times slower on a CPU
        (y,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(grad, y, *ctx.ends), None, None, None


class _RoundBy(torch.autograd.Function):
    """The nearest multiple of a step, float ``[]``, at most ``limit`` steps; gradient as above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, limit: int) -> Tensor:
        y = (x / step).round_()
        ctx.save_for_backward(y.abs() <= limit)
        return y.clamp_(-limit, limit).mul_(step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None


def round_to_grid(x: Tensor, e: int, t: IntType) -> Tensor:
    """``x``, float, rounded half to even to multiples of 2^e within the range of ``t``; the
    gradient passes within that range."""
    return _Round.apply(x, e, t.min, t.max)  # type: ignore[no-any-return]
