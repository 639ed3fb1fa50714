# SPDX-License-Identifier: Apache-2.0
"""Small quantised networks as a FINN user brings them, and the way to FINN's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.export import export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8WeightPerTensorFixedPoint,
    Uint8ActPerTensorFixedPoint,
)
from finn.builder.build_dataflow_config import DataflowBuildConfig
from finn.builder.build_dataflow_steps import step_minimize_bit_width_initial, step_tidy_up
from finn.transformation.fpgadataflow.convert_to_hw.conv_inp_gen import InferConvInpGen
from finn.transformation.fpgadataflow.convert_to_hw.quantized_matrix_vector_activation import (
    InferQuantizedMatrixVectorActivation,
)
from finn.transformation.fpgadataflow.convert_to_hw.thresholding import InferThresholdingLayer
from finn.transformation.fpgadataflow.prepare_ip import PrepareIP
from finn.transformation.fpgadataflow.specialize_layers import SpecializeLayers
from finn.transformation.streamline import Streamline
from finn.transformation.streamline.absorb import AbsorbTransposeIntoMultiThreshold
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.custom_op.registry import getCustomOp
from qonnx.transformation.base import Transformation
from qonnx.transformation.general import GiveUniqueNodeNames
from qonnx.transformation.infer_data_layouts import InferDataLayouts
from qonnx.transformation.infer_datatypes import InferDataTypes
from qonnx.transformation.infer_shapes import InferShapes
from qonnx.transformation.lower_convs_to_matmul import LowerConvsToMatMul
from qonnx.util.cleanup import cleanup_model
from torch import nn

PART, CLOCK_NS = "xczu9eg-ffvb1156-2-e", 5.0

ACT, UACT, WEIGHT = (
    Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint, Int8WeightPerTensorFixedPoint,
)  # fmt: skip


def mlp() -> nn.Module:
    """16 -> 24 -> 10."""
    four = {"bias": False, "weight_quant": WEIGHT, "weight_bit_width": 4}
    return nn.Sequential(
        qnn.QuantIdentity(act_quant=ACT, bit_width=6),
        qnn.QuantLinear(16, 24, **four),
        qnn.QuantReLU(act_quant=UACT, bit_width=4),
        qnn.QuantLinear(24, 10, **four),
        qnn.QuantIdentity(act_quant=ACT, bit_width=8),
    )


def cnn() -> nn.Module:
    """2 x 8 x 8, padded convolution of stride 2, then one over all that is left."""
    four = {"bias": False, "weight_quant": WEIGHT, "weight_bit_width": 4}
    return nn.Sequential(
        qnn.QuantIdentity(act_quant=ACT, bit_width=4),
        qnn.QuantConv2d(2, 4, 3, stride=2, padding=1, **four),
        qnn.QuantReLU(act_quant=UACT, bit_width=4),
        qnn.QuantConv2d(4, 6, 4, **four),
        qnn.QuantIdentity(act_quant=ACT, bit_width=6),
    )


SHAPES = {mlp: (1, 16), cnn: (1, 2, 8, 8)}


class Network:
    """One of them, with collected statistics, exported to QONNX."""

    def __init__(self, make: object, folder: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.shape = SHAPES[make]  # type: ignore[index]
        self.net: nn.Module = make()  # type: ignore[operator]
        for _ in range(4):
            self.net(torch.randn(64, *self.shape[1:]))
        self.net.eval()
        path = str(folder / "net.onnx")
        export_qonnx(
            self.net, args=torch.zeros(self.shape), export_path=path, dynamo=False, opset_version=17
        )
        self.qonnx: ModelWrapper = cleanup_model(ModelWrapper(path))

    def inputs(self, count: int, seed: int) -> list[np.ndarray]:
        """Multiples of 1/64 over the range of the input: about every other is a tie."""
        rng = np.random.default_rng(seed)
        return [(rng.integers(-128, 129, self.shape) / 64).astype(np.float32) for _ in range(count)]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """What PyTorch computes."""
        with torch.no_grad():
            y = self.net(torch.from_numpy(x))
        return np.asarray(getattr(y, "value", y)).reshape(-1)

    def wrong(self, model: ModelWrapper, inputs: list[np.ndarray]) -> int:
        """How many inputs of a graph give anything else than PyTorch."""
        return sum(bool((run(model, x) != self(x)).any()) for x in inputs)


def run(model: ModelWrapper, x: np.ndarray) -> np.ndarray:
    return execute_onnx(model, {model.graph.input[0].name: x})[model.graph.output[0].name].reshape(
        -1
    )


def to_layers(qonnx: ModelWrapper, convert: Transformation) -> ModelWrapper:
    """QONNX -> FINN's hardware layers, by its own transformations."""
    config = DataflowBuildConfig(
        output_dir="unused", synth_clk_period_ns=CLOCK_NS, generate_outputs=[], fpga_part=PART
    )
    model = step_tidy_up(qonnx.transform(convert), config)
    for step in (
        Streamline(), LowerConvsToMatMul(), AbsorbTransposeIntoMultiThreshold(), Streamline(),
        InferDataLayouts(), InferThresholdingLayer(), InferConvInpGen(),
        InferQuantizedMatrixVectorActivation(), InferShapes(), InferDataTypes(),
    ):  # fmt: skip
        model = model.transform(step)
    return step_minimize_bit_width_initial(model, config)


def to_rtl(model: ModelWrapper, part: str = PART, **attributes: int) -> ModelWrapper:
    """Specialise every layer to RTL, set these attributes of its nodes, generate their Verilog."""
    for node in model.graph.node:
        if node.domain == "finn.custom_op.fpgadataflow":
            getCustomOp(node).set_nodeattr("preferred_impl_style", "rtl")
    model = model.transform(SpecializeLayers(part)).transform(GiveUniqueNodeNames())
    for op in rtl_nodes(model):
        for name, value in attributes.items():
            op.set_nodeattr(name, value)
    return model.transform(PrepareIP(part, CLOCK_NS))


def rtl_nodes(model: ModelWrapper) -> list[Any]:
    """Custom ops of the nodes of FINN's RTL."""
    return [
        getCustomOp(n) for n in model.graph.node if n.domain == "finn.custom_op.fpgadataflow.rtl"
    ]
