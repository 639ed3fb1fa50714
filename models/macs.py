# SPDX-License-Identifier: Apache-2.0
"""Multiplications that a network executes for an image: kept tokens times nonzero weights."""

from __future__ import annotations

import torch
from torch import Tensor

from sievit.models.methods import TokenStage
from sievit.models.quantizers import QuantLinear
from sievit.models.qvit import Block, QuantVisionTransformer


def executed(model: QuantVisionTransformer, stages: list[Tensor]) -> Tensor:
    """Multiplications float64 ``[B]`` of matrices and attention.

    ``stages``: frames float ``[B, 2]`` behind every selector, as a forward pass leaves them in
    ``model.stages``. A weight counts if its N:M pattern, or its block structure, leaves it in
    place; of the attention, all scores and the products with the values of the surviving keys;
    selectors count.
    """
    batch = len(stages[0]) if stages else 1
    tokens = torch.full((batch,), model.num_patches + 1.0, dtype=torch.float64)
    total = torch.full((batch,), float(model.num_patches * weights(model.patch_embed)))
    total = total.double() + weights(model.head)
    left = [s[:, 0].double().cpu() for s in stages]
    for i, block in enumerate(model.blocks):
        if str(i) in model.selectors:
            selector = model.selectors[str(i)]
            total += tokens * weights(selector)
            if isinstance(selector, TokenStage):
                dim = model.cls_token.shape[-1]
                total += selector.scorer.macs(int(tokens[0]), dim)
            tokens = left.pop(0)
        assert isinstance(block, Block)
        n, m = block.attn.nm
        kept = (tokens // m) * n + (tokens % m).clamp(max=n)
        dim = block.attn.q.in_features
        total += tokens * weights(block) + tokens * dim * (tokens + kept)
    return total


def weights(module: torch.nn.Module) -> int:
    """Weights that are not held at zero."""
    layers = (m for m in module.modules() if isinstance(m, QuantLinear))
    return sum(int(layer.mask.sum()) for layer in layers)
