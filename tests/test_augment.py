# SPDX-License-Identifier: Apache-2.0
"""Augmentation against PIL, and what must hold of every batch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from sievit.models import augment as a
from sievit.models.recipe import DataRecipe

ALL = DataRecipe(
    shift=1.0, rotate=10.0, flip=True, crop=2, randaugment=2, magnitude=9.0, erase=0.5, fill=128
)


def pictures(rng: torch.Generator, count: int = 6, size: int = 12) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=rng, dtype=torch.uint8)


def pil(change: Callable[[Image.Image], Image.Image], images: Tensor) -> Tensor:
    out = [change(Image.fromarray(x.permute(1, 2, 0).numpy())) for x in images]
    return torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in out])


@pytest.mark.parametrize(
    ("ours", "theirs", "error"),
    [
        (a._autocontrast, ImageOps.autocontrast, 1),
        (a._equalize, ImageOps.equalize, 0),
        (a._posterize, lambda x: ImageOps.posterize(x, 6), 0),
        (a._solarize, lambda x: ImageOps.solarize(x, 128), 0),
        (a._colour, lambda x: ImageEnhance.Color(x).enhance(1.45), 2),
        (a._contrast, lambda x: ImageEnhance.Contrast(x).enhance(1.45), 2),
        (a._brightness, lambda x: ImageEnhance.Brightness(x).enhance(1.45), 1),
        (a._sharpness, lambda x: ImageEnhance.Sharpness(x).enhance(1.45), 2),
    ],
)
def test_colour_operations_are_those_of_pil(
    ours: a.Colour, theirs: Callable[..., Image.Image], error: int, rng: torch.Generator
) -> None:
    """At magnitude 0.5; PIL rounds in between."""
    images = pictures(rng, size=32)
    images[0] //= 8  # a dark one, whose contrast has room
    images[1] = 77  # one colour alone
    got = ours(images.float(), torch.full((len(images), 1, 1, 1), 0.5), 255).round()
    want = pil(theirs, images).float()
    assert float((got - want).abs().max()) <= error
    assert not torch.equal(want, images.float())


def test_moves_by_whole_pixels(rng: torch.Generator) -> None:
    """A crop is a shift of the padded picture, a mirror image is one."""
    images = pictures(rng, 40, 8)
    got = a.augment(images, DataRecipe(crop=2, flip=True, fill=99), 255, rng)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), value=99)
    seen = set()
    for x, y in zip(padded, got, strict=True):
        found = [
            (i, j, mirror)
            for i in range(5)
            for j in range(5)
            for mirror in (False, True)
            if torch.equal((x.flip(2) if mirror else x)[:, i : i + 8, j : j + 8], y)
        ]
        assert found
        seen.update(found)
    assert len(seen) > 20


def test_nothing_asked_for_changes_nothing(rng: torch.Generator) -> None:
    images = pictures(rng)
    assert torch.equal(a.augment(images, DataRecipe(), 255, rng), images)


@pytest.mark.parametrize("channels", [1, 3])
def test_same_seed_same_batch(channels: int, seed: int) -> None:
    images = pictures(torch.Generator().manual_seed(seed))[:, :channels]
    first, again = (
        a.augment(images, ALL, 255, torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert torch.equal(first, again) and first.shape == images.shape and first.dtype == torch.uint8
    assert not torch.equal(first, images)


def test_levels_are_kept(rng: torch.Generator) -> None:
    images = torch.randint(0, 17, (60, 1, 8, 8), generator=rng, dtype=torch.uint8)
    recipe = DataRecipe(randaugment=3, erase=1.0, fill=8)
    assert int(a.augment(images, recipe, 16, rng).max()) <= 16


def test_erasing_takes_a_rectangle(rng: torch.Generator) -> None:
    images = torch.zeros(50, 1, 16, 16, dtype=torch.uint8)
    got = a.augment(images, DataRecipe(erase=1.0), 255, rng)[:, 0] > 0
    for x in got:
        rows, columns = x.any(1).nonzero()[:, 0], x.any(0).nonzero()[:, 0]
        assert len(rows) and len(columns)
        box = x[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert float(box.float().mean()) > 0.8  # noise is rarely 0
    assert 0.02 < float(got.float().mean()) < 0.33


def test_mixup_is_a_weighted_sum(rng: torch.Generator) -> None:
    images, labels = pictures(rng), torch.tensor([0, 1, 2, 3, 3, 1])
    mixed, target = a.mix(images, labels, 4, 0.8, 0.0, rng)
    share = float(target[0, 0])
    assert torch.allclose(target.sum(1), torch.ones(6)) and 0 < share < 1
    # both shares are rounded to float32, by at most 2**-25
    assert float(target[0, 1]) == pytest.approx(1 - share, rel=0, abs=2**-24)
    want = images.double() * share + images.flip(0).double() * (1 - share)
    assert float((mixed - want).abs().max()) <= 0.5 + 1e-3


def test_cutmix_shares_are_areas(rng: torch.Generator) -> None:
    images = torch.zeros(4, 1, 16, 16, dtype=torch.uint8)
    images[2:] = 255
    for _ in range(20):
        mixed, target = a.mix(images, torch.tensor([0, 0, 1, 1]), 2, 0.0, 1.0, rng)
        assert float(target[0, 1]) == pytest.approx(float((mixed[0] == 255).double().mean()))
        assert torch.equal(mixed[3] == 0, mixed[0] == 255)


def test_a_coin_decides_between_both(rng: torch.Generator) -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    images[1] = 200
    kinds = set()
    for _ in range(40):
        mixed, _ = a.mix(images, torch.tensor([0, 1]), 2, 1.0, 1.0, rng)
        kinds.add(len(mixed[0].unique()) == 1 and int(mixed[0, 0, 0, 0]) not in (0, 200))
    assert kinds == {True, False}
