# SPDX-License-Identifier: Apache-2.0
"""Matrix product with N:M sparse constant weights, bias and requantisation; dense for N = M = 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.itype import IntType
from sievit.quant.params import (
    Constants,
    CoreParams,
    Memory,
    Port,
    Resources,
    Stream,
    divisors,
    exact_matmul,
    pack,
    random_frames,
)
from sievit.quant.rounding import round_shift, saturate


@dataclass(frozen=True)
class NmMatmulParams(CoreParams):
    """``y[o] = saturate(round_shift(bias[o] + sum_i weight[o, i] x[i], shift))`` for every token.

    Output ``o`` of group ``g = o / (out_channels / groups)`` sees the inputs of group g alone.
    Along the reduction axis every ``m`` consecutive inputs carry at most ``n`` weights per output,
    stored as n values and n indices. Per token the core makes
    ``(out_channels / pe) * (in_channels / groups / simd)`` steps of ``pe * simd * n / m``
    multiplications.
    """

    in_channels: int = 8
    out_channels: int = 8
    groups: int = 1
    n: int = 2
    m: int = 4
    #: input channels read per step; a multiple of m that divides in_channels / groups
    simd: int = 4
    #: outputs computed in parallel and sent per beat; divides out_channels / groups
    pe: int = 2
    in_type: IntType = IntType(8, True)
    weight_type: IntType = IntType(4, True)
    bias_type: IntType = IntType(16, True)
    acc_type: IntType = IntType(20, True)
    out_type: IntType = IntType(8, True)
    #: right shift of the accumulator; negative = exact left shift
    shift: int = 4
    half_up: int = 0
    #: 1: multipliers in DSP blocks, 0: in LUTs
    mult_dsp: int = 0

    def __post_init__(self) -> None:
        self.require(self.in_channels % self.groups == 0, "groups must divide in_channels")
        self.require(self.out_channels % self.groups == 0, "groups must divide out_channels")
        self.require(1 <= self.n <= self.m, f"{self.n}:{self.m} is not an N:M pattern")
        self.require(self.n < self.m or self.m == 1, "dense is n = m = 1")
        self.require(self.simd % self.m == 0, f"simd {self.simd} is not a multiple of m {self.m}")
        self.require(self.group_inputs % self.simd == 0, f"simd {self.simd} must divide the inputs")
        self.require((self.out_channels // self.groups) % self.pe == 0, "pe must divide outputs")

    @property
    def group_inputs(self) -> int:
        return self.in_channels // self.groups

    @property
    def index_bits(self) -> int:
        """Bits of an index within a group of m: ceil(log2 m)."""
        return (self.m - 1).bit_length()

    @property
    def steps(self) -> int:
        """Steps per token."""
        return (self.out_channels // self.pe) * (self.group_inputs // self.simd)

    @property
    def multipliers(self) -> int:
        return self.pe * self.simd * self.n // self.m

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.in_channels, self.simd, self.in_type),)

    def output(self) -> Port:
        return Port("m_axis", self.out_channels, self.pe, self.out_type)

    def compressed(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(values, indices), int64 ``[out_channels, group_inputs / m, n]``, ascending indices.

        Raises ValueError naming the first output and group with more than n nonzeros.
        """
        grouped = weight.reshape(self.out_channels, -1, self.m)
        count = (grouped != 0).sum(-1)
        if int(count.max()) > self.n:
            o, g = (int(v) for v in (count > self.n).nonzero()[0])
            raise ValueError(
                f"nm_matmul: weights break {self.n}:{self.m}: output {o}, inputs {g * self.m}.."
                f"{g * self.m + self.m - 1} hold {int(count[o, g])} nonzeros"
            )
        # nonzeros first, in order; the rest of the slots point at zeros of the group
        order = torch.sort((grouped == 0).long(), dim=-1, stable=True).indices[..., : self.n]
        order = order.sort(-1).values
        return torch.gather(grouped, -1, order), order

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``weights``: word ``tile * (group_inputs / simd) + step`` holds, LSB first, all values
        ``[pe][simd / m][n]``, then all indices in the same order. ``bias``: one word per tile."""
        values, index = self.compressed(constants["weight"])
        tiles, steps = self.out_channels // self.pe, self.group_inputs // self.simd

        def words(x: Tensor) -> Tensor:
            x = x.reshape(tiles, self.pe, steps, self.simd // self.m, self.n)
            return x.permute(0, 2, 1, 3, 4).reshape(tiles * steps, -1)

        bits = self.multipliers * self.weight_type.bits
        low = pack(words(values), self.weight_type)
        if self.m > 1:
            high = pack(words(index), IntType(self.index_bits, False))
            low = [a | (b << bits) for a, b in zip(low, high, strict=True)]
            bits += self.multipliers * self.index_bits
        bias = constants["bias"].reshape(tiles, self.pe)
        return {
            "weights": Memory(bits, low),
            "bias": Memory(self.pe * self.bias_type.bits, pack(bias, self.bias_type)),
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        values, index = self.compressed(constants["weight"])
        out = {"weights": (self.weight_type, values), "bias": (self.bias_type, constants["bias"])}
        if self.m > 1:
            out["index"] = (IntType(self.index_bits, False), index)
        return out

    def cycles(self, tokens: int) -> int:
        return tokens * max(self.steps, self.in_channels // self.simd)

    def head_latency(self, tokens: int) -> int:
        terms = self.simd // self.m * self.n
        levels = ((terms - 1).bit_length() + 1) // 2  # of the adder tree, four terms each
        return self.in_channels // self.simd + self.group_inputs // self.simd + levels + 5

    def macs(self, tokens: int) -> int:
        return tokens * self.out_channels * self.group_inputs * self.n // self.m

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.group_inputs):
            if simd % self.m == 0:
                for pe in divisors(self.out_channels // self.groups):
                    yield {"simd": simd, "pe": pe}

    def resources(self) -> Resources:
        a, w, acc = self.in_type.bits, self.weight_type.bits, self.acc_type.bits
        out = self.out_type.bits
        mults, terms = self.multipliers, self.simd // self.m * self.n
        tiles, beats = self.out_channels // self.pe, self.in_channels // self.simd
        depth = tiles * (self.group_inputs // self.simd)
        # equal columns of a short ROM are one
        width = min(mults * (w + self.index_bits), 1 << min(depth, 20))
        bias = min(self.pe * self.bias_type.bits, 1 << min(tiles, 20))
        # open synthesis: block RAM from 8 kbit per RAMB18, else 1 LUT per bit and 14 words
        bram18 = max(-(-width // 36), -(-depth * width // 18432))
        in_bram = depth * width > 8256 * bram18
        rom_lut, rom_ff = (0.0, 0) if in_bram else (width * max(1.0, depth / 14), width)
        select = mults * a * -(-self.m // 4) if self.m > 1 else 0
        # open synthesis: 2 LUT per carry-save bit
        multiply = 0 if self.mult_dsp else mults * 2 * max(a, w) * (min(a, w) - 1)
        tree = self.pe * (terms - 1) * (a + w + (terms - 1).bit_length() / 2 + 1)
        buffer = self.simd * a / 2 * -(-beats // 16)  # two tokens in LUT RAM
        tree_ff = self.pe * -(-terms // 4) * (a + w + 2) if terms > 1 else 0
        operands = (mults if self.m > 1 else terms) * a + min(mults * w, width)
        control = 45 + 2 * depth.bit_length()
        rom_lut += bias * max(1.0, tiles / 14)
        requantise = 2 * self.pe * (acc + out)  # accumulate, saturate, skid buffer
        lanes_ff = self.pe * (acc + 3 * out) + bias
        return Resources(
            lut=rom_lut + select + multiply + tree + buffer + requantise + control,
            ff=self.simd * a + rom_ff + operands + mults * (a + w) + tree_ff + lanes_ff + control,
            dsp=mults if self.mult_dsp else 0,
            bram36=bram18 / 2 if in_bram else 0,
        )


def accumulator_type(weight: Tensor, bias: Tensor, x: IntType) -> IntType:
    """Type that holds every partial sum ``bias + sum w x`` in any order, for these weights."""
    high = (weight.clamp(min=0) * x.max + weight.clamp(max=0) * x.min).sum(-1) + bias.clamp(min=0)
    low = (weight.clamp(min=0) * x.min + weight.clamp(max=0) * x.max).sum(-1) + bias.clamp(max=0)
    return IntType.fitting(min(int(low.min()), -1), int(high.max()))


def nm_matmul(p: NmMatmulParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``weight``: int64 ``[out_channels, in_channels / groups]`` with its zeros;
    ``bias``: int64 ``[out_channels]`` in units of the accumulator."""
    p.compressed(constants["weight"])
    batch, tokens, _ = x.data.shape
    weight = constants["weight"].reshape(p.groups, -1, p.group_inputs)
    data = x.data.reshape(batch * tokens, p.groups, p.group_inputs).transpose(0, 1)
    bound = p.group_inputs * (1 << (p.in_type.bits + p.weight_type.bits))
    acc = exact_matmul(data, weight.transpose(1, 2), bound).transpose(0, 1)
    acc = acc.reshape(batch, tokens, p.out_channels) + constants["bias"]
    p.acc_type.check(acc, "nm_matmul accumulator")
    return x.with_data(saturate(round_shift(acc, p.shift, bool(p.half_up)), p.out_type))


def stimuli(
    rng: torch.Generator, p: NmMatmulParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random constants with 0..n nonzeros per group, and frames."""
    t = p.weight_type
    shape = (p.out_channels, p.group_inputs // p.m, p.m)
    weight = torch.randint(t.min, t.max + 1, shape, generator=rng)
    if p.m > 1:
        rank = torch.rand(shape, generator=rng).argsort(-1)
        keep = torch.randint(0, p.n + 1, (*shape[:2], 1), generator=rng)
        keep[torch.rand(keep.shape, generator=rng) < 0.6] = p.n
        weight = weight * (rank < keep)
    b = p.bias_type
    bias = torch.randint(b.min // 2, b.max // 2 + 1, (p.out_channels,), generator=rng)
    constants = {"weight": weight.reshape(p.out_channels, -1), "bias": bias}
    return constants, [random_frames(rng, p.inputs()[0], frames, p.max_tokens)]
