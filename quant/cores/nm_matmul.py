# SPDX-License-Identifier: Apache-2.0
"""Matrix product with N:M sparse constant weights, bias and requantisation; dense for N = M = 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from sievit.quant.cores.lookup_table import lookup
from sievit.quant.itype import IntType
from sievit.quant.memories import block_rom
from sievit.quant.params import (
    Constants,
    CoreParams,
    Device,
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

#: signed operands of a DSP block: DSP48E2; narrower ones are DSP48E1 (25, 18) and ECP5 (18, 18)
DSP_PORTS = (27, 18)
#: bits that a DSP block adds up
DSP_SUM_BITS = 48
#: its last block sees its inputs that many cycles late, which a shift register of one LUT provides
LONGEST_CHAIN = 32
#: tokens side by side that foldings offer
TOKENS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True)
class NmMatmulParams(CoreParams):
    """``y[o] = T(saturate(round_shift(bias[o] + sum_i weight[o, i] x[i], shift)))`` per token.

    Output ``o`` of group ``g = o / (out_channels / groups)`` sees the inputs of group g alone.
    Along the reduction axis every ``m`` consecutive inputs carry at most ``n`` weights per output,
    stored as n values and n indices. ``tp`` tokens of a frame, fewer at its end, are computed side
    by side with the same weights, in ``(out_channels / pe) * (in_channels / groups / simd)`` steps
    of ``tp * pe * simd * n / m`` multiplications.

    ``T`` is the identity, or with ``entries`` > 0 a table:
    ``T(z) = table[clamp((z + table_offset) >> table_shift, 0, entries - 1)]``, where the saturation
    is to ``mid_type``.

    With ``sets`` > 1 the frame's set says whose weights, bias and table these are.
    """

    DENSE = ("weights",)

    in_channels: int = 8
    out_channels: int = 8
    groups: int = 1
    n: int = 2
    m: int = 4
    #: input channels read per step; a multiple of m that divides in_channels / groups
    simd: int = 4
    #: outputs computed in parallel and sent per beat; divides out_channels / groups
    pe: int = 2
    #: tokens computed side by side
    tp: int = 1
    #: tokens that share a DSP block; divides tp
    pack: int = 1
    #: outputs that share a DSP block, 1 or 2; divides pe; 2 only where all outputs see all inputs
    pack_out: int = 1
    in_type: IntType = IntType(8, True)
    weight_type: IntType = IntType(4, True)
    bias_type: IntType = IntType(16, True)
    acc_type: IntType = IntType(20, True)
    #: argument of the table; without a table not used
    mid_type: IntType = IntType(8, True)
    out_type: IntType = IntType(8, True)
    #: right shift of the accumulator; negative = exact left shift
    shift: int = 4
    half_up: int = 0
    #: entries of the table; 0 = no table
    entries: int = 0
    #: added to the table's argument before the shift
    table_offset: int = 0
    #: floor shift of the table's index
    table_shift: int = 0
    #: 1: multipliers in DSP blocks, 0: in LUTs
    mult_dsp: int = 0
    #: clock of the DSP blocks over that of the core, 1 or 2; pump * pack_out divides pe
    pump: int = 1
    #: weights in 0: LUTs, 1: block RAM, 2: UltraRAM (only where a bitstream can fill it: Versal)
    weight_ram: int = 0
    #: layers that share the core
    sets: int = 1

    def __post_init__(self) -> None:
        self.require(self.in_channels % self.groups == 0, "groups must divide in_channels")
        self.require(self.out_channels % self.groups == 0, "groups must divide out_channels")
        self.require(1 <= self.n <= self.m, f"{self.n}:{self.m} is not an N:M pattern")
        self.require(self.n < self.m or self.m == 1, "dense is n = m = 1")
        self.require(self.simd % self.m == 0, f"simd {self.simd} is not a multiple of m {self.m}")
        self.require(self.group_inputs % self.simd == 0, f"simd {self.simd} must divide the inputs")
        self.require((self.out_channels // self.groups) % self.pe == 0, "pe must divide outputs")
        self.require(self.tp >= 1, "tp must be positive")
        self.require(1 <= self.pack <= 4, f"{self.pack} tokens per multiplier: 1 to 4 are")
        self.require(self.tp % self.pack == 0, f"pack {self.pack} must divide tp {self.tp}")
        self.require(self.pack_out in (1, 2), f"{self.pack_out} outputs per multiplier: 1 or 2 are")
        self.require(self.pe % self.pack_out == 0, f"pack_out must divide pe {self.pe}")
        self.require(self.pack_out == 1 or self.m == 1, "N:M outputs share no multiplier")
        self.require(
            self.mult_dsp == 1 or self.pack * self.pack_out == 1,
            "multipliers in LUTs are not shared",
        )
        self.require(self.pump in (1, 2), f"pump {self.pump}: 1 or 2 are")
        self.require(self.pump == 1 or self.mult_dsp == 1, "multipliers in LUTs have one clock")
        self.require(
            self.pe % (self.pump * self.pack_out) == 0, f"pump * pack_out must divide pe {self.pe}"
        )
        self.require(
            not self.mult_dsp or self.fits_dsp(DSP_PORTS),
            f"pack {self.pack} of {self.in_type} x {self.weight_type} suits no DSP block",
        )
        self.require(self.entries == 0 or self.entries >= 2, "a table has at least 2 entries")
        self.require(self.weight_ram in (0, 1, 2), "weight_ram is 0, 1 or 2")
        self.require(1 <= self.sets <= 64, f"{self.sets} sets: 1 to 64 are")

    @property
    def terms(self) -> int:
        """Products per output, token and step."""
        return self.simd // self.m * self.n

    @property
    def chain(self) -> int:
        """DSP blocks in a row, each adding the sum of the one before."""
        if not self.mult_dsp:
            return 1
        return longest_chain(self.in_type, self.weight_type, self.pack, self.pack_out, self.terms)

    @property
    def select_2x(self) -> bool:
        """Two outputs share at twice the clock what chooses the inputs of their weights, too."""
        return self.pump > 1 and self.index_bits > 0

    @property
    def slices(self) -> tuple[int, ...]:
        """Bits of the memories that the weights lie in, two blocks of every chain each."""
        bits = self.multipliers // self.chain * (self.weight_type.bits + self.index_bits)
        return (2 * bits,) * (self.chain // 2) + (bits,) * (self.chain % 2)

    def fits_dsp(self, ports: tuple[int, int]) -> bool:
        """A multiplier is one DSP block with signed operands of these widths."""
        return _fits_dsp(
            self.in_type, self.weight_type, self.pack, self.pack_out, self.chain, ports
        )

    @property
    def group_inputs(self) -> int:
        return self.in_channels // self.groups

    @property
    def index_bits(self) -> int:
        """Bits of an index: the k-th weight of a group stands at one of k .. k + m - n."""
        return (self.m - self.n).bit_length()

    @property
    def steps(self) -> int:
        """Steps per ``tp`` tokens."""
        return (self.out_channels // self.pe) * (self.group_inputs // self.simd)

    @property
    def result_type(self) -> IntType:
        """Type that the rounded sum is saturated to."""
        return self.mid_type if self.entries else self.out_type

    @property
    def multipliers(self) -> int:
        """Weights of a step."""
        return self.pe * self.simd * self.n // self.m

    def tree(self) -> list[tuple[int, int, int]]:
        """Levels of the adder tree of an output, three terms a sum: adders, sums with one that is
        passed on, bits that these have more than a term."""
        levels, chains = [], self.terms // self.chain
        terms, most = chains, 1
        while terms > 1:
            most = min(3 * most, chains)
            levels.append(((terms + 1) // 3, -(-terms // 3), (most - 1).bit_length()))
            terms = -(-terms // 3)
        return levels

    def inputs(self) -> tuple[Port, ...]:
        return (Port("s_axis", self.in_channels, self.simd, self.in_type), *self.set_ports())

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
        """``weights``: word ``tile * (group_inputs / simd) + step`` holds, LSB first, for every
        block of a chain all values ``[pe][chains]``, then all indices, each less its slot, in the
        same order; what two blocks have is a slice. ``bias``: one word per tile. ``table``: one
        entry per word."""
        values, index = self.compressed(constants["weight"])
        index = index - torch.arange(self.n)
        tiles, steps = self.out_channels // self.pe, self.group_inputs // self.simd

        def words(x: Tensor, t: IntType) -> list[int]:
            x = x.reshape(tiles, self.pe, steps, -1, self.chain)
            return pack(x.permute(0, 2, 4, 1, 3).reshape(tiles * steps * self.chain, -1), t)

        count = self.multipliers // self.chain
        bits = count * self.weight_type.bits
        low = words(values, self.weight_type)
        if self.index_bits:
            high = words(index, IntType(self.index_bits, False))
            low = [a | (b << bits) for a, b in zip(low, high, strict=True)]
            bits += count * self.index_bits
        rows = [low[i : i + self.chain] for i in range(0, len(low), self.chain)]
        joined = [sum(part << (i * bits) for i, part in enumerate(row)) for row in rows]
        bias = constants["bias"].reshape(tiles, self.pe)
        table = constants["table"][:, None] if self.entries else torch.zeros(0, 1).long()
        return {
            "weights": Memory(self.chain * bits, joined, self.slices),
            "bias": Memory(self.pe * self.bias_type.bits, pack(bias, self.bias_type)),
            "table": Memory(self.out_type.bits, pack(table, self.out_type)),
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        """``index`` and ``table`` have one element where the core does not read them."""
        values, index = self.compressed(constants["weight"])
        index = index - torch.arange(self.n) if self.index_bits else torch.zeros(1, 1, 1).long()
        table = constants["table"] if self.entries else torch.zeros(1).long()
        return {
            "weights": (self.weight_type, values),
            "bias": (self.bias_type, constants["bias"]),
            "index": (IntType(max(1, self.index_bits), False), index),
            "table": (self.out_type, table),
        }

    def cycles(self, tokens: int) -> int:
        beats, (full, rest) = self.inputs()[0].beats, divmod(tokens, self.tp)
        come = full * max(self.steps, self.tp * beats) + (rest > 0) * max(self.steps, rest * beats)
        return max(come, tokens * self.output().beats)

    def head_latency(self, tokens: int) -> int:
        stages = (
            len(self.tree())
            + 6
            + 2 * (self.entries > 0)
            + (self.weight_ram > 0)
            + 2 * (self.tp > 1)
        )
        if self.mult_dsp:
            stages += self.chain if self.pump == 1 else (self.chain + 1) // 2 + 1
            stages += self.select_2x
        collect = min(self.tp, tokens) * self.inputs()[0].beats
        return collect + self.group_inputs // self.simd + stages

    def macs(self, tokens: int) -> int:
        return tokens * self.out_channels * self.group_inputs * self.n // self.m

    def foldings(self) -> Iterator[dict[str, int]]:
        outputs = self.out_channels // self.groups
        for simd in divisors(self.group_inputs):
            if simd % self.m:
                continue
            terms, steps = simd // self.m * self.n, self.group_inputs // simd
            for pe in divisors(outputs):
                words = (self.out_channels // pe) * steps * self.sets
                bits = words * pe * simd * self.n // self.m * self.weight_type.bits
                # a RAM block takes 18 kbit at least, UltraRAM 288; deep logic is expensive
                rams = [0] if words <= 256 else []
                rams += [1] if (words >= 16 and bits >= 1024) or not rams else []
                rams += [2] if words >= 512 and bits >= 65536 else []
                for lanes in self._lanes(terms, pe, min(outputs // pe, steps)):
                    for ram in rams:
                        yield {"simd": simd, "pe": pe, **lanes, "weight_ram": ram}

    def _lanes(self, terms: int, pe: int, most: int) -> Iterator[dict[str, int]]:
        """Tokens side by side with their multipliers: more than ``most`` would wait for each other
        at the ports."""
        keys = ("tp", "pack", "pack_out", "mult_dsp", "pump")
        found = [t for t in TOKENS if t <= self.max_tokens]
        for i, tp in enumerate(found):
            if i and found[i - 1] >= most:
                return
            if tp % 3:
                yield dict(zip(keys, (tp, 1, 1, 0, 1), strict=True))
            outs = (1, 2) if self.m == 1 and pe % 2 == 0 else (1,)
            shares = sharing(self.in_type, self.weight_type, tp, outs, terms)
            for k, o in shares if tp == 1 or shares != ((1, 1),) else ():
                for pump in (1, 2) if pe % (2 * o) == 0 else (1,):
                    yield dict(zip(keys, (tp, k, o, 1, pump), strict=True))

    def suits(self, device: Device) -> bool:
        if self.weight_ram == 2 and not device.uram_init:
            return False
        if self.pump > device.pump:
            return False
        return not self.mult_dsp or self.fits_dsp(device.dsp_ports)

    def _padded(self, words: int) -> int:
        """Words of a memory with that many for every set."""
        return ((self.sets - 1) << (words - 1).bit_length()) + words

    def resources(self) -> Resources:
        x, w, acc = self.in_type, self.weight_type, self.acc_type.bits
        out, result = self.out_type.bits, self.result_type.bits
        mults, pe, tp = self.multipliers, self.pe, self.tp
        shares = tp // self.pack
        tiles, beats = self.out_channels // pe, self.in_channels // self.simd
        slots, chain, slices = self.m - self.n + 1, self.chain, self.slices
        lut, ff = 0.0, 0.0

        # two banks of inputs, and what is read of them
        lut += tp * lut_ram(self.simd * x.bits, 2 << (beats - 1).bit_length())
        ff += tp * self.simd * x.bits * (2 if self.weight_ram else 1)
        # weights
        words, width = self.sets * self.steps, sum(slices)
        block, uram = Resources(), 0
        for bits, number in Counter(slices).items() if self.weight_ram else ():
            one = block_rom(words, bits) if self.weight_ram == 1 else Resources()
            block += Resources(*(number * v for v in one.astuple()))
            uram += number * -(-bits // 72) * -(-words // 4096) if self.weight_ram == 2 else 0
        if not self.weight_ram:
            # behind more than eight bits of address open synthesis makes twice as much of a word
            lut += rom(width, words, 32 if self.sets == 1 or words <= 256 else 16)
            ff += min(width, 1 << min(words, 20))
        ff += (len(slices) - 1) * (3 - self.pump) * words.bit_length() + width // 2 * (chain > 1)
        # inputs for the blocks of a chain: a shift register takes a LUT, two registers none
        field = x.bits + (x.signed and self.pack > 3 - self.pack_out)
        lanes = self.simd // chain if slots == 1 else 0
        if self.pump == 1:
            lut += shares * self.pack * field * lanes * max(0, chain - 3)
            ff += shares * self.pack * field * lanes * (0, 1, 3)[min(chain, 3) - 1]
        elif self.select_2x:
            # weights and indices of two outputs take turns, the second one's a half later; then
            # what they choose, which odd blocks take a half later
            turns = mults * (w.bits + self.index_bits) / 2
            lut += turns
            ff += 2 * turns
            ff += mults * (shares * self.pack * field + w.bits) / 2 * (1 + chain // 2 / chain)
        else:
            # a delay serves two blocks, and every second one takes a register at twice the clock;
            # the weights of two outputs take turns
            lut += (
                shares * self.pack * field * lanes * max(0, chain - 5) + shares * mults * w.bits / 2
            )
            ff += shares * self.pack * field * lanes * (min(chain - 1, 3) + (chain + 1) / 2)
            ff += mults * w.bits * ((chain + 1) // 2) / chain
        if self.pump == 2:  # the sums of two outputs wait for each other
            sums = shares * mults / chain / self.pack_out * self.pack * self.pack_out
            ff += sums * field_bits(x, w, chain) * (3 + chain % 2) / 2 + 4
        if slots > 1 and chain > 1:  # the same input at every weight of its group
            ff += shares * self.pack * x.bits * self.simd * (self.n - 1) * slots / self.m
        # multipliers, behind the choice of their inputs
        size = field_bits(x, w, chain)
        if slots > 1:
            choice = mults * shares * self.pack * field * -(-(slots - 1) // 3)
            lut += choice / (1 + self.select_2x)
        if not self.mult_dsp:
            lut += tp * mults * lut_multiplier(x, w)
            ff += tp * (mults if slots > 1 else self.terms) * x.bits
            ff += mults * w.bits + tp * mults * size
        # adder trees
        for adders, sums, growth in self.tree():
            lut += tp * pe * adders * (size + growth)
            ff += tp * pe * sums * (size + growth)
        # accumulators and bias
        lut += tp * pe * acc
        ff += tp * pe * acc
        bias = self.pe * self.bias_type.bits
        if self.sets == 1:
            lut += rom(bias, tiles, 20)
            ff += bias
        else:
            block += parallel_rom(self._padded(tiles), bias, 1)
        # one token after the other
        if tp > 1:
            lut += tp * lut_ram(pe * acc, 2 << (tiles - 1).bit_length())
            lut += pe * acc * -(-(tp - 1) // 3) + 50
            ff += pe * acc + 50
        # rounding, saturation, table, output register
        rounded = max(2, acc + 1 - self.shift)
        lut += pe * (rounded + result + 5) + pe * out
        ff += pe * (rounded + result + 2 * out)
        if self.entries:
            index = (self.entries - 1).bit_length()
            lut += pe * 2 * index
            ff += pe * index
            if self.sets == 1:
                lut += pe * out * -(-self.entries // 64)
                ff += pe * out
            else:
                block += parallel_rom(self._padded(self.entries), out, pe)
        control = 50 + 2 * words.bit_length()
        if self.sets > 1:  # where a set begins; its number in the banks, the pipeline and behind it
            control += words.bit_length() + 6 * (self.sets - 1).bit_length()
        return Resources(
            lut=lut + block.lut + control,
            ff=ff + block.ff + control,
            dsp=shares * mults // self.pack_out // self.pump if self.mult_dsp else 0,
            bram36=block.bram36,
            uram=uram,
        )


def lut_ram(width: int, words: int) -> int:
    """LUTs of a RAM with a write and a read port: blocks of 8 LUTs hold 32 words of 14 bits or 64
    of 7; deeper ones need multiplexers."""
    if words <= 32:
        return 8 * -(-width // 14)
    banks = -(-words // 64)
    return 8 * -(-width // 7) * banks + (width * -(-(banks - 1) // 3) if banks > 1 else 0)


def rom(width: int, words: int, dense: int) -> float:
    """LUTs of a ROM in logic, where equal columns of a short one are one: about one per column and
    ``dense`` words. What open synthesis makes of a deep one depends on its contents."""
    return min(width, 1 << min(words, 20)) * max(0.6, words / dense)


def parallel_rom(words: int, bits: int, reads: int) -> Resources:
    """A ROM of random contents with that many registered outputs, where open synthesis chooses
    between block RAM, two of them per block, and logic."""
    one, pairs = block_rom(words, bits), -(-reads // 2)
    if 258 * pairs * one.bram36 + 2 < words * bits / 64:
        return Resources(lut=reads * one.lut, bram36=pairs * one.bram36)
    pages = -(-words // 64)
    return Resources(lut=reads * bits * (pages + max(pages - 4, 0) / 3), ff=reads * bits)


def lut_multiplier(x: IntType, w: IntType) -> float:
    """LUTs of a multiplier: one per bit where both operands fit a LUT, else two per bit and row of
    carry-save adders; signs take a little more."""
    if x.bits + w.bits <= 6:
        return x.bits + w.bits
    wide, narrow = max(x.bits, w.bits), min(x.bits, w.bits)
    return 2 * wide * (narrow - 1) * (1.15 if x.signed and narrow > 2 else 1.0)


def field_bits(x: IntType, w: IntType, terms: int) -> int:
    """Bits of a field that holds the sum of that many products, and one less than it."""
    return (terms * max(-x.min, x.max) * max(-w.min, w.max)).bit_length() + 1


def _fits_dsp(
    x: IntType, w: IntType, pack: int, pack_out: int, chain: int, ports: tuple[int, int]
) -> bool:
    """A chain of DSP blocks with these signed operands adds up the products of ``pack`` tokens with
    the weights of ``pack_out`` outputs."""
    field = field_bits(x, w, chain)
    tokens = (pack - 1) * field + x.bits + (pack > 1 or not x.signed)
    outputs = (pack_out - 1) * pack * field + w.bits + (pack_out > 1 or not w.signed)
    # the wider port takes the weights of two outputs, or several tokens
    wide, narrow = (outputs, tokens) if pack_out > 1 else (tokens, outputs)
    if pack == pack_out == 1:
        wide, narrow = max(wide, narrow), min(wide, narrow)
    fits = wide <= max(ports) and narrow <= min(ports)
    return fits and pack * pack_out * field <= DSP_SUM_BITS


@cache
def sharing(
    x: IntType, w: IntType, tp: int, outs: tuple[int, ...], terms: int
) -> tuple[tuple[int, int], ...]:
    """Tokens and outputs that share a DSP block: the most products, and fewer (but several) where
    that makes longer chains."""
    pairs = [
        (k * o, longest_chain(x, w, k, o, terms), k, o)
        for k in divisors(tp)
        for o in outs
        if k <= 4 and _fits_dsp(x, w, k, o, 1, DSP_PORTS)
    ]
    kept: list[tuple[int, int]] = []
    longest = 0
    for products, chain, k, o in sorted(pairs, reverse=True):
        if chain > longest and (products > 1 or not kept):
            kept.append((k, o))
            longest = chain
    return tuple(kept)


@cache
def longest_chain(x: IntType, w: IntType, pack: int, pack_out: int, terms: int) -> int:
    """The most DSP blocks in a row that divide the terms of a step and whose sum fits."""
    lengths = (k for k in range(min(terms, LONGEST_CHAIN), 1, -1) if terms % k == 0)
    return next((k for k in lengths if _fits_dsp(x, w, pack, pack_out, k, DSP_PORTS)), 1)


def accumulator_type(weight: Tensor, bias: Tensor, x: IntType) -> IntType:
    """Type that holds every partial sum ``bias + sum w x`` in any order, for these weights."""
    high = (weight.clamp(min=0) * x.max + weight.clamp(max=0) * x.min).sum(-1) + bias.clamp(min=0)
    low = (weight.clamp(min=0) * x.min + weight.clamp(max=0) * x.max).sum(-1) + bias.clamp(max=0)
    return IntType.fitting(min(int(low.min()), -1), int(high.max()))


def _sums(p: NmMatmulParams, constants: Constants, x: Stream) -> Tensor:
    """Accumulators ``bias + W x``, int64 ``[B, T, out_channels]``; OverflowError if one does not
    fit."""
    p.compressed(constants["weight"])
    batch, tokens, _ = x.data.shape
    weight = constants["weight"].reshape(p.groups, -1, p.group_inputs)
    data = x.data.reshape(batch * tokens, p.groups, p.group_inputs).transpose(0, 1)
    bound = p.group_inputs * (1 << (p.in_type.bits + p.weight_type.bits))
    acc = exact_matmul(data, weight.transpose(1, 2), bound).transpose(0, 1)
    acc = acc.reshape(batch, tokens, p.out_channels) + constants["bias"]
    return p.acc_type.check(acc, "nm_matmul accumulator")


def nm_matmul(p: NmMatmulParams, constants: Constants, x: Stream) -> Stream:
    """Golden function. ``weight``: int64 ``[out_channels, in_channels / groups]`` with its zeros;
    ``bias``: int64 ``[out_channels]`` in units of the accumulator; ``table``: int64 ``[entries]``,
    only with ``entries`` > 0."""
    acc = _sums(p, constants, x)
    result = saturate(round_shift(acc, p.shift, bool(p.half_up)), p.result_type)
    if p.entries:
        values = p.out_type.check(constants["table"], "table")
        result = lookup(result, values, p.table_offset, p.table_shift)
    return x.with_data(result)


def stimuli(
    rng: torch.Generator, p: NmMatmulParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Random constants with 0..n nonzeros per group, extreme weights among them, and frames. Some
    tokens have nothing but extreme values; so have, behind DSP blocks, the weights of two outputs.
    """
    t = p.weight_type
    shape = (p.out_channels, p.group_inputs // p.m, p.m)
    weight = torch.randint(t.min, t.max + 1, shape, generator=rng)
    kind = torch.randint(0, 8, shape, generator=rng)
    weight = torch.where(kind == 0, t.min, torch.where(kind == 1, t.max, weight))
    if p.mult_dsp and p.out_channels > 2:
        weight[0], weight[-1] = t.min, t.max
    if p.m > 1:
        rank = torch.rand(shape, generator=rng).argsort(-1)
        keep = torch.randint(0, p.n + 1, (*shape[:2], 1), generator=rng)
        keep[torch.rand(keep.shape, generator=rng) < 0.6] = p.n
        weight = weight * (rank < keep)
    b = p.bias_type
    bias = torch.randint(b.min // 2, b.max // 2 + 1, (p.out_channels,), generator=rng)
    constants = {"weight": weight.reshape(p.out_channels, -1), "bias": bias}
    if p.entries:
        t = p.out_type
        constants["table"] = torch.randint(t.min, t.max + 1, (p.entries,), generator=rng)
    x = random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)
    kind, t = torch.randint(0, 10, (*x.data.shape[:2], 1), generator=rng), p.in_type
    data = torch.where(kind == 0, t.min, torch.where(kind == 1, t.max, x.data))
    return constants, [x.with_data(data)]


def _chain_bins(p: NmMatmulParams, stored: Tensor, index: Tensor, x: Stream) -> dict[str, int]:
    """What the chains of DSP blocks add up: fields at their ends, and below each other.

    ``stored``, ``index``: int64 ``[out_channels, group_inputs / m, n]``.
    """
    names = ("field_sum_max", "field_sum_min", "negative_token_below", "negative_output_below")
    out = dict.fromkeys(names, 0)
    out |= {
        "chain_of_one": int(p.mult_dsp and p.chain == 1),
        "chain_of_several": int(p.chain > 1),
        "several_chains": int(p.chain > 1 and p.terms > p.chain),
        "two_clocks_even_chain": int(p.pump > 1 and p.chain % 2 == 0),
        "two_clocks_odd_chain": int(p.pump > 1 and p.chain % 2 == 1),
        "two_clocks_choose_in_even_chain": int(p.select_2x and p.chain % 2 == 0),
        "two_clocks_choose_in_odd_chain": int(p.select_2x and p.chain % 2 == 1),
    }
    if not p.mult_dsp:
        return out
    w, t = p.weight_type, p.in_type
    high = p.chain * max(t.min * w.min, t.max * w.max)
    low = p.chain * min(t.min * w.max, t.max * w.min)
    outputs = p.out_channels // p.groups
    first = torch.arange(p.group_inputs // p.m)[:, None] * p.m  # input of a weight
    for o in range(0, p.out_channels, p.pack_out):
        at = (o // outputs * p.group_inputs + first + index[o : o + p.pack_out]).flatten(1)
        product = x.data[:, :, at] * stored[o : o + p.pack_out].flatten(1)
        total = product.unflatten(-1, (-1, p.chain)).sum(-1)  # [frame, token, output, chain]
        total = total * x.valid()[:, :, None, None]
        out["field_sum_max"] += int((total == high).sum())
        out["field_sum_min"] += int((total == low).sum()) if low else 0
        below = (total < 0) & (torch.arange(total.shape[1]) % p.pack < p.pack - 1)[:, None, None]
        out["negative_token_below"] += int(below.sum())
        last = (total[:, p.pack - 1 :: p.pack] < 0)[:, :, : p.pack_out - 1]
        out["negative_output_below"] += int(last.sum())
    return out


def bins(p: NmMatmulParams, constants: Constants, x: Stream) -> dict[str, int]:
    """How often constants and frames hit what deserves a test of its own, by name."""
    out: dict[str, int] = {}

    def count(name: str, hits: Tensor | bool | int) -> None:
        out[name] = int(hits.sum()) if isinstance(hits, Tensor) else int(hits)

    weight, m = constants["weight"], p.m
    stored, index = p.compressed(weight)
    nonzero = weight.reshape(p.out_channels, -1, m) != 0
    filled = nonzero.sum(-1)
    for pattern in (1, 2, 4, 8, 16):
        count(f"m_{pattern}", m == pattern)
    for number in (0, 1, 2, 3, 4):
        count(f"groups_with_{number}_nonzeros", (filled == number) * (p.n < m))
    count("groups_with_n_nonzeros", (filled == p.n) * (p.n < m))
    for position in range(16):
        count(f"index_{position}", ((index == position) & (stored != 0)) * (m > 1))
    count("nonzero_first_in_group", nonzero[..., 0] * (m > 1))
    count("nonzero_last_in_group", nonzero[..., -1] * (m > 1))
    count("nonzeros_side_by_side", nonzero[..., 1:] & nonzero[..., :-1])
    count("stored_zero", stored == 0)
    count("weight_min", stored == p.weight_type.min)
    count("weight_max", stored == p.weight_type.max)

    data, t = x.data[x.valid()], p.in_type
    count("input_min", data == t.min)
    count("input_max", data == t.max)
    count("unsigned_inputs", not t.signed)
    # products of the most negative weight and the most negative input
    low = (weight == p.weight_type.min).reshape(p.groups, -1, p.group_inputs).any(1).flatten()
    count("min_times_min", (data[:, low] == t.min) * t.signed * p.weight_type.signed)
    for number in (1, 2, 3, 4):
        count(f"tokens_per_multiplier_{number}", p.pack == number)
    for number in (1, 2):
        count(f"outputs_per_multiplier_{number}", p.pack_out == number)
    out.update(_chain_bins(p, stored, index, x))

    acc = _sums(p, constants, x)[x.valid()]
    exact, r = round_shift(acc, p.shift, bool(p.half_up)), p.result_type
    half = 1 << (p.shift - 1) if p.shift > 0 else 0
    tie = (acc & (2 * half - 1)) == half if half else torch.zeros_like(acc, dtype=torch.bool)
    count("accumulator_negative", acc < 0)
    count("tie_up", tie & ((exact << max(p.shift, 0)) > acc))
    count("tie_down", tie & ((exact << max(p.shift, 0)) < acc))
    count("tie_negative", tie & (acc < 0))
    count("saturated_low", exact < r.min)
    count("saturated_high", exact > r.max)
    count("in_range", (exact >= r.min) & (exact <= r.max))
    count("left_shift", p.shift < 0)
    count("no_shift", p.shift == 0)
    entry = (saturate(exact, r) + p.table_offset) >> p.table_shift
    count("table_below", (entry < 0) * (p.entries > 0))
    count("table_above", (entry >= p.entries) * (p.entries > 0))
    count("table_inside", ((entry >= 0) & (entry < p.entries)) * (p.entries > 0))

    count("token_of_one_beat", p.inputs()[0].beats == 1)
    count("token_of_one_output_beat", p.output().beats == 1)
    count("several_groups", p.groups > 1)
    count("frame_of_one_token", x.length == 1)
    count("longest_frame", x.length == p.max_tokens)
    count("package_token", x.package)
    count("tokens_all_side_by_side", (x.length % p.tp == 0) * (p.tp > 1))
    count("tokens_partly_filled_end", x.length % p.tp != 0)
    count("tokens_side_by_side_odd", p.tp % 2 == 1 and p.tp > 1)
    for ram, name in enumerate(("lut", "block")):
        count(f"weights_in_{name}_ram", p.weight_ram == ram)
    return out
