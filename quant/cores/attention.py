# SPDX-License-Identifier: Apache-2.0
"""Multi-head attention with dynamic N:M sparse rows and table softmax.

The selection is that of DFSS (Chen et al., PPoPP'23), which FNM-Trans (Zhang et al., DAC'24) builds
on: of every M consecutive keys of a row the N with the largest scores survive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sievit.quant.cores.lookup_table import lookup
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
from sievit.quant.rounding import reciprocal_index, reciprocal_table, round_shift, saturate


@dataclass(frozen=True)
class AttentionParams(CoreParams):
    """Per head and query, over the keys j of the frame; heads are consecutive channel slices.

    ::

        s[j] = sum_d q[d] k[j, d]                                  # exact
        of every m consecutive keys the n largest survive, ties to the lower index
        e[j] = exp[clamp((max(s) - s[j] + exp_offset) >> exp_shift, 0, exp_entries - 1)]
        i, l = reciprocal_index(sum(e), index_bits)
        p[j] = saturate(round_shift(e[j] * recip[i], l + prob_shift), prob_type)
        y[d] = saturate(round_shift(sum_j p[j] v[j, d], shift), out_type)

    Keys that do not survive contribute nothing. ``n = m`` is dense attention, m keys at a time. Per
    row and head the core takes ``ceil(tokens / m) * (head_dim / simd)`` steps of ``m * simd`` score
    and ``n * simd`` value multiplications.
    """

    channels: int = 8
    heads: int = 2
    n: int = 2
    m: int = 4
    #: channels per beat of q, k, v and y; divides channels / heads
    simd: int = 2
    #: heads computed side by side; divides heads
    heads_par: int = 1
    q_type: IntType = IntType(8, True)
    k_type: IntType = IntType(8, True)
    v_type: IntType = IntType(8, True)
    exp_offset: int = 32
    exp_shift: int = 6
    exp_entries: int = 128
    exp_type: IntType = IntType(10, False)
    index_bits: int = 6
    recip_type: IntType = IntType(13, False)
    prob_shift: int = 4
    prob_type: IntType = IntType(8, False)
    out_type: IntType = IntType(8, True)
    shift: int = 8
    half_up: int = 0
    mult_dsp: int = 0

    def __post_init__(self) -> None:
        self.require(self.channels % self.heads == 0, "heads must divide channels")
        self.require(self.head_dim % self.simd == 0, "simd must divide channels / heads")
        self.require(self.heads % self.heads_par == 0, "heads_par must divide heads")
        self.require(1 <= self.n <= self.m, f"{self.n}:{self.m} is not an N:M pattern")
        self.require(0 <= self.exp_offset < 1 << self.exp_shift, "exp_offset must be < 2^exp_shift")
        self.require(not self.exp_type.signed and not self.prob_type.signed, "exp, prob: unsigned")

    @property
    def head_dim(self) -> int:
        return self.channels // self.heads

    @property
    def score_type(self) -> IntType:
        """Exact type of the scores."""
        corners = [
            a * b
            for a in (self.q_type.min, self.q_type.max)
            for b in (self.k_type.min, self.k_type.max)
        ]
        return IntType.fitting(min(-1, min(corners) * self.head_dim), max(corners) * self.head_dim)

    def inputs(self) -> tuple[Port, ...]:
        return tuple(
            Port(f"s_axis_{name}", self.channels, self.simd, t)
            for name, t in (("q", self.q_type), ("k", self.k_type), ("v", self.v_type))
        )

    def output(self) -> Port:
        return Port("m_axis", self.channels, self.simd, self.out_type)

    def memories(self, constants: Constants) -> dict[str, Memory]:
        """``exp`` and ``recip``: an entry per word."""
        return {
            "exp": Memory(self.exp_type.bits, pack(constants["exp"][:, None], self.exp_type)),
            "recip": Memory(
                self.recip_type.bits, pack(constants["recip"][:, None], self.recip_type)
            ),
        }

    def arrays(self, constants: Constants) -> dict[str, tuple[IntType, Tensor]]:
        return {
            "exp": (self.exp_type, constants["exp"]),
            "recip": (self.recip_type, constants["recip"]),
        }

    def row_cycles(self, tokens: int) -> int:
        """Cycles per query token."""
        chunks = self.head_dim // self.simd
        groups = -(-tokens // self.m)
        return max(self.heads // self.heads_par * groups * chunks, self.channels // self.simd)

    def cycles(self, tokens: int) -> int:
        return tokens * self.row_cycles(tokens)

    def head_latency(self, tokens: int) -> int:
        groups = -(-tokens // self.m)
        row = groups * (self.head_dim // self.simd) + 2 * groups
        return tokens * (self.channels // self.simd) + row + 23

    def barrier(self) -> bool:
        return True

    def macs(self, tokens: int) -> int:
        full, tail = divmod(tokens, self.m)
        kept = full * self.n + min(tail, self.n)
        return tokens * self.channels * (tokens + kept)

    def foldings(self) -> Iterator[dict[str, int]]:
        for simd in divisors(self.head_dim):
            for heads_par in divisors(self.heads):
                yield {"simd": simd, "heads_par": heads_par}

    def resources(self) -> Resources:
        q, k, v, s = self.q_type.bits, self.k_type.bits, self.v_type.bits, self.score_type.bits
        e, recip, prob = self.exp_type.bits, self.recip_type.bits, self.prob_type.bits
        out, simd, n, m = self.out_type.bits, self.simd, self.n, self.m
        groups = -(-self.max_tokens // m)
        total = e + (groups * n - 1).bit_length()  # sum of a row's exponentials
        acc, aligned = prob + v + (groups * n).bit_length(), e + recip + total

        def product(a: int, b: int) -> int:  # open synthesis: 2 LUT per carry-save bit
            return 2 * max(a, b) * (min(a, b) - 1)

        multiply = simd * m * product(q, k) + simd * n * product(prob, v) + n * product(e, recip)
        trees = simd * (m * s + (n + 1) * acc + n * v * -(-m // 4) + 3 * out)
        select = m * (m - 1) // 2 * s + 2 * n * s
        softmax = n * (5 * s + e * self.exp_entries // 64 + 3 * aligned) + 6 * total
        # K and V, two frames each; open synthesis: block RAM above 64 LUT of LUT RAM per RAMB18
        depth = 2 * groups * self.channels // (simd * self.heads_par)
        lutram, bram18 = 0, 0
        for bank in (simd * k, simd * v):
            luts = 8 * min(-(-bank // 14) * -(-depth // 32), -(-bank // 7) * -(-depth // 64))
            blocks = max(-(-bank // 36), -(-depth * bank // 18432))
            if luts > 64 * blocks:
                bram18 += m * blocks
            else:
                lutram += m * luts
        rows = simd * (q + out) + n * (s + e) + s + recip  # bits of the smaller buffers
        stream = simd * (q + m * (k + v) + n * v + 2 * acc + 3 * out)
        terms = simd * (m * (q + k) + n * (prob + v))
        scores = 3 * m * s + n * (3 * s + 5 * e + 2 * recip + 2 * prob) + 80
        head = trees + select + softmax + lutram + rows * 8 / 14
        head += 0 if self.mult_dsp else multiply
        return Resources(
            lut=self.heads_par * head + 600,
            ff=self.heads_par * (stream + terms + scores) + 410,
            # without use_dsp the exponentials' products follow the others
            dsp=self.heads_par * (simd * (m + n) + n) if self.mult_dsp else 0,
            bram36=self.heads_par * bram18 / 2,
        )


def survivors(score: Tensor, valid: Tensor, n: int, m: int) -> Tensor:
    """bool ``[..., T]``: the n largest of every m consecutive valid scores, ties to the lower
    index.

    ``score`` int64 ``[..., T]``, ``valid`` bool, broadcastable. The last group is padded with
    absent keys.
    """
    tokens = score.shape[-1]
    pad = -tokens % m
    low = torch.iinfo(torch.int64).min
    masked = torch.nn.functional.pad(torch.where(valid, score, low), (0, pad), value=low)
    grouped = masked.reshape(*score.shape[:-1], -1, m)
    order = grouped.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(m).expand_as(order).contiguous()
    )
    return (rank < n).reshape(masked.shape)[..., :tokens] & valid


def attention(p: AttentionParams, constants: Constants, q: Stream, k: Stream, v: Stream) -> Stream:
    """Golden function. ``exp``: int64 ``[exp_entries]``, ``recip``: int64 ``[2^index_bits]``."""
    if not (torch.equal(q.length, k.length) and torch.equal(q.length, v.length)):
        raise ValueError("attention: q, k and v carry frames of different length")
    keep, prob = probabilities(p, constants, q, k)
    batch, tokens, _ = v.data.shape
    vh = v.data.reshape(batch, tokens, p.heads, p.head_dim).transpose(1, 2)
    bound = tokens << (p.prob_type.bits + p.v_type.bits)
    y = exact_matmul(prob * keep, vh, bound).transpose(1, 2).reshape(batch, tokens, p.channels)
    return q.with_data(saturate(round_shift(y, p.shift, bool(p.half_up)), p.out_type))


def probabilities(
    p: AttentionParams, constants: Constants, q: Stream, k: Stream
) -> tuple[Tensor, Tensor]:
    """(survives bool, probability int64), both ``[B, H, T, T]``."""
    batch, tokens, _ = q.data.shape
    qh = q.data.reshape(batch, tokens, p.heads, p.head_dim).transpose(1, 2)
    kh = k.data.reshape(batch, tokens, p.heads, p.head_dim).permute(0, 2, 3, 1)
    score = exact_matmul(qh, kh, p.head_dim << (p.q_type.bits + p.k_type.bits))
    keep = survivors(score, k.valid()[:, None, None, :].expand(score.shape), p.n, p.m)
    low = torch.iinfo(torch.int32).min
    top = torch.where(keep, score, low).amax(-1, keepdim=True)
    e = lookup(top - score, constants["exp"], p.exp_offset, p.exp_shift) * keep
    index, position = reciprocal_index(e.sum(-1, keepdim=True), p.index_bits)
    scaled = e * constants["recip"][index]
    prob = saturate(round_shift(scaled, position + p.prob_shift, bool(p.half_up)), p.prob_type)
    return keep, prob


def exp_table(entries: int, step: float, t: IntType) -> Tensor:
    """``T[i] = round(t.max * exp(-i * step))``, int64 ``[entries]``; ``step`` in nats."""
    from math import exp

    return torch.tensor([round(t.max * exp(-i * step)) for i in range(entries)])


def stimuli(
    rng: torch.Generator, p: AttentionParams, frames: int
) -> tuple[dict[str, Tensor], list[Stream]]:
    """Frames whose scores range from all equal to saturated, with many ties."""
    q, k, v = (
        random_frames(rng, port, frames, p.max_tokens, i == 0) for i, port in enumerate(p.inputs())
    )
    length = q.length
    tokens = int(length.max())

    def fit(x: Stream) -> Tensor:
        return torch.nn.functional.pad(x.data, (0, 0, 0, tokens))[:, :tokens]

    small = torch.randint(0, 3, (frames, 1, 1), generator=rng)
    kd = torch.where(small == 0, fit(k).clamp(0, 1), fit(k))
    qd = torch.where(small == 1, 0, torch.where(small == 2, fit(q) >> 4, fit(q)))
    flag = q.package
    streams = [Stream(d, length, flag).with_data(d) for d in (qd, kd, fit(v))]
    frac = p.recip_type.bits - 1
    step = (1 << p.exp_shift) / 2.0 ** (p.q_type.bits + p.k_type.bits - 4)
    constants = {
        "exp": exp_table(p.exp_entries, step, p.exp_type),
        "recip": p.recip_type.check(reciprocal_table(p.index_bits, frac), "recip"),
    }
    return constants, streams
