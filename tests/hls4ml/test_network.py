# SPDX-License-Identifier: Apache-2.0
"""The default model through hls4ml, whole; and the script of docs/hls4ml.md as a user would run it.

Minutes, and outside the default suite: ``make test-hls4ml``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import plain_vit
import torch
from qonnx.core.onnx_exec import execute_onnx
from test_hls import VITIS_PORT

from sievit.hls import csim, hls4ml_plugin

ROOT = Path(__file__).resolve().parents[2]


def sievit(folder: Path, *arguments: str) -> str:
    code = "from sievit.flow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def vitis_sees(project: Path, scratch: Path) -> None:
    """Compile what Vitis would see; our headers are free of warnings."""
    (scratch / "ap_axi_sdata.h").write_text(VITIS_PORT)
    (source,) = (project / "firmware").glob("*.cpp")
    flags = "-std=c++17 -DSIEVIT_VITIS -DAP_INT_MAX_W=4096 -fsyntax-only".split()
    flags += [f for f in csim.FLAGS if f.startswith("-W") and f != "-Werror"]
    include = ["-isystem", str(csim.ap_types()), "-I", str(scratch)]
    done = subprocess.run(["g++", *flags, *include, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert not [v for v in lines if "firmware/sievit" in v and "warning" in v]


def test_plain_transformer(tmp_path: Path, seed: int) -> None:
    """Of any seed: predict gives what the integers of the rewritten model give, for every input."""
    vit = plain_vit.trained(seed)
    x = 2 * torch.randn(200, plain_vit.TOKENS, plain_vit.DIM)
    model = plain_vit.export(vit, tmp_path / "vit.onnx", x[:1])
    prepared = hls4ml_plugin.prepare(model)
    (source,), (sink,) = prepared.graph.input, prepared.graph.output
    runs = [execute_onnx(prepared, {source.name: v.numpy()})[sink.name] for v in x.split(1)]
    made = plain_vit.convert(model, tmp_path / "project", "xczu9eg-ffvb1156-2-e")
    made.compile()
    assert np.array_equal(made.predict(x.numpy()), np.concatenate(runs))
    vitis_sees(tmp_path / "project", tmp_path)


def test_default_model(tmp_path: Path) -> None:
    """Every logit of every test image."""
    out = sievit(tmp_path, "build", "--backend", "hls4ml", "--board", "zcu102")
    folder = tmp_path / "build" / "zcu102" / "heatvit_nm_digits" / "hls4ml"
    report = json.loads((folder / "report.json").read_text())
    for pair in ("qat_qonnx", "qonnx_graph", "graph_hls4ml"):
        assert report["equal"][pair] == {"images": 360, "mismatches": 0, "stalled": 0}, out
    layers = {v["name"]: v["class"] for v in report["layers"]}
    assert layers["patch_embed_proj"] == layers["head"] == "PointwiseConv1D"
    cores = {
        f"Sievit{n}" for n in ("NmMatmul", "Attention", "Layernorm", "TokenSelect", "PosEmbed")
    }
    assert cores <= set(layers.values())
    assert (
        report["cycles"]["source"] and "Unsupported operation type" in report["stock"]["exception"]
    )


def test_documented_script(tmp_path: Path) -> None:
    """The first Python block of the documentation, in an empty folder."""
    text = (ROOT / "docs" / "hls4ml.md").read_text()
    found = re.search(r"```python\n(.*?)```", text, re.S)
    assert found
    (tmp_path / "vit.py").write_text(found[1])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "vit.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "200 of 200 equal"
