# SPDX-License-Identifier: Apache-2.0
"""Pruned variants of an imported network: what is pruned, how many tokens stay, and a build."""

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
from sievit.flow.imported import RANDOM_IMAGES, ImportedBuild
from sievit.models import hgpipe, variants
from sievit.models.imported import Imported
from sievit.models.variants import VARIANTS, Variant, VariantError
from sievit.quant import fold
from sievit.quant.cores.attention import AttentionParams
from sievit.quant.cores.nm_matmul import NmMatmulParams
from sievit.quant.cores.token_select import TokenSelectParams
from sievit.quant.execute import execute
from sievit.quant.params import Stream

TOKENS, PIXELS, CHANNELS, BLOCKS = 20, 8, 48, 4


def network(path: Path, seed: int, **sizes: int) -> Path:
    given = {"tokens": TOKENS, "pixels": PIXELS, "channels": CHANNELS, "hidden": CHANNELS}
    np.savez(path, **Network(seed, **{**given, "blocks": BLOCKS, **sizes}).a)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Imported:
    return hgpipe.load(network(tmp_path_factory.mktemp("hgpipe") / "small.npz", seed))


def frames(model: Imported, seed: int, count: int = 6) -> Stream:
    """The published images and random ones."""
    rng = torch.Generator().manual_seed(seed)
    t, shape = model.graph.input.itype, (count, *model.images.data.shape[1:])
    noise = torch.randint(t.min, t.max + 1, shape, generator=rng)
    return Stream.full(torch.cat([model.images.data, noise]))


def by_magnitude(weight: np.ndarray, n: int, m: int) -> np.ndarray:
    """N:M of every row, one group after the other; ties to the lower index."""
    out = np.zeros_like(weight)
    for row, old in zip(out, weight, strict=True):
        for start in range(0, len(row), m):
            group = list(range(start, start + m))
            for i in sorted(group, key=lambda i: (-abs(int(old[i])), i))[:n]:
                row[i] = old[i]
    return out


def check(model: Imported, name: str, x: Stream, prunes_embed: bool) -> None:
    """The variant keeps N of M, exact counts of tokens, and published values where they hold."""
    made, variant = variants.make(model, name), VARIANTS[name]
    (n, m), blocks = variant.weights, sum("norm1" in node.name for node in model.graph.nodes)
    assert made.graph.name == f"deit_tiny_{name}"
    matrices = 0
    for old in model.graph.nodes:
        new = made.graph.node(old.name)
        if isinstance(new.params, NmMatmulParams):
            dense = m == 1 or (old.name == "patch_embed_proj" and not prunes_embed)
            assert (new.params.n, new.params.m) == ((1, 1) if dense else (n, m))
            want, got = old.constants["weight"].numpy(), new.constants["weight"].numpy()
            assert np.array_equal(got, want if dense else by_magnitude(want, n, m)), old.name
            new.params.compressed(new.constants["weight"])
            matrices += not dense
        if isinstance(new.params, AttentionParams):
            assert (new.params.n, new.params.m) == (variant.attention or (4, 4))
    assert matrices == (0 if m == 1 else 6 * blocks + 1 + prunes_embed)

    edges = execute(made.graph, x)
    tokens = x.data.shape[1] + 1
    alive = [-(-tokens * k // 100) for k in variant.keep]
    places = [blocks * (i + 1) // 4 for i in range(len(alive))]
    for block in range(blocks):
        past = [a for a, p in zip(alive, places, strict=True) if p <= block]
        length = past[-1] + 1 if past else tokens  # with the package token
        for edge in (f"blocks_{block}_attn_attention", f"blocks_{block}_add_1"):
            assert edges[edge].length.unique().tolist() == [length], edge
            assert edges[edge].package.all() if past else not edges[edge].package.any()
            assert made.graph.node(edge).params.max_tokens == length
            assert made.graph.max_tokens(edge) == length
    found = [node.params.topk for node in made.graph.nodes if node.core == "token_select"]
    assert found == [a - 1 for a in alive]
    for node in made.graph.nodes:
        if isinstance(node.params, TokenSelectParams):
            scores = edges[node.inputs[1]]
            lengths = [int(t) for t in scores.length]
            distinct = [len(scores.frame(i).unique()) for i in range(len(lengths))]
            assert sum(distinct) > 0.4 * sum(lengths), node.name
    for edge, want in made.published.items():
        assert torch.equal(edges[edge].data[: len(want)], want), edge
    reached = [k for k in model.published if k not in made.published]
    assert (not reached) == (name == "dense")


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name: str, small: Imported, seed: int) -> None:
    check(small, name, frames(small, seed), prunes_embed=PIXELS % VARIANTS[name].weights[1] == 0)


@pytest.mark.skipif("HGPIPE_NPZ" not in os.environ, reason="HGPIPE_NPZ=path of the published .npz")
@pytest.mark.parametrize("name", VARIANTS)
def test_variant_of_the_published(name: str) -> None:
    model = hgpipe.load(Path(os.environ["HGPIPE_NPZ"]))
    check(model, name, model.images, prunes_embed=True)


def test_published_values_before_the_first_selector(small: Imported) -> None:
    """Nothing but selectors: blocks and patch embedding in front of them are the published ones."""
    kept = set(variants.make(small, "dense_pruned").published)
    assert kept == {"pos_embed", "blocks_0_add", "blocks_0_add_1"}


def test_buffers_shrink_behind_a_selector(small: Imported) -> None:
    """Without a profile of images, too."""
    device = boards.load("zcu102").device()
    budget = dataclasses.replace(boards.load("vck190")).budget()
    design = fold.fold(variants.make(small, "2_4_pruned").graph, budget, ii=20_000, device=device)
    waits = [design.node(f"blocks_{i}_add").depths[0] for i in range(BLOCKS)]
    assert waits == sorted(waits, reverse=True) and waits[0] > waits[-1]


def test_refusals(small: Imported, tmp_path: Path, seed: int) -> None:
    with pytest.raises(VariantError, match="no variant '1_2'; known: dense, dense_pruned, 2_4"):
        variants.make(small, "1_2")
    narrow = hgpipe.load(network(tmp_path / "narrow.npz", seed, channels=12, hidden=24))
    with pytest.raises(VariantError, match="blocks_0_attn_q: 16 does not divide its 12 inputs"):
        variants.make(narrow, "4_16")
    shallow = hgpipe.load(network(tmp_path / "shallow.npz", seed, blocks=3))
    with pytest.raises(VariantError, match="3 blocks are too few for 3 selectors; take a variant"):
        variants.make(shallow, "dense_pruned")
    short = hgpipe.load(network(tmp_path / "short.npz", seed, tokens=2))
    with pytest.raises(VariantError, match="50 % of 2 tokens are the class token alone"):
        variants.make(short, "dense_pruned")


@pytest.mark.slow
def test_build(tmp_path: Path, seed: int) -> None:
    """N:M weights and rows, and a selector, through all views; nothing of it is published."""
    model = hgpipe.load(network(tmp_path / "tiny.npz", seed, tokens=9, channels=12, blocks=2))
    made = variants.make(model, "tiny", Variant((2, 4), (2, 4), (60,)))
    made.save(tmp_path / "model")
    assert not Imported.load(tmp_path / "model").published
    result = ImportedBuild(
        name="deit_tiny_tiny",
        source=tmp_path / "model",
        board=dataclasses.replace(boards.load("zcu102"), lut=60_000),
        folder=tmp_path / "build",
        console=Console(file=io.StringIO(), width=200),
        rtl_images=5,
    ).run()
    equal = {k: (v["images"], v["mismatches"]) for k, v in result["equal"].items()}
    assert equal == {"graph_hls": (1 + RANDOM_IMAGES, 0), "graph_rtl": (5, 0)}
    assert result["pairs"] == ["graph_hls", "graph_rtl"]
    assert result["tokens"] == {"patches": 8, "stages": [5.0]}
    assert result["macs"]["executed"] < result["macs"]["dense"]
    assert (tmp_path / "build" / "report.html").is_file()
