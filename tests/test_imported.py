# SPDX-License-Identifier: Apache-2.0
"""A network of integers in HG-PIPE's format: read, executed and built, bit for bit the same."""

from __future__ import annotations

import dataclasses
import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hgpipe_network import Network
from rich.console import Console

from sievit.boards import board as boards
from sievit.flow.build import BuildError
from sievit.flow.imported import RANDOM_IMAGES, ImportedBuild
from sievit.models import hgpipe
from sievit.models.imported import FormatError, Imported
from sievit.quant.execute import execute


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Path:
    path = tmp_path_factory.mktemp("hgpipe") / "small.npz"
    np.savez(path, **Network(seed).a)  # type: ignore[arg-type]
    return path


def check(model: Imported) -> None:
    edges = execute(model.graph, model.images)
    assert model.graph.output.name in model.published
    for name, want in model.published.items():
        assert torch.equal(edges[name].data, want), name


def test_every_published_edge_is_equal(archive: Path) -> None:
    model = hgpipe.load(archive)
    assert len(model.published) == 2 + 2 * 2
    check(model)


@pytest.mark.skipif("HGPIPE_NPZ" not in os.environ, reason="HGPIPE_NPZ=path of the published .npz")
def test_published_deit_tiny() -> None:
    check(hgpipe.load(Path(os.environ["HGPIPE_NPZ"])))


def test_saved_and_loaded(archive: Path, tmp_path: Path) -> None:
    model = hgpipe.load(archive)
    for _ in range(2):  # the second time over the first
        model.save(tmp_path / "model")
    again = Imported.load(tmp_path / "model")
    assert again.graph.nodes[5].params == model.graph.nodes[5].params
    check(again)


def test_refuses_other_files(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no such file"):
        hgpipe.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(FormatError, match="no archive of arrays"):
        hgpipe.load(tmp_path / "text.npz")
    arrays = dict(np.load(archive))
    del arrays["attn_1_k_q_table_m"]
    np.savez(tmp_path / "part.npz", **arrays)
    with pytest.raises(FormatError, match="no array 'attn_1_k_q_table_m'"):
        hgpipe.load(tmp_path / "part.npz")


def build(source: Path, folder: Path, log: io.StringIO) -> ImportedBuild:
    return ImportedBuild(
        name="small",
        source=source,
        board=dataclasses.replace(boards.load("zcu102"), lut=60_000),
        folder=folder,
        console=Console(file=log, width=200),
        rtl_images=5,
    )


@pytest.mark.slow
def test_build(archive: Path, tmp_path: Path) -> None:
    """The published image and random ones through all views."""
    hgpipe.load(archive).save(tmp_path / "model")
    result = build(tmp_path / "model", tmp_path / "build", io.StringIO()).run()
    equal = {k: (v["images"], v["mismatches"]) for k, v in result["equal"].items()}
    assert equal == {"published": (1, 0), "graph_hls": (1 + RANDOM_IMAGES, 0), "graph_rtl": (5, 0)}
    assert (tmp_path / "build" / "report.html").is_file()


def test_other_logits_than_published_fail_the_build(archive: Path, tmp_path: Path) -> None:
    model = hgpipe.load(archive)
    model.published["blocks_1_add"][0, 3, 2] += 1
    model.save(tmp_path / "model")
    log = io.StringIO()
    made = build(tmp_path / "model", tmp_path / "build", log)
    made.front()
    assert "edge blocks_1_add, frame 0, token 3, channel 2" in log.getvalue()
    with pytest.raises(BuildError, match="published: 1 of 1 images differ"):
        from sievit.flow.build import check_equal

        check_equal(made.equal, made.pairs)
