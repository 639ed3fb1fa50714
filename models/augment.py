# SPDX-License-Identifier: Apache-2.0
"""Augmentation of whole batches, on the device that holds them.

The random numbers come from a generator on the CPU, so that they are the same on every device, and
operations are grouped by picture there, so that no step waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, conv2d, grid_sample, one_hot, pad

from sievit.models.recipe import DataRecipe

#: a colour operation: pixels float [B, C, H, W] of 0..levels, magnitudes -1..1 [B, 1, 1, 1], levels
Colour = Callable[[Tensor, Tensor, int], Tensor]


def augment(images: Tensor, recipe: DataRecipe, levels: int, rng: torch.Generator) -> Tensor:
    """Random changes of uint8 ``[B, C, H, W]``, pixels ``0..levels``; the same type and range.

    RandAugment (Cubuk et al., 2020), if asked for, then rotation, shift, crop and mirror image, all
    geometric ones as one affine map, then random erasing (Zhong et al., 2020).
    """
    r = recipe
    batch, _, height, width = images.shape
    x, device = images, images.device
    angle = (torch.rand(batch, generator=rng, device="cpu") * 2 - 1) * r.rotate * torch.pi / 180
    shift = (torch.rand(batch, 2, generator=rng, device="cpu") * 2 - 1) * 2 * r.shift / height
    mirror = 1 - 2 * (torch.rand(batch, generator=rng, device="cpu") < 0.5).float() * r.flip
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]]
    theta = torch.stack(rows, 1).reshape(batch, 2, 3)
    if r.crop:
        size = (batch, 2)
        steps = torch.randint(-r.crop, r.crop + 1, size, generator=rng, device="cpu")
        theta[:, :, 2] += 2 * steps / torch.tensor([width, height], device="cpu")
    for _ in range(r.randaugment):
        x, more = _random_operation(x, r.magnitude / 10, levels, rng)
        theta = _compose(more, theta)
    grid = affine_grid(theta.to(device), list(images.shape), align_corners=False)
    moved = grid_sample(x.float() - r.fill, grid, align_corners=False) + r.fill
    if r.erase:
        moved = _erase(moved, r.erase, levels, rng)
    return moved.round().to(images.dtype)


def mix(
    images: Tensor, labels: Tensor, classes: int, mixup: float, cutmix: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al., 2018) or CutMix (Yun et al., 2019) of every picture with the one at its
    place from the end of the batch, as in timm.

    Args:
        images: uint8 ``[B, C, H, W]``; labels: int64 ``[B]``.
        mixup, cutmix: alpha of the Beta distribution; if neither is 0, a coin decides.

    Returns:
        (uint8 like ``images``, class probabilities float ``[B, classes]``).
    """
    seed, coin = torch.randint(0, 1 << 31, (2,), generator=rng, device="cpu").tolist()
    blend = mixup > 0 and (cutmix <= 0 or coin % 2 == 0)
    alpha = mixup if blend else cutmix
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = images.flip(0)
    if blend:
        mixed = (images.float() * share + other.float() * (1 - share)).round().to(images.dtype)
    else:
        height, width = images.shape[2:]
        box_h, box_w = (int(n * math.sqrt(1 - share)) for n in (height, width))
        centre = torch.rand(2, generator=rng, device="cpu").tolist()
        top, left = (
            int(c * n) - b // 2
            for c, n, b in zip(centre, (height, width), (box_h, box_w), strict=True)
        )
        bottom, right = min(top + box_h, height), min(left + box_w, width)
        top, left = max(top, 0), max(left, 0)
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
    target = one_hot(labels, classes).float()
    return mixed, target * share + target.flip(0) * (1 - share)


# -- RandAugment ---------------------------------------------------------------------------------
def _luma(x: Tensor) -> Tensor:
    """Grey ``[B, 1, H, W]`` of RGB (ITU-R 601), or the one channel there is."""
    if x.shape[1] == 1:
        return x
    weight = torch.tensor([0.299, 0.587, 0.114], device="cpu").to(x.device)
    return (x * weight[:, None, None]).sum(1, keepdim=True)


def _blend(x: Tensor, base: Tensor, m: Tensor, levels: int) -> Tensor:
    """PIL's enhancement by ``1 + 0.9 m``: 0 is ``base``, 1 the picture."""
    return (base + (x - base) * (1 + 0.9 * m)).clamp(0, levels)


def _brightness(x: Tensor, m: Tensor, levels: int) -> Tensor:
    return _blend(x, torch.zeros_like(x), m, levels)


def _contrast(x: Tensor, m: Tensor, levels: int) -> Tensor:
    return _blend(x, _luma(x).mean((2, 3), keepdim=True), m, levels)


def _colour(x: Tensor, m: Tensor, levels: int) -> Tensor:
    return _blend(x, _luma(x), m, levels)


def _sharpness(x: Tensor, m: Tensor, levels: int) -> Tensor:
    """Towards, or away from, PIL's smooth filter; the frame of one pixel stays."""
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device="cpu").to(x.device) / 13
    channels = x.shape[1]
    smooth = x.clone()
    weight = kernel.expand(channels, 1, 3, 3)
    smooth[:, :, 1:-1, 1:-1] = conv2d(x, weight, groups=channels)
    return _blend(x, smooth, m, levels)


def _posterize(x: Tensor, m: Tensor, levels: int) -> Tensor:
    """The upper bits alone: of 8, 4 at the greatest magnitude."""
    step = (levels + 1) / 2 ** (8 - (4 * m.abs()).round())
    return (x / step).floor() * step


def _solarize(x: Tensor, m: Tensor, levels: int) -> Tensor:
    return torch.where(x >= (levels + 1) * (1 - m.abs()), levels - x, x)


def _autocontrast(x: Tensor, m: Tensor, levels: int) -> Tensor:
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    return torch.where(high > low, (x - low) * levels / (high - low).clamp(min=1), x)


def _equalize(x: Tensor, m: Tensor, levels: int) -> Tensor:
    """Histogram equalisation of every channel, as PIL does it."""
    code = x.round().clamp(0, levels).long().flatten(2)
    zeros = torch.zeros(*code.shape[:2], levels + 1, dtype=torch.int64, device=x.device)
    count = zeros.scatter_add(2, code, torch.ones_like(code))
    used = torch.arange(levels + 1, device=x.device).expand_as(count)
    last = count.gather(2, torch.where(count > 0, used, 0).amax(2, keepdim=True))
    step = (count.sum(2, keepdim=True) - last) // levels
    before = pad(count.cumsum(2)[..., :-1], (1, 0))
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=levels)
    return torch.where(step > 0, table.gather(2, code), code).reshape(x.shape).to(x.dtype)


COLOURS: tuple[Colour, ...] = (
    _autocontrast, _equalize, _posterize, _solarize, _colour, _contrast, _brightness, _sharpness,
)  # fmt: skip


def _rotate(m: Tensor) -> Tensor:
    a = m * math.pi / 6
    return _affine(a.cos(), -a.sin(), a.sin(), a.cos())


def _shear_x(m: Tensor) -> Tensor:
    return _affine(1.0, 0.3 * m, 0.0, 1.0)


def _shear_y(m: Tensor) -> Tensor:
    return _affine(1.0, 0.0, 0.3 * m, 1.0)


def _translate_x(m: Tensor) -> Tensor:
    return _affine(1.0, 0.0, 0.0, 1.0, x=0.9 * m)


def _translate_y(m: Tensor) -> Tensor:
    return _affine(1.0, 0.0, 0.0, 1.0, y=0.9 * m)


def _affine(a: Any, b: Any, c: Any, d: Any, x: Any = 0.0, y: Any = 0.0) -> Tensor:
    """float ``[B, 2, 3]`` of numbers and tensors ``[B]``."""
    values = torch.broadcast_tensors(
        *(torch.as_tensor(v, dtype=torch.float32, device="cpu") for v in (a, b, x, c, d, y))
    )
    return torch.stack(values, -1).reshape(-1, 2, 3)


#: maps of output to input coordinates, -1..1; [B] magnitudes -> [B, 2, 3]
MOVES = (_rotate, _shear_x, _shear_y, _translate_x, _translate_y)


def _random_operation(
    x: Tensor, magnitude: float, levels: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One of RandAugment's 14 operations per picture: (pixels, affine maps ``[B, 2, 3]``)."""
    batch = len(x)
    kinds = 1 + len(COLOURS) + len(MOVES)  # the first one changes nothing
    kind = torch.randint(0, kinds, (batch,), generator=rng, device="cpu")
    sign = 1 - 2.0 * torch.randint(0, 2, (batch,), generator=rng, device="cpu")
    theta = torch.eye(2, 3, device="cpu").repeat(batch, 1, 1)
    y = x.clone()
    for i, change in enumerate(COLOURS, 1):
        at = (kind == i).nonzero()[:, 0]
        if len(at):
            m = (sign[at] * magnitude).to(x.device)[:, None, None, None]
            index = at.to(x.device)
            y[index] = change(x[index].float(), m, levels).round().to(x.dtype)
    for i, move in enumerate(MOVES, 1 + len(COLOURS)):
        at = (kind == i).nonzero()[:, 0]
        if len(at):
            theta[at] = move(sign[at] * magnitude)
    return y, theta


def _compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Affine maps ``[B, 2, 3]``: first ``inner``, then ``outer``."""
    row = torch.tensor([0.0, 0.0, 1.0], device="cpu").expand(len(inner), 1, 3)
    return outer @ torch.cat([inner, row], 1)


def _erase(x: Tensor, probability: float, levels: int, rng: torch.Generator) -> Tensor:
    """A rectangle of 2..33 % of the area, of an aspect of 0.3..3.3, becomes noise."""
    batch, _, height, width = x.shape
    draw = torch.rand(5, batch, generator=rng, device="cpu")
    area = (0.02 + draw[0] * (0.33 - 0.02)) * height * width
    aspect = torch.exp((draw[1] * 2 - 1) * math.log(3.3))
    size = torch.stack(
        [(area * aspect).sqrt().clamp(max=height), (area / aspect).sqrt().clamp(max=width)]
    )
    room = torch.tensor([[height], [width]], device="cpu") - size
    start = (torch.stack([draw[2], draw[3]]) * room).round()
    size = torch.where(draw[4] < probability, size.round(), 0)
    start, end = start.to(x.device), (start + size).to(x.device)
    row, column = (torch.arange(n, device=x.device) for n in (height, width))
    inside_h = (row >= start[0][:, None]) & (row < end[0][:, None])
    inside_w = (column >= start[1][:, None]) & (column < end[1][:, None])
    noise = torch.empty(x.shape, dtype=torch.uint8, device="cpu")
    noise = noise.random_(0, levels + 1, generator=rng).to(x.device)
    return torch.where((inside_h[:, :, None] & inside_w[:, None])[:, None], noise.to(x.dtype), x)
