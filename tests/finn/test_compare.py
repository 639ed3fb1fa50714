# SPDX-License-Identifier: Apache-2.0
"""What a comparison says of FINN as it comes."""

from __future__ import annotations

from pathlib import Path

import torch
from brevitas.export import export_qonnx
from nets import PART, mlp
from onnx import TensorProto, helper, save

from sievit.flow.compare import stock_finn


def test_stock_finn_says_where_it_stops(tmp_path: Path) -> None:
    """A plain network goes through; an operator that FINN does not know ends it, by name."""
    torch.manual_seed(1)
    net = mlp().eval()
    path = tmp_path / "mlp.onnx"
    export_qonnx(
        net, args=torch.zeros(1, 16), export_path=str(path), dynamo=False, opset_version=17
    )
    found = stock_finn(path, PART, 600)
    assert found["stage"] == "done" and found["exception"] is None, found
    known = ("x", TensorProto.FLOAT, [1, 4]), ("y", TensorProto.FLOAT, [1, 4])
    info = [helper.make_tensor_value_info(*one) for one in known]
    graph = helper.make_graph([helper.make_node("Erf", ["x"], ["y"])], "net", info[:1], info[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "e.onnx")
    found = stock_finn(tmp_path / "e.onnx", PART, 600)
    assert found["stage"] == "step_create_dataflow_partition", found
    assert "1 Erf" in found["left"] and found["text"].startswith(f"{found['stage']}: ")
