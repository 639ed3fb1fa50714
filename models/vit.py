# SPDX-License-Identifier: Apache-2.0
"""Float Vision Transformer (Dosovitskiy et al., ICLR'21), in timm's words.

q, k and v are three layers: each has a quantiser and a core of its own further down the road.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sievit.models.methods import Tokens, TokenStage, Trace


class PatchEmbed(nn.Module):
    """Projection of flattened patches: ``[B, T, patch^2 * in_chans] -> [B, T, embed_dim]``."""

    def __init__(self, patch_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Linear(patch_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.proj = nn.Linear(dim, dim)
        #: keep what a stage behind this block reads
        self.traced = False
        self.trace: Trace | None = None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            f(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for f in (self.q, self.k, self.v)
        )
        if self.traced:
            row = (q[:, :, :1] @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5
            cls = row.softmax(-1).mean((1, 2))
            self.trace = Trace(cls, k.transpose(1, 2).flatten(2), self.num_heads)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, num_heads)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """Patches ``[B, T, patch_dim]`` (pixels 0..1) -> logits ``[B, num_classes]``."""

    def __init__(
        self,
        num_patches: int,
        patch_dim: int,
        num_classes: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        stages: dict[str, TokenStage] | None = None,
    ) -> None:
        """``stages``: {block: token reduction in front of it}."""
        super().__init__()
        self.patch_embed = PatchEmbed(patch_dim, embed_dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, embed_dim) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, num_patches + 1, embed_dim) * 0.02)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio) for _ in range(depth))
        self.selectors = nn.ModuleDict(stages or {})
        trace(self.selectors, self.blocks)
        self.norm = nn.LayerNorm(embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        t = Tokens(x)
        blocks: list[Any] = list(self.blocks)
        for i, block in enumerate(blocks):
            if str(i) in self.selectors:
                t = self.selectors[str(i)](t, blocks[i - 1].attn.trace)
            t = replace(t, x=block(t.x))
        return self.head(self.norm(t.x[:, 0]))


def trace(selectors: nn.ModuleDict, blocks: nn.ModuleList) -> None:
    """Let the blocks in front of stages keep what their scorers read."""
    for i, stage in selectors.items():
        if isinstance(stage, TokenStage) and stage.scorer.traced:
            before: Any = blocks[int(i) - 1]
            before.attn.traced = True
