# SPDX-License-Identifier: Apache-2.0
"""Functional bins that many cores share: name -> how often the stimuli hit it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sievit.quant.itype import IntType
from sievit.quant.params import Constants, CoreParams, Stream, by_set


def hits(mask: Tensor) -> int:
    """True elements of a bool tensor."""
    return int(mask.sum())


def frame_bins(p: CoreParams, x: Stream) -> dict[str, int]:
    """Lengths of the frames, package tokens, beats of a token."""
    frames, beats = len(x.length), p.inputs()[0].beats
    return {
        "frame of one token": hits(x.length == 1),
        "longest frame": hits(x.length == p.max_tokens),
        "frame with a package token": hits(x.package),
        "frame without a package token": hits(~x.package),
        "token of one beat": frames if beats == 1 else 0,
        "token of several beats": frames if beats > 1 else 0,
    }


def value_bins(name: str, values: Tensor, t: IntType) -> dict[str, int]:
    """Ends of the type, zero, what lies between. ``values``: int64, any shape, no padding."""
    inside = (values > t.min) & (values < t.max) & (values != 0)
    return {
        f"{name}: least value": hits(values == t.min),
        f"{name}: greatest value": hits(values == t.max),
        f"{name}: zero": hits(values == 0),
        f"{name}: other": hits(inside),
    }


def saturation_bins(name: str, values: Tensor, t: IntType) -> dict[str, int]:
    """Values before saturation to ``t``: below, inside, above."""
    return {
        f"{name}: saturated below": hits(values < t.min),
        f"{name}: inside": hits((values >= t.min) & (values <= t.max)),
        f"{name}: saturated above": hits(values > t.max),
    }


def rounding_bins(name: str, values: Tensor, shift: int | Tensor) -> dict[str, int]:
    """Values before ``round_shift`` by ``shift``: ties, by their lower neighbour, and others.

    A tie above an even integer goes down, one above an odd integer up; half up: all go up.
    """
    s = torch.as_tensor(shift)
    positive = s.clamp(min=1)
    floor = values >> positive
    tie = (s > 0) & (values - (floor << positive) == (torch.ones_like(s) << (positive - 1)))
    return {
        f"{name}: tie above an even integer": hits(tie & (floor % 2 == 0)),
        f"{name}: tie above an odd integer": hits(tie & (floor % 2 != 0)),
        f"{name}: no tie": hits(~tie.expand_as(values)),
    }


def of(x: Stream) -> Tensor:
    """int64 ``[tokens of all frames, C]``: what the stream carries, without padding."""
    return x.data[x.valid()]


def bins_of_sets(
    bins: Callable[..., dict[str, int]], p: CoreParams, constants: Constants, inputs: list[Stream]
) -> dict[str, int]:
    """``bins`` of the frames of every set, and of the sets themselves if the core can have some."""
    if not p.can_share():
        return bins(p, constants, *inputs)
    if p.sets == 1:
        shared = {"a set follows itself": 0, "another set follows": 0, "last set": 0}
        return bins(p, constants, *inputs) | shared
    number = inputs[-1].data[:, 0, 0]
    out = {
        "a set follows itself": hits(number[1:] == number[:-1]),
        "another set follows": hits(number[1:] != number[:-1]),
        "last set": hits(number == p.sets - 1),
    }
    for _, one, frames in by_set(p, constants, inputs):
        for name, count in bins(*one, *frames).items():
            out[name] = out.get(name, 0) + int(count)
    return out
