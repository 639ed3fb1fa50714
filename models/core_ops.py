# SPDX-License-Identifier: Apache-2.0
"""Cores inside a PyTorch model: exact integer forward, straight-through backward, QONNX export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sievit.quant.custom_op import DOMAIN, CoreCall
from sievit.quant.params import camel, most_tokens


class _Core(torch.autograd.Function):
    """Forward: the golden function on scaled integers. Backward: the gradient goes to
    ``surrogate``.
    """

    @staticmethod
    def forward(
        ctx: Any, surrogate: Tensor | None, call: CoreCall, frames: Tensor | None, *data: Tensor
    ) -> Any:
        # the ONNX tracer must see this call, not the integer operations inside it
        tracing, tracer = torch._C._get_tracing_state(), torch._C
        tracer._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            y, state = call.run([d.detach() for d in data], frames)
        finally:
            tracer._set_tracing_state(tracing)  # type: ignore[attr-defined]
        if surrogate is not None and y.shape != surrogate.shape:
            raise ValueError(
                f"{call.stem}: surrogate {tuple(surrogate.shape)}, core {tuple(y.shape)}"
            )
        if call.makes_frames:
            ctx.mark_non_differentiable(state)
            return y, state
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        return (grad, *[None] * (len(ctx.needs_input_grad) - 1))

    @staticmethod
    def symbolic(g: Any, surrogate: Any, call: CoreCall, frames: Any, *data: Any) -> Any:
        """ONNX node of the core; the surrogate is not part of the file."""
        kinds = {int: "i", str: "s", list: "i"}
        attributes = {
            f"{k}_{kinds[type(v)]}": v for k, v in call.attributes().items() if k != "constants"
        }
        names = sorted(call.constants)
        if names:
            attributes["constants_s"] = names
        constants = [g.op("Constant", value_t=call.constants[n].float()) for n in names]
        state = [frames] if call.frames else []
        outputs = 2 if call.makes_frames else 1
        made = g.op(
            f"{DOMAIN}::{camel(call.stem)}",
            *data,
            *state,
            *constants,
            outputs=outputs,
            **attributes,
        )
        values = [made] if outputs == 1 else list(made)
        p = call.params
        data_size = [1, most_tokens(p, p.max_tokens), p.output().channels]
        sizes: list[list[int | None]] = [[*data_size], [1, 2]]
        for value, size in zip(values, sizes, strict=False):
            value.setType(torch._C.TensorType.get().with_sizes(size).with_dtype(torch.float32))
        return made


def apply_core(
    call: CoreCall,
    surrogate: Callable[[], Tensor],
    data: list[Tensor],
    frames: Tensor | None = None,
) -> Any:
    """Exact value of a core with the gradient of ``surrogate``.

    Args:
        surrogate: makes the smooth, differentiable counterpart float ``[B, T, C]`` of the result;
            called only when gradients are wanted.
        data: scaled integers float ``[B, T, C]``, one per input port.
        frames: float ``[B, 2]`` (tokens alive, package flag), or None for full frames.

    Returns:
        float ``[B, T, C]``; with ``call.makes_frames`` a pair with the new frames.
    """
    smooth = surrogate() if torch.is_grad_enabled() else None
    return _Core.apply(smooth, call, frames if call.frames else None, *data)
