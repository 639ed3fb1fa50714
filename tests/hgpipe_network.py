# SPDX-License-Identifier: Apache-2.0
"""A network in HG-PIPE's format for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

CLASSES = 5


class Network:
    """A small random network in the published format, ``a`` by array name, and its values by the
    published formulas."""

    def __init__(
        self, seed: int, tokens: int = 7, pixels: int = 6, channels: int = 12, hidden: int = 24,
        blocks: int = 2,
    ) -> None:  # fmt: skip
        self.channels, self.hidden = channels, hidden
        self.rng = np.random.default_rng(seed)
        self.a: dict[str, Array] = {}
        a = self.a
        x = a["patch_embed_input"] = self.draw(-128, 127, tokens, pixels)
        acc = x @ self.weights("patch_embed", channels, pixels, 127).T
        acc += self.bias("patch_embed", (tokens, channels), 20_000)
        acc[0] = a["patch_embed_cls"] = self.draw(-20_000, 20_000, channels)
        a["patch_embed_scalars"] = np.array([5])
        y = a["patch_embed_output"] = (acc + 16) >> 5
        for i in range(blocks):
            y = a[f"attn_{i}_output"] = self.attention(f"attn_{i}", y)
            y = a[f"mlp_{i}_output"] = self.mlp(f"mlp_{i}", y)
        z = self.norm("head_lnq", y[:1], 8)
        a["network_output"] = (z @ self.weights("head", CLASSES, channels, 127).T)[0]
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
        mult = round(2**mean_shift / self.channels)
        mean = (x.sum(1, keepdims=True) * mult + 2 ** (mean_shift - 1)) >> mean_shift
        d = x - mean
        v = (d * d).sum(1, keepdims=True)
        offset, shift = -int(v.min()) // 2, max(0, int(v.max()).bit_length() - 6)
        rsqrt = a[f"{name}_rsqrt_table_m"] = -np.sort(-self.draw(100, 2500, 128))
        w = a[f"{name}_lnw_m"] = self.draw(-1000, 40_000, self.channels)
        scaled = d * rsqrt[np.clip((v + offset) >> shift, 0, 127)] * w
        out = int(abs(scaled).max()).bit_length() + 1 - bits
        b = a[f"{name}_lnb_m"] = self.draw(-(3 << out), 3 << out, self.channels)
        a[f"{name}_scalars"] = np.array([mult, mean_shift, offset, shift, 127, out, bits])
        half = 1 << (bits - 1)
        return np.clip((scaled + b) >> out, -half, half - 1)

    def attention(self, name: str, x: Array) -> Array:
        a = self.a
        y = self.norm(f"{name}_lnq", x, 3)
        q, k, v = (
            self.table(f"{name}_{c}_q", self.linear(f"{name}_gen_{c}", y, self.channels), -4)
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
        for h in np.split(np.arange(self.channels), 3):
            r = q[:, h] @ k[:, h].T
            e = exp[np.clip((r.max(1, keepdims=True) - r + b1) >> s1, 0, 31)]
            total = e.sum(1, keepdims=True)
            c = (total + b21) >> s21
            near = (e * one[np.clip(c, 0, 63)] + b31) >> s31
            far = (e * two[np.clip((total + b22) >> s22, 0, 63)] + b32) >> s32
            heads.append(np.clip(np.where(c > 63, far, near), 0, 7) @ v[:, h])
        y = self.table(f"{name}_a_q", np.concatenate(heads, 1), -4)
        return self.residual(name, x, self.linear(f"{name}_gen_o", y, self.channels))

    def mlp(self, name: str, x: Array) -> Array:
        y = self.linear(f"{name}_", self.norm(f"{name}_lnq", x, 3), self.hidden)
        y = self.table(f"{name}_geluq", y, 0)
        z = self.linear(f"{name}__", y, self.channels)
        for new, old in (("matmul1", "__matmul"), ("matmul2", "___matmul")):
            for part in ("weight", "bias"):
                self.a[f"{name}_{new}_{part}"] = self.a.pop(f"{name}{old}_{part}")
        return self.residual(name, x, z)

    def residual(self, name: str, x: Array, y: Array) -> Array:
        self.a[f"{name}_scalars"] = np.array([700_003, 20])
        return np.asarray(y + ((x * 700_003 + 2**19) >> 20))
