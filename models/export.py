# SPDX-License-Identifier: Apache-2.0
"""Trained network -> QONNX file, and its execution."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from brevitas.export import export_qonnx
from brevitas.nn import QuantIdentity
from onnx import TensorProto, helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.transformation.change_batchsize import ChangeBatchSize
from qonnx.transformation.fold_constants import FoldConstants
from qonnx.transformation.general import (
    GiveReadableTensorNames,
    RemoveStaticGraphInputs,
    RemoveUnusedTensors,
    SortGraph,
)
from qonnx.transformation.infer_shapes import InferShapes
from torch import Tensor

from sievit.models.qvit import QuantVisionTransformer
from sievit.quant.custom_op import DOMAIN, read_attributes

INPUT, OUTPUT = "patches", "logits"


def export(model: QuantVisionTransformer, path: Path) -> ModelWrapper:
    """Write the network as QONNX; node names are module names.

    Input ``patches`` float ``[1, T, patch_dim]`` (integer pixels times the pixel step), output
    ``logits`` float ``[1, 1, classes]``. The metadata property ``sievit.nm`` maps layer names to
    the N:M pattern that their weights promise. The same network gives the same bytes.
    """
    model.eval()
    example = torch.zeros(1, model.num_patches, model.patch_embed.patch_dim)
    part = path.with_suffix(".onnx.part")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns at every Python number of a core's parameters
        export_qonnx(
            model,
            args=example,
            export_path=str(part),
            dynamo=False,
            opset_version=17,
            input_names=[INPUT],
            output_names=[OUTPUT],
            custom_opsets={DOMAIN: 1},
        )
        wrapper = ModelWrapper(str(part))
        keep = ["Quant", *(n.op_type for n in wrapper.graph.node if n.domain == DOMAIN)]
        wrapper = infer_shapes(wrapper)
        for step in (
            FoldConstants(exclude_op_types=keep),
            RemoveUnusedTensors(),
            RemoveStaticGraphInputs(),
            SortGraph(),
            GiveReadableTensorNames(),
        ):
            wrapper = wrapper.transform(step)
    wrapper.rename_tensor(wrapper.graph.input[0].name, INPUT)
    wrapper.rename_tensor(wrapper.graph.output[0].name, OUTPUT)
    patterns = {n: "{}:{}".format(*m.nm) for n, m in model.matrices().items() if m.nm[1] > 1}
    wrapper.set_metadata_prop("sievit.nm", json.dumps(patterns, sort_keys=True))
    wrapper.set_metadata_prop("sievit.recipe", model.recipe.name)
    wrapper.save(str(part))
    os.replace(part, path)
    return wrapper


def infer_shapes(wrapper: ModelWrapper) -> ModelWrapper:
    """qonnx shape inference; the frame states, which it does not reach, are ``[B, 2]``."""
    batch = wrapper.get_tensor_shape(wrapper.graph.input[0].name)[0]
    known = {v.name for v in wrapper.graph.value_info}
    for node in wrapper.graph.node:
        if node.domain == DOMAIN and read_attributes(node)["makes_frames"]:
            name = node.output[1]
            if name not in known:
                info = helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 2])
                wrapper.graph.value_info.append(info)
    return wrapper.transform(InferShapes())


def first_difference(
    model: QuantVisionTransformer, tensors: dict[str, np.ndarray], wrapper: ModelWrapper, x: Tensor
) -> str | None:
    """Where the QONNX execution first leaves the QAT model: quantiser, image, token, channel.

    ``tensors``: result of :func:`execute` for the same ``x``. Quantisers are compared in the order
    of the ONNX graph; None if all agree.
    """
    seen: dict[str, list[Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, QuantIdentity):
            calls = seen.setdefault(name, [])
            hooks.append(
                module.register_forward_hook(lambda _, __, y, calls=calls: calls.append(y.value))
            )
    with torch.no_grad():
        model.eval()(x)
    for hook in hooks:
        hook.remove()
    for node in wrapper.graph.node:
        name = ".".join(node.name.strip("/").split("/")[:-3])
        if node.op_type != "Quant" or not seen.get(name):
            continue
        want, got = seen[name].pop(0), torch.from_numpy(tensors[node.output[0]])
        wrong = (want != got).nonzero()
        if len(wrong):
            i, t, c = (int(v) for v in wrong[0])
            a, b = float(want[i, t, c]), float(got[i, t, c])
            return f"{name}, image {i}, token {t}, channel {c}: {b} instead of {a}"
    return None


def execute(wrapper: ModelWrapper, x: Tensor) -> dict[str, np.ndarray]:
    """Every tensor of the QONNX graph by name, for float inputs ``[N, T, patch_dim]``, by qonnx."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batched = infer_shapes(wrapper.transform(ChangeBatchSize(len(x))))
        inputs = {batched.graph.input[0].name: x.numpy()}
        return execute_onnx(batched, inputs, return_full_exec_context=True)
