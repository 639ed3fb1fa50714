# SPDX-License-Identifier: Apache-2.0
"""N:M weight sparsity by magnitude, with a gradual schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from sievit.models.quantizers import QuantLinear


def nm_mask(weight: Tensor, n: int, m: int) -> Tensor:
    """bool like ``weight`` ``[out, in]``: the n largest magnitudes of every m consecutive inputs.

    Ties go to the lower index. Raises ValueError if m does not divide the inputs.
    """
    if weight.shape[1] % m:
        raise ValueError(f"{n}:{m} does not divide {weight.shape[1]} inputs; choose another M")
    grouped = weight.abs().reshape(len(weight), -1, m)
    order = grouped.sort(dim=-1, descending=True, stable=True).indices
    rank = order.argsort(-1)
    return (rank < n).reshape(weight.shape)


def kept_per_group(n: int, m: int, progress: float) -> int:
    """N of the gradual schedule: falls linearly from m at progress 0 to n at progress 1."""
    return n + round((m - n) * (1 - min(max(progress, 0.0), 1.0)))


@torch.no_grad()
def sparsify(layers: dict[str, QuantLinear], progress: float) -> None:
    """Give every layer with an N:M pattern its mask for this point of the schedule."""
    for layer in layers.values():
        n, m = layer.nm
        if m > 1:
            layer.mask.copy_(nm_mask(layer.weight, kept_per_group(n, m, progress), m))
            layer.project()
