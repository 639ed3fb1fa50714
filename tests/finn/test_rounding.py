# SPDX-License-Identifier: Apache-2.0
"""QONNX -> FINN keeps every value."""

from pathlib import Path

import numpy as np
import pytest
from finn.transformation.qonnx.convert_qonnx_to_finn import ConvertQONNXtoFINN
from nets import Network, cnn, mlp, to_layers
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.custom_op.general.intquant import int_quant, resolve_rounding_mode
from qonnx.util.basic import qonnx_make_model

from sievit.quant.errors import SievitError
from sievit.quant.finn_rounding import ConvertQONNXtoFINNExact, exact_thresholds


@pytest.mark.parametrize("make", [mlp, cnn])
def test_network(make: object, tmp_path: Path, seed: int) -> None:
    """FINN's conversion changes values, this one does not, down to the hardware layers."""
    net = Network(make, tmp_path, seed)
    inputs = net.inputs(20, seed)
    assert net.wrong(net.qonnx, inputs) == 0
    assert net.wrong(net.qonnx.transform(ConvertQONNXtoFINN()), inputs) > 0
    assert net.wrong(net.qonnx.transform(ConvertQONNXtoFINNExact()), inputs) == 0
    assert net.wrong(to_layers(net.qonnx, ConvertQONNXtoFINN()), inputs) > 0
    assert net.wrong(to_layers(net.qonnx, ConvertQONNXtoFINNExact()), inputs) == 0


@pytest.mark.parametrize(
    "mode", ["ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN"]
)
@pytest.mark.parametrize("signed", [False, True])
def test_thresholds(mode: str, signed: bool, seed: int) -> None:
    """Counting thresholds equals QONNX's quantiser at, next to and between every level, for
    power-of-two scales and any other."""
    rng = np.random.default_rng(seed)
    scale = np.array([0.25, 2.0**-7, *rng.uniform(1e-3, 3, 6)], np.float32)
    levels = np.arange(-7, 8) if signed else np.arange(1, 16)
    found = exact_thresholds(levels, scale, resolve_rounding_mode(mode))
    assert found.dtype == np.float32 and found.shape == (8, 15)
    near = np.concatenate(
        [(levels + d) * scale[:, None] for d in (-1, -0.5, 0, 0.5, 1)] + [found], axis=1
    ).astype(np.float32)
    x = np.concatenate([near, *(np.nextafter(near, np.float32(s * np.inf)) for s in (-1, 1))], 1)
    x = np.concatenate([x, rng.uniform(-9, 17, (8, 200)).astype(np.float32) * scale[:, None]], 1)
    counted = (x[:, :, None] >= found[:, None, :]).sum(2) + levels[0] - 1
    want = int_quant(x, scale[:, None], 0, np.array(4), signed, 0, mode) / scale[:, None]
    np.testing.assert_array_equal(counted, np.rint(want))


def test_selu_is_refused() -> None:
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Selu", ["x"], ["h"]),
        helper.make_node(
            "Quant", ["h", "scale", "zero", "bits"], ["y"], name="the_quantiser",
            domain="qonnx.custom_op.general", signed=1, narrow=0, rounding_mode="ROUND",
        ),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "selu",
        [value("x", TensorProto.FLOAT, [1, 4])],
        [value("y", TensorProto.FLOAT, [1, 4])],
    )
    model = ModelWrapper(qonnx_make_model(graph))
    for name, number in (("scale", 0.5), ("zero", 0.0), ("bits", 4.0)):
        model.set_initializer(name, np.array(number, np.float32))
    model.set_tensor_shape("h", [1, 4])
    with pytest.raises(SievitError, match="the_quantiser quantises the Selu"):
        model.transform(ConvertQONNXtoFINNExact())
