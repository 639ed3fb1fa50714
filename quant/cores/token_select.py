# SPDX-License-Identifier: Apache-2.0
"""Run-time token pruning with a package token (HeatViT, Dong et al., HPCA'23, eq. 10)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.bins import rounding_bins
from sievit.quant.cores.lookup_table import lookup
from sievit.quant.itype import IntType
from sievit.quant.multiplier import BoothMult
from sievit.quant.params import (
    Constants,
    CoreParams,
    Device,
    Memory,
    Port,
    Resources,
    Stream,
    divisors,
    pack,
    random_frames,
)
from sievit.quant.rounding import reciprocal_index, reciprocal_table, round_shift, saturate


@dataclass(frozen=True)
class TokenSelectParams(CoreParams):
    """Keep the class token and the tokens that the scores choose, in raster order.

    ``topk = 0``: a token stays if its score is not negative. ``topk > 0``: of the candidates - all
    tokens but the class token and the incoming package token - those with the ``topk`` largest
    scores stay, of equal ones the first. The other tokens, and the incoming package token if
    ``tuser`` marks one, are averaged into one package token that leaves last::

        w = table[clamp((score + offset) >> shift, 0, entries - 1)]
        num, den = sum(w * x), sum(w)      # over the participants
        num, den = sum(x), count           # if den is 0
        i, l = reciprocal_index(den, index_bits)
        package = saturate(round_shift(num * recip[i], l + recip_shift), x_type)

    No participant: no package token. The output's ``tuser`` says whether there is one.
    """

    channels: int = 4
    simd: int = 2
    x_type: IntType = IntType(12, True)
    score_type: IntType = IntType(18, True)
    weight_type: IntType = IntType(8, False)
    offset: int = 65536
    shift: int = 10
    entries: int = 128
    index_bits: int = 6
    recip_type: IntType = IntType(11, False)
    #: fraction bits of the reciprocal table
    recip_shift: int = 10
    half_up: int = 0
    #: candidates that stay; 0: those whose score is not negative
    topk: int = 0
    #: scores compared per cycle of the search for the smallest one that stays
    search: int = 1
    #: waiting beats in block RAM (1) or LUT RAM (0)
    frame_ram: int = 0
    #: products in DSP blocks (1) or LUTs (0)
    mult_dsp: int = 0

    def __post_init__(self) -> None:
        self.require(self.channels % self.simd == 0, "simd must divide channels")
        self.require(self.score_type.signed, "the score must be signed")
        self.require(self.score_type.bits >= 2, "the score needs a bit beside its sign")
        self.require(not self.weight_type.signed, "the weights must be unsigned")
        self.require(not self.recip_type.signed, "the reciprocals must be unsigned")
        narrow = all(min(a, b) <= 16 for a, b in self.products)
        self.require(narrow or self.mult_dsp == 1, "products this wide need mult_dsp = 1")
        self.require(self.recip_shift >= 0, "recip_shift must not be negative")
        self.require(self.topk >= 0, "topk must not be negative")
        self.require(self.search >= 1, "at least one score is compared per cycle")
        self.require(self.frame_ram in (0, 1) and self.mult_dsp in (0, 1), "styles are 0 or 1")

    @property
    def beats(self) -> int:
        return self.channels // self.simd

    @property
    def products(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Bits of the signed factors of ``w * x`` and ``num * recip``."""
        x, w = self.x_type.bits + (not self.x_type.signed), self.weight_type.bits
        return (x, w + 1), (x + w + self.max_tokens.bit_length(), self.recip_type.bits + 1)

    def inputs(self) -> tuple[Port, ...]:
        return (
            Port("s_axis_x", self.channels, self.simd, self.x_type),
            Port("s_axis_score", 1, 1, self.score_type),
        )

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.x_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``weight`` and ``recip``: an entry per word."""
        weight, recip = constants["weight"][:, None], constants["recip"][:, None]
        return {
            "weight": Memory(self.weight_type.bits, pack(weight, self.weight_type)),
            "recip": Memory(self.recip_type.bits, pack(recip, self.recip_type)),
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {
            "weight": (self.weight_type, constants["weight"]),
            "recip": (self.recip_type, constants["recip"]),
        }

    def cycles(self, tokens: int) -> int:
        # the package token is the bottleneck of frames of very few beats
        return max(tokens * self.beats + 2, self.beats + 8, self.search_cycles(tokens))

    def search_cycles(self, tokens: int) -> int:
        """Cycles that the search and the decisions of a frame take; 0 without top-k."""
        if not self.topk:
            return 0
        return self.pass_cycles(tokens) + tokens + 4

    def pass_cycles(self, tokens: int) -> int:
        """Cycles of the search: a pass per bit of the score, none if every candidate stays."""
        passes = self.score_type.bits if tokens > self.topk + 1 else 0
        return passes * (-(-tokens // self.search) + 3)

    def head_latency(self, tokens: int) -> int:
        if self.topk:
            return tokens * self.beats + self.pass_cycles(tokens) + 11
        return self.beats + 7

    def barrier(self) -> bool:
        return self.topk > 0

    def macs(self, tokens: int) -> int:
        return tokens * self.channels

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.channels):
            if not self.topk:
                yield {"simd": simd}
                continue
            for search in (1, 2, 4, 8):
                for ram in (0, 1):
                    yield {"simd": simd, "search": search, "frame_ram": ram}

    def suits(self, device: Device) -> bool:
        count = [_dsp(a, b) == _dsp(a, b, *device.dsp_ports) for a, b in self.products]
        return not self.mult_dsp or all(count)

    @property
    def fifo_depth(self) -> int:
        """Beats that wait for their token's decision: a token, or a frame and its search."""
        if not self.topk:
            return 16 + self.beats
        frame = self.max_tokens * self.beats
        rows = -(-self.max_tokens // self.search)
        search = self.score_type.bits * (rows + 3) + self.max_tokens + 8
        return 16 + frame + min(search, frame)

    def resources(self) -> Resources:
        (x, w1), (num, r1) = self.products
        data, score = self.simd * self.x_type.bits, self.score_type.bits
        weight, recip = w1 - 1, r1 - 1
        den, count = num - x, self.max_tokens.bit_length()
        product = num + recip
        floor = product - (den - 1 + self.recip_shift)
        # memories of decisions, of waiting beats, sums, a package token; two tables
        judged = _ring(self.max_tokens + 16 if self.topk else self.fifo_depth // self.beats + 3)
        lut = _lut_ram(weight + 2, judged) + _lut_ram(data + 3, _ring(self.beats + 16))
        lut += _lut_ram(data, self.beats)
        if self.beats > 1:
            lut += _lut_ram(self.simd * num, self.beats)
        blocks, ram = _block_ram(data, self.fifo_depth)
        if not self.frame_ram:
            blocks, ram = 0.0, _lut_ram(data, self.fifo_depth)
        lut += ram + 6 * self.fifo_depth.bit_length()
        lut += weight * -(-self.entries // 64) + recip * -(-(1 << self.index_bits) // 64)
        ff = data + 3 * self.fifo_depth.bit_length()
        if self.topk:
            rows = -(-self.max_tokens // self.search)
            lut += self.search * (_lut_ram(score, 2 * rows) + score) + 12 * count - 20
            ff += self.search * score + 5 * score + 7 * count
        else:
            lut += _lut_ram(2, judged)
        # a lane: two products, sum, alignment, rounding, output
        if self.mult_dsp:
            split = _dsp(num, r1) > 1  # added up outside
            lane = Resources(lut=(product - 17) * split, ff=2 * product)
        else:
            lane = BoothMult(x, w1).resources() + BoothMult(num, r1).resources()
        steps = -(-(den - 1).bit_length() // 2)
        return Resources(
            lut=lut
            + self.simd * (lane.lut + num * (1.8 + steps) + floor + 2 * self.x_type.bits)
            + 145,
            ff=ff + self.simd * (lane.ff + 2 * num + floor + 1 + 4 * self.x_type.bits) + 190,
            dsp=self.mult_dsp * self.simd * sum(_dsp(a, b) for a, b in self.products),
            bram36=blocks,
        )


def _ring(words: int) -> int:
    """The power of two that holds them."""
    return 1 << (words - 1).bit_length()


def _lut_ram(bits: int, words: int) -> float:
    """LUTs of a simple dual-port memory: blocks of 32 x 14 or 64 x 7 bits in 8 LUTs each, and the
    multiplexer behind them."""
    blocks, chunks = min(
        (-(-words // depth) * -(-bits // width), -(-words // depth))
        for depth, width in ((32, 14), (64, 7))
    )
    return 8 * blocks + bits * _select(chunks) + (chunks if chunks > 1 else 0)


def _select(chunks: int) -> float:
    """LUTs per bit that choose between parts of a memory."""
    return (0, 0, 1, 1, 1, 2, 3, 4, 4)[chunks] if chunks <= 8 else 2 + chunks / 5


def _block_ram(bits: int, words: int) -> tuple[float, float]:
    """RAMB36 (in halves) of a simple dual-port memory, of the shape that takes fewest, and LUTs."""
    shapes = [
        (size, -(-words // (size * 16384 // w)), -(-bits // (w + w // 8)))
        for size, widest in ((1, 32), (2, 64))
        for w in (1, 2, 4, 8, 16, 32, 64)
        if w <= widest
    ]
    half, chunks = min((size * deep * wide, deep) for size, deep, wide in shapes)
    return half / 2, bits * _select(chunks) + (chunks if chunks > 1 else 0)


def _dsp(a: int, b: int, wide: int = 27, narrow: int = 18) -> int:
    """DSP blocks of a signed product, as open synthesis splits it where a factor is too wide."""
    short, long = sorted((a, b))
    return -(-(long - 1) // (wide - 1)) * -(-(short - 1) // (narrow - 1))


def token_select(p: TokenSelectParams, constants: Constants, x: Stream, score: Stream) -> Stream:
    """Golden function. ``weight``: int64 ``[entries]``, ``recip``: int64 ``[2^index_bits]``."""
    if not torch.equal(x.length, score.length):
        raise ValueError("token_select: x and score carry frames of different length")
    keep, part = decide(x, score, p.topk)
    _, scaled, shift = _package(p, constants, x, score, part)
    mean = round_shift(scaled, shift, bool(p.half_up))
    return compact(x, keep, part, saturate(mean, p.x_type))


def _package(
    p: TokenSelectParams, constants: Constants, x: Stream, score: Stream, part: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of the weights ``[B, 1]``, and the package token ``[B, C]`` before its rounding by
    ``[B, 1]``."""
    weight = lookup(score.data, constants["weight"], p.offset, p.shift) * part[..., None]
    total = weight.sum(1)
    zero = total == 0
    num = torch.where(zero, (x.data * part[..., None]).sum(1), (weight * x.data).sum(1))
    den = torch.where(zero, part.sum(1, keepdim=True), total).clamp(min=1)
    index, position = reciprocal_index(den, p.index_bits)
    return total, num * constants["recip"][index], position + p.recip_shift


def decide(x: Stream, score: Stream, topk: int = 0) -> tuple[Tensor, Tensor]:
    """(kept, takes part in the package), bool ``[B, T]`` each; every token is one of both.

    ``topk``: see :class:`TokenSelectParams`.
    """
    token, z = torch.arange(x.data.shape[1]), score.data[..., 0]
    incoming = x.package[:, None] & (token == x.length[:, None] - 1)
    if topk:
        candidate = x.valid() & ~incoming & (token > 0)
        # candidates first, by falling score; a stable sort leaves equal ones in their order
        order = z.sort(dim=1, descending=True, stable=True).indices
        first = (~candidate).gather(1, order).long().sort(dim=1, stable=True).indices
        rank = order.gather(1, first).argsort(dim=1)
        stays = candidate & (rank < topk)
    else:
        stays = z >= 0
    keep = x.valid() & ~incoming & ((token == 0) | stays)
    return keep, x.valid() & ~keep


def compact(x: Stream, keep: Tensor, part: Tensor, package: Tensor) -> Stream:
    """Kept tokens in raster order, then ``package`` int64 or float ``[B, C]`` of any ``part``."""
    _, tokens, channels = x.data.shape
    order = (~keep).long().sort(dim=1, stable=True).indices
    data = torch.gather(x.data, 1, order[..., None].expand(-1, -1, channels))
    kept, has = keep.sum(1), part.any(1)
    length = kept + has
    data = torch.where((torch.arange(tokens) == kept[:, None])[..., None], package[:, None], data)
    return Stream(data, length, has).with_data(data)


def stimuli(
    rng: torch.Generator, p: TokenSelectParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Frames that keep one, none, all or some tokens, with equal scores, with selections that
    repeat, with weights of 0 and with the largest sums of weights. Means over powers of two are
    exact, so that some of them are ties."""
    x = random_frames(rng, p.inputs()[0], frames, p.max_tokens, True)
    z = random_frames(rng, p.inputs()[1], frames, p.max_tokens)
    data = torch.nn.functional.pad(z.data, (0, 0, 0, p.max_tokens))[:, : x.data.shape[1]]
    t, w = p.score_type, p.weight_type
    zero = torch.randint(0, 2, data.shape, generator=rng).bool()
    kind = torch.randint(0, 9, (frames, 1, 1), generator=rng)
    data = torch.where(kind == 0, data.abs().clamp(max=t.max), data)  # keep all
    data = torch.where(kind == 1, t.min, data)  # drop all; weight may be 0 for all
    data = torch.where(kind == 2, data.clamp(-1, 1), data)  # ties at 0
    data = torch.where(kind == 3, -1, data)  # drop all with the largest weight
    data = torch.where((kind == 4) & zero, t.min, data)
    single = x.length == 1  # a package token alone
    x.package |= single & torch.randint(0, 2, (frames,), generator=rng).bool()
    for i in range(2, frames):
        if kind[i] == 5:  # the selection of the frame before, on other data
            x.data[i] = x.data[i - 1].roll(1, dims=1)
            x.length[i], x.package[i], data[i] = x.length[i - 1], x.package[i - 1], data[i - 1]
    weight = torch.randint(w.min, w.max + 1, (p.entries,), generator=rng)
    weight[((p.offset - 1) >> p.shift) % p.entries] = w.max
    weight[0] = 0
    recip = reciprocal_table(p.index_bits, p.recip_shift)
    recip[0] = 1 << p.recip_shift
    constants = {"weight": weight, "recip": p.recip_type.check(recip, "recip")}
    return constants, [x, x.with_data(data)]


def bins(p: TokenSelectParams, constants: Constants, x: Stream, score: Stream) -> dict[str, int]:
    """How many frames, or tokens where the name says so, are cases worth seeing."""
    keep, part = decide(x, score, p.topk)
    z, token = score.data[..., 0], torch.arange(x.data.shape[1])
    last = token == x.length[:, None] - 1
    incoming = x.package[:, None] & last
    candidate = x.valid() & ~incoming & (token > 0)
    kept, parts, candidates = keep.sum(1), part.sum(1), candidate.sum(1)
    dropped = candidate & ~keep  # without the incoming package token
    index = (z + p.offset) >> p.shift
    weight = lookup(z, constants["weight"], p.offset, p.shift)
    zero = part & (weight == 0)
    total, scaled, shift = _package(p, constants, x, score, part)
    den = total[:, 0]
    most = int(constants["weight"].max()) * p.max_tokens
    some = parts > 0
    before = (part & ~zero).long().cumsum(1) > 0  # a weight other than 0 came before
    equal = (keep[1:] == keep[:-1]).all(1) & (x.length[1:] == x.length[:-1])
    # the smallest candidate that stays, the largest that does not
    lowest = torch.where(candidate & keep, z, p.score_type.max + 1).amin(1)
    highest = torch.where(dropped, z, p.score_type.min - 1).amax(1)
    mean = round_shift(scaled, shift, bool(p.half_up))
    top = p.topk > 0
    cases = {
        "keeps all": (parts == 0) & (x.length > 1),
        "keeps the class token alone": (kept == 1) & (x.length > 1),
        "keeps none: a package token alone": kept == 0,
        "keeps some": (kept > 1) & some,
        "class token with a negative score": keep[:, 0] & (z[:, 0] < 0),
        "last token kept": (last & keep).any(1),
        "last token dropped": (last & dropped).any(1),
        "single-token frame": x.length == 1,
        "longest frame": x.length == p.max_tokens,
        "one beat per token": (x.length > 0) & (p.beats == 1),
        "one lane": (x.length > 0) & (p.simd == 1),
        "selection of the frame before": equal,
        "score of 0 stays": (candidate & keep & (z == 0)).any(1) & (not top),
        "score of -1 does not": (dropped & (z == -1)).any(1) & (not top),
        "equal scores on both sides of the k-th": (lowest == highest) & top,
        "k-th score distinct from the next": (lowest > highest) & dropped.any(1) & top,
        "all candidates equal": (lowest == highest) & (kept > 1) & top
        & (torch.where(candidate, z, p.score_type.min).amax(1) == lowest),
        "fewer candidates than k": (candidates < p.topk) & top,
        "as many candidates as k": (candidates == p.topk) & top,
        "one candidate more than k": (candidates == p.topk + 1) & top,
        "incoming package token without further ones": x.package & ~dropped.any(1),
        "incoming package token with further ones": x.package & dropped.any(1),
        "denominator 0": some & (den == 0),
        "denominator 1": den == 1,
        "denominator in its top quarter": den >= (3 * most + 3) // 4,
        "weight of 0 before another": (zero & ~before).any(1) & (den > 0),
        "weight of 0 after another": (zero & before).any(1),
        "table index clamped below": (part & (index < 0)).any(1),
        "table index clamped above": (part & (index >= p.entries)).any(1),
        "package saturated upwards": (mean > p.x_type.max).any(1),
        "package saturated downwards": (mean < p.x_type.min).any(1),
        "package of the smallest value": ((mean == p.x_type.min) & (den > 0)[:, None]).any(1),
    }  # fmt: skip
    return {
        **{name: int(hit.sum()) for name, hit in cases.items()},
        **rounding_bins("package", scaled[some], shift[some]),
    }
