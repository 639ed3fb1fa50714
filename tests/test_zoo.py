# SPDX-License-Identifier: Apache-2.0
"""train-zoo and bench-accuracy, end to end on a comparison of the digits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console
from test_models import small_data

from sievit.flow import zoo
from sievit.models import recipe as recipes
from sievit.models.recipe import RecipeError
from sievit.models.train import launch

RECIPE = """
[data]
source = "digits"

[model]
embed_dim = 8
depth = 2
num_heads = 2
mlp_ratio = 1.0

[sparsity]
weights = { "blocks.*" = "2:4" }
attention = { "blocks.*.attn" = "2:4" }

[selector]
blocks = [1]
keep = [0.4375]

[train]
batch_size = 20
float_epochs = 1
qat_epochs = 1
pruned_epochs = 1
exact = 0.0
"""

MATRIX = """
title = "digits"
recipes = ["small"]
methods = ["heatvit", "evit", "tome"]
patches = 16
tokens = [[12], [9]]

[patterns.dense]
weights = "1:1"
attention = "4:4"

[patterns."2:4"]
weights = "2:4"
attention = "2:4"
"""


@pytest.fixture
def matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> zoo.Matrix:
    (tmp_path / "small.toml").write_text(RECIPE)
    (tmp_path / "digits.toml").write_text(MATRIX)
    monkeypatch.setattr(zoo, "checkpoint_path", lambda r: tmp_path / "zoo" / f"{r.name}.pt")
    (tmp_path / "zoo").mkdir()
    return zoo.load(str(tmp_path / "digits.toml"))


@pytest.mark.slow
def test_train_and_measure(matrix: zoo.Matrix, tmp_path: Path) -> None:
    log = Console(record=True, file=(tmp_path / "log").open("w"), width=200)
    names = [p.name for p in matrix.points]
    assert len(names) == len(set(names)) == 1 + 2 * (1 + 3 * 2) + 1
    only = ["heatvit-dense-12", "dense-2_4", "tome-2_4-12", "small"]
    build, data, document = tmp_path / "build", small_data(), tmp_path / "accuracy.md"
    document.write_text("# Text\n<!-- digits -->\n<!-- /digits -->\nmore\n")
    arguments = (matrix, data, build, log, launch())
    assert zoo.train(*arguments, only, limit=0) == only  # at once out of time
    assert "the same command goes on" in log.export_text()
    assert zoo.train(*arguments, only) == []
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt")}
    assert zoo.train(*arguments, only) == []  # nothing to do
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.pt")}

    cpu = torch.device("cpu")
    missing = zoo.bench(matrix, data, build, log, cpu, document=document)
    assert set(missing) == set(names) - {*only, "qat_dense"}
    records = json.loads((tmp_path / "accuracy.json").read_text())["digits"]
    assert set(records) == {"float", "qat_dense", *only}
    assert all(r["images"] == 20 for r in records.values())
    macs = {k: r.get("macs") for k, r in records.items()}
    assert macs["dense-2_4"] < macs["qat_dense"] and macs["tome-2_4-12"] < macs["dense-2_4"]
    assert records["tome-2_4-12"]["tokens"] == [12] and not records["tome-2_4-12"]["hardware"]
    text = document.read_text()
    assert "ToMe: merging" in text and "Not measured yet: dense-dense, " in text
    assert "`small`:" in text and ("holds" in text or "is missed" in text)
    assert text.startswith("# Text\n") and text.endswith("\nmore\n")
    assert (tmp_path / "accuracy_digits.svg").read_text().startswith("<?xml")

    # a second call measures nothing; what was measured elsewhere stays
    said = len(log.export_text(clear=False))
    shutil.rmtree(build)
    assert zoo.bench(matrix, data, build, log, cpu, document=document) == missing
    assert "%" not in log.export_text(clear=False)[said:]


@pytest.mark.parametrize("name", ["cifar10", "cifar10_small"])
def test_points_share_everything_but_what_they_prune(name: str) -> None:
    found = zoo.load(name)
    base = found.shared
    for p in found.points:
        r = p.recipe
        assert (r.model, r.data, r.quant, r.train) == (
            base.model,
            base.data,
            base.quant,
            base.train,
        )
    methods = {p.method for p in found.points}
    assert methods == {"dense", "heatvit", "dynamicvit", "cls_topk", "evit", "tome", "random"}
    assert [r.name for r in found.zoo] == [f"heatvit_nm_{name}", f"heatvit_nm_{name}_4_16"]
    assert all(p.hardware == (p.method in ("dense", "heatvit")) for p in found.points)
    patterns = {(p.method, p.pattern) for p in found.points}
    assert patterns >= {(m, n) for m in methods for n in ("dense", "2:4")}
    for r in found.zoo:
        assert recipes.load(r.name) == r


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("recipes = []", "IndexError|KeyError|see "),
        ('recipes = ["nothing_such"]', "no recipe"),
        (MATRIX.replace("evit", "magic"), "no method 'magic'"),
        ("recipes = [", "see "),
    ],
)
def test_wrong_comparisons_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(RECIPE)
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(RecipeError, match=reason):
        zoo.load(str(tmp_path / "wrong.toml"))
    with pytest.raises(RecipeError, match="no comparison 'none'; known: cifar10"):
        zoo.load("none")
