# SPDX-License-Identifier: Apache-2.0
"""The class token alone goes on to the classifier head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.bins import frame_bins, hits, of, value_bins
from sievit.quant.itype import IntType
from sievit.quant.params import (
    Constants,
    CoreParams,
    Port,
    Resources,
    Stream,
    divisors,
    random_frames,
)


@dataclass(frozen=True)
class FirstTokenParams(CoreParams):
    """``y[0] = x[0]``; every other token of the frame is swallowed, ``tuser`` is cleared."""

    channels: int = 4
    simd: int = 2
    in_type: IntType = IntType(12, True)

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.channels, self.simd, self.in_type),)

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.in_type)

    def out_tokens(self, tokens: int) -> int:
        return 1

    def cycles(self, tokens: int) -> int:
        return tokens * (self.channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        return 1

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            yield {"simd": simd}

    def resources(self) -> Resources:
        width = self.simd * self.in_type.bits + 2
        count = (self.channels // self.simd).bit_length()
        return Resources(lut=width + 2 * count + 3, ff=2 * width + count + 2)


def first_token(p: FirstTokenParams, constants: Constants, x: Stream) -> Stream:
    """Golden function."""
    return Stream(x.data[:, :1], torch.ones_like(x.length), torch.zeros_like(x.package))


def stimuli(
    rng: torch.Generator, p: FirstTokenParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random frames."""
    return {}, [random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)]


def bins(p: FirstTokenParams, constants: Constants, x: Stream) -> dict[str, int]:
    """Functional bins: name -> how often these frames hit it."""
    return {
        **frame_bins(p, x),
        **value_bins("x", of(x), p.in_type),
        "class token: not zero": hits((x.data[:, 0] != 0).any(-1)),
        "two tokens": hits(x.length == 2),
        "frame of one token after a longer one": hits((x.length[1:] == 1) & (x.length[:-1] > 1)),
        "frame of one token after another": hits((x.length[1:] == 1) & (x.length[:-1] == 1)),
    }
