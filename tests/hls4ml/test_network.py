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

ROOT = Path(__file__).resolve().parents[2]


def sievit(folder: Path, *arguments: str) -> str:
    code = "from sievit.flow.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
