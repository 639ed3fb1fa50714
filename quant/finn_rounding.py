# SPDX-License-Identifier: Apache-2.0
"""QONNX to FINN without a change of value.

FINN (finn-plus 1.6.1) turns every quantiser into thresholds at (n - 1/2) * scale and counts those
that x reaches: it rounds half up, whatever the quantiser's ``rounding_mode``. Brevitas rounds half
to even. With power-of-two scales ties are common, and the converted network differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
from finn.transformation.qonnx.qonnx_activation_handlers import QuantActBaseHandler
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.general.intquant import resolve_rounding_mode
from qonnx.custom_op.registry import getCustomOp

from sievit.quant.errors import SievitError

Rounding = Callable[[np.ndarray], np.ndarray]


class ConvertQONNXtoFINNExact(ConvertQONNXtoFINN):  # type: ignore[misc]
    """FINN's ``ConvertQONNXtoFINN`` with thresholds that do what the quantisers do.

    Takes its place and its argument ``filter_function``. Every rounding mode of QONNX and every
    scale give the integers of QONNX execution, for every float32 input. FINN's streamlining keeps
    that while scales are powers of two and layers have no bias: what it subtracts from a threshold
    in float32 may round it back onto the tie. Identity and ReLU quantisers of 2 bits and more are
    made exact; bipolar and 1-bit ones stay as FINN makes them.

    Raises SievitError for a quantised Selu, whose thresholds FINN only approximates.
    """

    def apply(self, model: ModelWrapper) -> tuple[ModelWrapper, bool]:
        with _exact_thresholds():
            return super().apply(model)  # type: ignore[no-any-return]


@contextmanager
def _exact_thresholds() -> Iterator[None]:
    stock = QuantActBaseHandler.calculate_node_parameters

    def calculate_node_parameters(handler: Any) -> dict[str, Any]:
        found: dict[str, Any] = stock(handler)
        node, model = handler._q_node, handler._model
        if node.op_type != "Quant" or float(model.get_initializer(node.input[3]).item()) == 1:
            return found
        before = model.find_direct_predecessors(node)
        if before and before[0].op_type == "Selu":
            raise SievitError(
                f"{node.name} quantises the Selu {before[0].name}, of which FINN's thresholds are "
                "an approximation; use a ReLU, or leave it to FINN's ConvertQONNXtoFINN"
            )
        lowest = int(np.asarray(found["adder_bias"]).item())
        levels = lowest + 1 + np.arange(found["thresholds"].shape[1])
        scale = np.asarray(model.get_initializer(node.input[1]), np.float32).reshape(-1)
        mode = resolve_rounding_mode(getCustomOp(node).get_nodeattr("rounding_mode"))
        found["thresholds"] = exact_thresholds(levels, scale, mode)
        return found

    QuantActBaseHandler.calculate_node_parameters = calculate_node_parameters
    try:
        yield
    finally:
        QuantActBaseHandler.calculate_node_parameters = stock


def exact_thresholds(levels: np.ndarray, scale: np.ndarray, rounding: Rounding) -> np.ndarray:
    """The smallest float32 that each level begins at.

    Args:
        levels: int ``[K]``.
        scale: float32 ``[C]``, positive.
        rounding: what QONNX's rounding mode does to floats; monotone, moves by 1 at most.

    Returns float32 ``[C, K]``: the smallest x with rounding(x / scale) >= level, the division in
    float32. Found by bisection over all floats in order.
    """
    scale, levels = scale.astype(np.float32)[:, None], levels.astype(np.float32)[None, :]
    below, above = _ordinal((levels - 2) * scale), _ordinal((levels + 1) * scale)
    while (above - below > 1).any():
        middle = (below + above) // 2
        reached = rounding(_from_ordinal(middle) / scale) >= levels
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return _from_ordinal(above)


def _ordinal(x: np.ndarray) -> np.ndarray:
    """int64 that counts the floats from 0: the next float has the next number."""
    bits = x.astype(np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def _from_ordinal(number: np.ndarray) -> np.ndarray:
    magnitude = np.abs(number).astype(np.int32).view(np.float32)
    return np.where(number < 0, -magnitude, magnitude).astype(np.float32)
