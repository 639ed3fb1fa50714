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
from numpy.typing import NDArray
from rich.console import Console

from sievit.boards import board as boards
from sievit.flow.build import BuildError
from sievit.flow.imported import ImportedBuild
from sievit.models import hgpipe
from sievit.models.imported import FormatError, Imported
from sievit.quant.execute import execute

Array = NDArray[np.int64]

TOKENS, PIXELS, CHANNELS, HIDDEN, CLASSES, BLOCKS = 7, 6, 12, 24, 5, 2


class Network:
    """A small random network in the published format, and its values by the published formulas."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.a: dict[str, Array] = {}
        a = self.a
        x = a["patch_embed_input"] = self.draw(-128, 127, TOKENS, PIXELS)
        acc = x @ self.weights("patch_embed", CHANNELS, PIXELS, 127).T
        acc += self.bias("patch_embed", (TOKENS, CHANNELS), 20_000)
        acc[0] = a["patch_embed_cls"] = self.draw(-20_000, 20_000, CHANNELS)
        a["patch_embed_scalars"] = np.array([5])
        y = a["patch_embed_output"] = (acc + 16) >> 5
        for i in range(BLOCKS):
            y = a[f"attn_{i}_output"] = self.attention(f"attn_{i}", y)
            y = a[f"mlp_{i}_output"] = self.mlp(f"mlp_{i}", y)
        z = self.norm("head_lnq", y[:1], 8)
        a["network_output"] = (z @ self.weights("head", CLASSES, CHANNELS, 127).T)[0]
        a["network_output"] += self.bias("head", (CLASSES,), 5000)

    def draw(self, low: int, high: int, *shape: int) -> Array:
        return self.rng.integers(low, high + 1, shape)

    def weights(self, name: str, rows: int, columns: int, high: int = 3) -> Array:
        w = self.draw(-high - 1, high, rows, columns)
        self.a[f"{name}_matmul_weight"] = w
        return w

    def bias(self, name: str, shape: tuple[int, ...], high: int) -> Array:
        b = self.draw(-high, high, *shape)
        self.a[f"{name}_matmul_bias"] = b
        return b

    def linear(self, name: str, x: Array, rows: int) -> Array:
        return x @ self.weights(name, rows, x.shape[1]).T + self.bias(name, (rows,), 50)

    def table(self, name: str, z: Array, low: int) -> Array:
        values = self.a[f"{name}_table_m"] = np.sort(self.draw(low, low + 7, 64))
        span = int(z.max() - z.min())
        shift = max(0, span.bit_length() - 5)
        offset = -int(z.min()) - (8 << shift)  # some indices are clamped on either side
        self.a[f"{name}_scalars"] = np.array([offset, shift, 63])
        return np.asarray(values[np.clip((z + offset) >> shift, 0, 63)])

    def norm(self, name: str, x: Array, bits: int) -> Array:
        a, mean_shift = self.a, 20
        mult = round(2**mean_shift / CHANNELS)
        mean = (x.sum(1, keepdims=True) * mult + 2 ** (mean_shift - 1)) >> mean_shift
        d = x - mean
        v = (d * d).sum(1, keepdims=True)
        offset, shift = -int(v.min()) // 2, max(0, int(v.max()).bit_length() - 6)
        rsqrt = a[f"{name}_rsqrt_table_m"] = -np.sort(-self.draw(100, 2500, 128))
        w = a[f"{name}_lnw_m"] = self.draw(-1000, 40_000, CHANNELS)
        scaled = d * rsqrt[np.clip((v + offset) >> shift, 0, 127)] * w
        out = int(abs(scaled).max()).bit_length() + 1 - bits
        b = a[f"{name}_lnb_m"] = self.draw(-(3 << out), 3 << out, CHANNELS)
        a[f"{name}_scalars"] = np.array([mult, mean_shift, offset, shift, 127, out, bits])
        half = 1 << (bits - 1)
        return np.clip((scaled + b) >> out, -half, half - 1)

    def attention(self, name: str, x: Array) -> Array:
        a = self.a
        y = self.norm(f"{name}_lnq", x, 3)
        q, k, v = (
            self.table(f"{name}_{c}_q", self.linear(f"{name}_gen_{c}", y, CHANNELS), -4)
            for c in "qkv"
        )
        exp = a[f"{name}_softmaxq_exp_opp_table_m"] = -np.sort(-self.draw(0, 255, 32))
        table = f"{name}_softmaxq_recip_scaled_table_m"
        one = a[f"{table}_one"] = -np.sort(-self.draw(10, 255, 64))
        two = a[f"{table}_two"] = -np.sort(-self.draw(10, 255, 64))
        s1, s21, s22, s31, s32 = 1, 2, 3, 12, 13
        b1, b21, b22, b31, b32 = 1, -300, -500, 1 << (s31 - 1), 1 << (s32 - 1)
        a[f"{name}_softmaxq_scalars"] = np.array(
            [b1, s1, 31, b21, s21, 63, b31, s31, b22, s22, 63, b32, s32, 3]
        )
        heads = []
        for h in np.split(np.arange(CHANNELS), 3):
            r = q[:, h] @ k[:, h].T
            e = exp[np.clip((r.max(1, keepdims=True) - r + b1) >> s1, 0, 31)]
            total = e.sum(1, keepdims=True)
            c = (total + b21) >> s21
            near = (e * one[np.clip(c, 0, 63)] + b31) >> s31
            far = (e * two[np.clip((total + b22) >> s22, 0, 63)] + b32) >> s32
            heads.append(np.clip(np.where(c > 63, far, near), 0, 7) @ v[:, h])
        y = self.table(f"{name}_a_q", np.concatenate(heads, 1), -4)
        return self.residual(name, x, self.linear(f"{name}_gen_o", y, CHANNELS))

    def mlp(self, name: str, x: Array) -> Array:
        y = self.linear(f"{name}_", self.norm(f"{name}_lnq", x, 3), HIDDEN)
        y = self.table(f"{name}_geluq", y, 0)
        z = self.linear(f"{name}__", y, CHANNELS)
        for new, old in (("matmul1", "__matmul"), ("matmul2", "___matmul")):
            for part in ("weight", "bias"):
                self.a[f"{name}_{new}_{part}"] = self.a.pop(f"{name}{old}_{part}")
        return self.residual(name, x, z)

    def residual(self, name: str, x: Array, y: Array) -> Array:
        self.a[f"{name}_scalars"] = np.array([700_003, 20])
        return np.asarray(y + ((x * 700_003 + 2**19) >> 20))


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
    assert len(model.published) == 2 + 2 * BLOCKS
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


def test_build(archive: Path, tmp_path: Path) -> None:
    """The published image and random ones through all views."""
    hgpipe.load(archive).save(tmp_path / "model")
    result = build(tmp_path / "model", tmp_path / "build", io.StringIO()).run()
    equal = {k: (v["images"], v["mismatches"]) for k, v in result["equal"].items()}
    assert equal == {"published": (1, 0), "graph_hls": (9, 0), "graph_rtl": (5, 0)}
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
