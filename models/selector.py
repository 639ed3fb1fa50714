# SPDX-License-Identifier: Apache-2.0
"""Cores of HeatViT's token selector, and of a layer norm, for given types and scales.

Training (qvit.py) and networks that come as integers (variants.py) take the same ones. A function
returns parameters, unfolded, and int64 constants; ``max_tokens`` bounds the tokens of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sievit.quant.cores.gated_sum import GatedSumParams
from sievit.quant.cores.layernorm import LayernormParams
from sievit.quant.cores.token_mean import TokenMeanParams, count_reciprocals
from sievit.quant.cores.token_select import TokenSelectParams
from sievit.quant.itype import IntType
from sievit.quant.rounding import reciprocal_table, rsqrt_table

#: bits below the leading one that address a reciprocal
RECIP_BITS = 6

#: scalar function, type and exponent of its result for those of its argument
Function = tuple[Callable[[float], float], Callable[[IntType, int], tuple[IntType, int]]]

#: GELU; the result keeps type and scale of the argument
GELU: Function = (lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))), lambda t, e: (t, e))
#: sigmoid in 1/256 steps, at most 255/256
SIGMOID: Function = (lambda v: 1 / (1 + math.exp(-v)), lambda t, e: (IntType(8, False), -8))
#: ``softmax([v/2, -v/2])`` difference ``t_keep - t_drop = tanh(v / 2)`` in 1/128 steps
TWO_WAY: Function = (lambda v: math.tanh(v / 2), lambda t, e: (IntType(8, True), -7))


def table(function: Function, t: IntType, e: int) -> tuple[Tensor, IntType, int]:
    """(values, their type, their exponent) of a function of every code of ``t * 2^e``; int64
    ``[2^bits]``, the smallest code first."""
    value, out = function
    out_type, out_exponent = out(t, e)
    values = [round(value(c * 2.0**e) * 2.0**-out_exponent) for c in range(t.min, t.max + 1)]
    return torch.tensor(values).clamp(out_type.min, out_type.max), out_type, out_exponent


def layernorm(
    max_tokens: int, in_type: IntType, bits: int, weight: Tensor, bias: Tensor
) -> tuple[LayernormParams, dict[str, Tensor], int]:
    """Layer norm with an affine part, float ``[channels]`` each; the ``bits`` bits of the output
    span -4..4. The third result is the output's exponent."""
    frac, scale_exponent, dim, out_exponent = 8, -5, len(weight), 3 - bits
    gain_bits = -(-(dim - 1).bit_length() // 2)  # sqrt(dim) < 2^gain_bits
    scale_type, bias_type = IntType(8, True), IntType(18, True)
    bias_exponent = scale_exponent - frac
    scale = (weight * 2.0**-scale_exponent).round().long()
    offset = (bias * 2.0**-bias_exponent).round().long()
    mean_shift = in_type.bits + dim.bit_length() + 2
    p = LayernormParams(
        max_tokens=max_tokens,
        channels=dim,
        simd=1,
        in_type=in_type,
        out_type=IntType(bits, True),
        mean_mult=((2 << mean_shift) + dim) // (2 * dim),
        mean_shift=mean_shift,
        index_bits=RECIP_BITS - 1,
        rsqrt_type=IntType(frac + 3 + gain_bits, False),
        norm_shift=2,
        scale_type=scale_type,
        bias_type=bias_type,
        shift=out_exponent - bias_exponent,
    )
    constants = {
        "rsqrt": rsqrt_table(p.index_bits, frac + 2, dim),
        "scale": scale.clamp(scale_type.min, scale_type.max),
        "bias": offset.clamp(bias_type.min, bias_type.max),
    }
    return p, constants, out_exponent


def token_mean(
    max_tokens: int, channels: int, heads: int, in_type: IntType
) -> tuple[TokenMeanParams, dict[str, Tensor]]:
    """Local features of every head beside their mean over the frame."""
    shift = 16
    p = TokenMeanParams(
        max_tokens=max_tokens,
        channels=channels,
        groups=heads,
        simd=1,
        in_type=in_type,
        recip_type=IntType(shift + 1, False),
        shift=shift,
    )
    return p, {"recip": count_reciprocals(max_tokens, shift)}


def gated_sum(max_tokens: int, heads: int, score: IntType, gate: IntType) -> GatedSumParams:
    """Score of a token: that of every head times its gate."""
    bits = score.bits + gate.bits + (heads - 1).bit_length()
    return GatedSumParams(
        max_tokens=max_tokens,
        channels=heads,
        simd=1,
        a_type=score,
        b_type=gate,
        out_type=IntType(bits, True),
    )


def token_select(
    max_tokens: int,
    channels: int,
    x_type: IntType,
    score: IntType,
    exponent: int,
    gain: float,
    topk: int = 0,
) -> tuple[TokenSelectParams, dict[str, Tensor]]:
    """The decision over scores ``z = score * 2^exponent``; a dropped token has the weight
    ``sigmoid(gain * z)`` in the package. ``topk``: see TokenSelectParams."""
    table_bits, recip_frac, weight_type = 7, 10, IntType(8, False)
    shift = score.bits - table_bits
    p = TokenSelectParams(
        max_tokens=max_tokens,
        channels=channels,
        simd=1,
        x_type=x_type,
        score_type=score,
        weight_type=weight_type,
        offset=-score.min,
        shift=shift,
        entries=1 << table_bits,
        index_bits=RECIP_BITS,
        recip_type=IntType(recip_frac + 1, False),
        recip_shift=recip_frac,
        topk=topk,
    )
    centres = [((i + 0.5) * 2**shift + score.min) * 2.0**exponent for i in range(p.entries)]
    weight = [round(weight_type.max / (1 + math.exp(-gain * c))) for c in centres]
    return p, {"weight": torch.tensor(weight), "recip": reciprocal_table(RECIP_BITS, recip_frac)}
