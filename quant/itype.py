# SPDX-License-Identifier: Apache-2.0
"""Integer types of streams and constants."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class IntType:
    """A two's-complement integer type of ``bits`` bits; written ``int8`` or ``uint8``.

    Examples:
        >>> IntType.parse("uint4").max, IntType.fitting(-3, 4)
        (15, IntType(bits=4, signed=True))
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 62:
            raise ValueError(f"{self}: an integer type has 1 to 62 bits")

    @classmethod
    def parse(cls, text: str) -> IntType:
        """Read ``int8`` / ``uint8``. Raises ValueError for anything else."""
        match = re.fullmatch(r"(u?)int(\d+)", text)
        if not match:
            raise ValueError(f"{text!r} is not an integer type; write for example int8 or uint4")
        return cls(int(match[2]), not match[1])

    @classmethod
    def fitting(cls, low: int, high: int) -> IntType:
        """The smallest type that holds every integer of ``low..high``."""
        if low >= 0:
            return cls(max(1, int(high).bit_length()), False)
        return cls(1 + max((-low - 1).bit_length(), max(int(high), 0).bit_length()), True)

    def __str__(self) -> str:
        return f"{'' if self.signed else 'u'}int{self.bits}"

    @property
    def min(self) -> int:
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def check(self, x: Tensor, what: str) -> Tensor:
        """Return ``x`` (int64) unchanged; raise OverflowError if a value is outside the type."""
        if x.numel() and (int(x.min()) < self.min or int(x.max()) > self.max):
            raise OverflowError(f"{what}: {int(x.min())}..{int(x.max())} does not fit {self}")
        return x

    def encode(self, x: Tensor) -> Tensor:
        """Two's-complement bit pattern of ``x``, as non-negative int64."""
        return self.check(x, "encode") & ((1 << self.bits) - 1)

    def decode(self, x: Tensor) -> Tensor:
        """Value of the bit pattern ``x`` (int64)."""
        return torch.where(x > self.max, x - (1 << self.bits), x) if self.signed else x
