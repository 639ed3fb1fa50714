# SPDX-License-Identifier: Apache-2.0
"""The Vision Transformer as the hardware computes it: Brevitas layers and integer cores.

Every module takes and returns Brevitas ``IntQuantTensor`` whose values are integers times a power
of two. Module names equal those of the float model, so its weights load directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from brevitas.quant_tensor import IntQuantTensor
from torch import Tensor, nn

from sievit.models import selector
from sievit.models.core_ops import apply_core
from sievit.models.methods import Tokens, TokenStage, Trace, stages
from sievit.models.quantizers import (
    QuantLinear,
    act,
    dims,
    exponent,
    input_scale,
    is_smooth,
    itype,
    pixels,
    quant_tensor,
    round_to_grid,
)
from sievit.models.recipe import Recipe
from sievit.models.selector import RECIP_BITS
from sievit.models.vit import trace
from sievit.quant.cores.attention import AttentionParams, exp_table, probabilities
from sievit.quant.cores.first_token import FirstTokenParams
from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.cores.pos_embed import PosEmbedParams
from sievit.quant.cores.token_select import compact, decide
from sievit.quant.custom_op import CoreCall
from sievit.quant.itype import IntType
from sievit.quant.params import Stream
from sievit.quant.rounding import reciprocal_table


def rounded(y: Tensor, e: int, t: IntType, frames: Tensor | None = None) -> IntQuantTensor:
    """What stands for a core under ``smooth_forward``: its smooth counterpart on the core's grid,
    rows past the frames' lengths cleared."""
    y = round_to_grid(y, e, t)
    if frames is not None:
        y = y * inside(y.shape[1], frames).to(y.dtype)[..., None]
    return quant_tensor(y, e, t, True)


def inside(tokens: int, frames: Tensor) -> Tensor:
    """bool ``[B, tokens]``: rows within the frames' lengths."""
    return torch.arange(tokens, device=frames.device) < frames[:, :1]


class QuantLayerNorm(nn.LayerNorm):
    """Layer normalisation by the ``layernorm`` core; the output spans -4..4."""

    def __init__(self, dim: int, bits: int) -> None:
        super().__init__(dim)
        self.out_type = IntType(bits, True)
        self.out_exponent = 3 - bits

    def forward(self, x: IntQuantTensor) -> IntQuantTensor:  # type: ignore[override]
        dim, t = self.normalized_shape[0], itype(x)
        step = 2.0**self.out_exponent

        def smooth() -> Tensor:
            y = nn.functional.layer_norm(x.value, (dim,), self.weight, self.bias, self.eps)
            # as clamp, whose backward pass is many times slower on a CPU
            return nn.functional.hardtanh(y, self.out_type.min * step, self.out_type.max * step)

        if is_smooth():
            return rounded(smooth(), self.out_exponent, self.out_type)
        weight, bias = self.weight.detach(), self.bias.detach()
        p, constants, _ = selector.layernorm(dims(x)[1], t, self.out_type.bits, weight, bias)
        call = CoreCall("layernorm", p, constants, (exponent(x),), self.out_exponent)
        y = apply_core(call, smooth, [x.value])
        return quant_tensor(y, self.out_exponent, self.out_type, self.training)


class Table(nn.Module):
    """A scalar function by the ``lookup_table`` core, one entry per input code."""

    def __init__(self, function: selector.Function, smooth: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.smooth = function, smooth

    def forward(self, x: IntQuantTensor) -> IntQuantTensor:
        t, e = itype(x), exponent(x)
        if is_smooth():
            out_type, out_exponent = self.function[1](t, e)
            return rounded(self.smooth(x.value), out_exponent, out_type)
        values, out_type, out_exponent = selector.table(self.function, t, e)
        p = LookupTableParams(
            max_tokens=dims(x)[1],
            channels=dims(x)[2],
            simd=1,
            in_type=t,
            out_type=out_type,
            offset=-t.min,
            shift=0,
            entries=len(values),
        )
        call = CoreCall("lookup_table", p, {"table": values}, (e,), out_exponent)
        y = apply_core(call, lambda: self.smooth(x.value), [x.value])
        return quant_tensor(y, out_exponent, out_type, self.training)


def gelu() -> Table:
    return Table(selector.GELU, nn.functional.gelu)


def sigmoid() -> Table:
    return Table(selector.SIGMOID, torch.sigmoid)


def two_way() -> Table:
    return Table(selector.TWO_WAY, lambda x: torch.tanh(x / 2))


class Attention(nn.Module):
    """Multi-head attention by the ``attention`` core; probabilities in 1/256 steps."""

    EXP_ENTRIES, EXP_BITS, RECIP_FRAC, PROB_BITS, EXP_RANGE = 128, 10, 12, 8, 10.0

    def __init__(
        self, dim: int, num_heads: int, nm: tuple[int, int], bits: int, wbits: int
    ) -> None:
        super().__init__()
        self.num_heads, self.nm = num_heads, nm
        self.q, self.k, self.v, self.proj = (QuantLinear(dim, dim, wbits) for _ in range(4))
        self.q_act, self.k_act, self.v_act = act(bits), act(bits), act(bits)
        #: keep what a stage behind this block reads
        self.traced = False
        self.trace: Trace | None = None

    def forward(self, x: IntQuantTensor, frames: Tensor) -> Tensor:
        q, k, v = self.q_act(self.q(x)), self.k_act(self.k(x)), self.v_act(self.v(x))
        return self.proj(self.attend(q, k, v, frames))

    def attend(
        self, q: IntQuantTensor, k: IntQuantTensor, v: IntQuantTensor, frames: Tensor
    ) -> IntQuantTensor:
        head_dim = dims(q)[2] // self.num_heads

        def streams() -> tuple[Stream, ...]:
            length, flag = frames[:, 0].long(), frames[:, 1] > 0
            ints = ((t.value.detach() * 2.0 ** -exponent(t)).round().long() for t in (q, k))
            return tuple(Stream(x, length, flag) for x in ints)

        def smooth() -> Tensor:
            qh, kh, vh = (
                t.value.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v)
            )
            score = (qh @ kh.transpose(-2, -1)) / math.sqrt(head_dim)
            if is_smooth():
                keep = survivors(score.detach(), frames, self.nm)
            else:
                keep, _ = probabilities(params, call.constants, *streams())
            # added, as masks of bool are slow on a CPU; every row has a key, its frame's first
            prob = (score + (keep.to(score.dtype) - 1) * 1e9).softmax(-1)
            return (prob @ vh).transpose(1, 2).flatten(2)

        if is_smooth():
            if self.traced:
                with torch.no_grad():
                    row, keys = self.first_row(q.value, k.value, frames), k.value.detach()
                self.trace = Trace(row, keys, self.num_heads)
            return rounded(smooth(), exponent(v), itype(v), frames)
        call = self.call(q, k, v)
        params: Any = call.params
        if self.traced:
            with torch.no_grad():
                dense = replace(params, n=1, m=1)
                _, prob = probabilities(dense, call.constants, *streams())
                row = prob[:, :, 0].sum(1).float() * 2.0**-self.PROB_BITS
            self.trace = Trace(row, k.value.detach(), self.num_heads)
        y = apply_core(call, smooth, [q.value, k.value, v.value], frames)
        return quant_tensor(y, exponent(v), itype(v), self.training)

    def first_row(self, q: Tensor, k: Tensor, frames: Tensor) -> Tensor:
        """Attention float ``[B, T]`` of the class token to all keys, dense, sum over the heads."""
        qh, kh = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q[:, :1], k))
        score = (qh @ kh.transpose(-2, -1)) / math.sqrt(qh.shape[-1])
        valid = inside(k.shape[1], frames)
        return score.masked_fill(~valid[:, None, None], -math.inf).softmax(-1).sum((1, 2))

    def call(self, q: IntQuantTensor, k: IntQuantTensor, v: IntQuantTensor) -> CoreCall:
        """The ``attention`` core for these types and scales."""
        _, tokens, dim = dims(q)
        head_dim = dim // self.num_heads
        unit = 2.0 ** (exponent(q) + exponent(k)) / math.sqrt(head_dim)  # nats of one score step
        shift = max(0, round(math.log2(self.EXP_RANGE / self.EXP_ENTRIES / unit)))
        p = AttentionParams(
            max_tokens=tokens,
            channels=dim,
            heads=self.num_heads,
            n=self.nm[0],
            m=self.nm[1],
            simd=1,
            q_type=itype(q),
            k_type=itype(k),
            v_type=itype(v),
            exp_offset=(1 << shift) >> 1,
            exp_shift=shift,
            exp_entries=self.EXP_ENTRIES,
            exp_type=IntType(self.EXP_BITS, False),
            index_bits=RECIP_BITS,
            recip_type=IntType(self.RECIP_FRAC + 1, False),
            prob_shift=self.RECIP_FRAC - self.PROB_BITS,
            prob_type=IntType(self.PROB_BITS, False),
            out_type=itype(v),
            shift=self.PROB_BITS,
        )
        constants = {
            "exp": exp_table(p.exp_entries, unit * 2**shift, p.exp_type),
            "recip": reciprocal_table(p.index_bits, self.RECIP_FRAC),
        }
        exponents = (exponent(q), exponent(k), exponent(v))
        return CoreCall("attention", p, constants, exponents, exponents[2], frames=True)


def survivors(score: Tensor, frames: Tensor, nm: tuple[int, int]) -> Tensor:
    """bool like ``score``, float ``[B, H, T, T]``: the N largest of every M consecutive keys within
    the frame, of equal ones the first; as in the ``attention`` core, without its integers."""
    tokens, (n, m) = score.shape[-1], nm
    valid = inside(tokens, frames)[:, None, None]
    if n == m:
        return valid.expand(score.shape)
    low = score + valid.to(score.dtype).log()  # -inf where there is no key
    low = nn.functional.pad(low, (0, -tokens % m), value=-math.inf)
    lane = low.unflatten(-1, (-1, m)).movedim(-1, 0).contiguous()
    # ranks by comparing all pairs: on a CPU many times faster than sorting short groups
    rank = torch.zeros_like(lane, dtype=torch.int8)
    for i in range(m - 1):
        first = (lane[i] >= lane[i + 1 :]).view(torch.int8)
        rank[i + 1 :] += first
        rank[i] += (m - 1 - i) - first.sum(0, dtype=torch.int8)
    return (rank < n).movedim(0, -1).flatten(-2)[..., :tokens] & valid


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int, bits: int, wbits: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = QuantLinear(dim, hidden, wbits), QuantLinear(hidden, dim, wbits)
        self.fc1_act, self.gelu = act(bits), gelu()

    def forward(self, x: IntQuantTensor) -> Tensor:
        return self.fc2(self.gelu(self.fc1_act(self.fc1(x))))


class Block(nn.Module):
    """``x + Attn(LN x)``, then ``x + Mlp(LN x)`` on a residual stream of one scale."""

    def __init__(self, recipe: Recipe, index: int) -> None:
        super().__init__()
        m, q = recipe.model, recipe.quant
        nm = recipe.attention_nm(f"blocks.{index}.attn")
        self.norm1 = QuantLayerNorm(m.embed_dim, q.act_bits)
        self.attn = Attention(m.embed_dim, m.num_heads, nm, q.act_bits, q.weight_bits)
        self.norm2 = QuantLayerNorm(m.embed_dim, q.act_bits)
        hidden = int(m.embed_dim * m.mlp_ratio)
        self.mlp = Mlp(m.embed_dim, hidden, q.act_bits, q.weight_bits)

    def forward(self, x: IntQuantTensor, frames: Tensor, residual: nn.Module) -> IntQuantTensor:
        x = residual(x.value + residual(self.attn(self.norm1(x), frames)).value)
        return residual(x.value + residual(self.mlp(self.norm2(x))).value)


class TokenSelector(nn.Module):
    """HeatViT's multi-head token selector and package token (Dong et al., HPCA'23, eq. 1-10).

    Conventions, where the paper and its re-implementations differ:

    * the layer norm in front is over the whole token; heads have weights of their own;
    * the mean runs over all tokens of the frame but the class token, a package token included;
    * the last layer of a head gives the logit difference keep - drop, ``u_h = tanh(diff / 2)``;
    * the gate is ``a_h = sigmoid(MLP(mean over the head's lanes))`` with h hidden units;
    * the score is ``z = sum_h a_h u_h``: without the division by ``sum_h a_h``, which has no
      influence on its sign;
    * kept: z >= 0. Package weight: ``sigmoid(4 z / h)``. One package token at most; it is merged
      again;
    * with ``topk`` the patch tokens of the ``topk`` largest scores are kept instead, so that all
      frames are of one length.
    """

    def __init__(self, dim: int, num_heads: int, bits: int, topk: int = 0) -> None:
        super().__init__()
        head, h = dim // num_heads, num_heads
        self.topk = topk
        half, quarter = max(1, head // 2), max(1, head // 4)
        self.num_heads = h
        self.norm = QuantLayerNorm(dim, bits)
        self.local = QuantLinear(dim, h * half, bits, h)
        self.fc1 = QuantLinear(2 * h * half, h * half, bits, h)
        self.fc2 = QuantLinear(h * half, h * quarter, bits, h)
        self.fc3 = QuantLinear(h * quarter, h, bits, h)
        self.lanes = QuantLinear(dim, h, 2, h, bias=False)
        nn.init.constant_(self.lanes.weight, 1.0 / head)
        self.lanes.project()
        self.lanes.weight.requires_grad_(False)
        self.gate1, self.gate2 = QuantLinear(h, h, bits), QuantLinear(h, h, bits)
        self.local_act, self.fc1_act, self.fc2_act, self.fc3_act = (act(bits) for _ in range(4))
        self.lanes_act, self.gate1_act, self.gate2_act = (act(bits) for _ in range(3))
        self.local_gelu, self.fc1_gelu, self.fc2_gelu, self.gate1_gelu = (gelu() for _ in range(4))
        self.two_way, self.sigmoid = two_way(), sigmoid()
        self.temperature = 0.5
        self.noise = 0.0
        #: soft share of patch tokens alive per image [B], set by every forward pass
        self.alive = torch.zeros(0)

    def forward(self, x: IntQuantTensor, frames: Tensor) -> tuple[IntQuantTensor, Tensor]:
        z = self.score(self.norm(x), frames)
        return self.select(x, z, frames)

    def score(self, y: IntQuantTensor, frames: Tensor) -> IntQuantTensor:
        u = self.local_gelu(self.local_act(self.local(y)))
        u = self.mean(u, frames)
        u = self.fc1_gelu(self.fc1_act(self.fc1(u)))
        u = self.fc2_gelu(self.fc2_act(self.fc2(u)))
        u = self.two_way(self.fc3_act(self.fc3(u)))
        a = self.lanes_act(self.lanes(y))
        a = self.gate1_gelu(self.gate1_act(self.gate1(a)))
        a = self.sigmoid(self.gate2_act(self.gate2(a)))
        exponents = (exponent(u), exponent(a))
        if is_smooth():
            e, t = (
                sum(exponents),
                selector.gated_sum(1, self.num_heads, itype(u), itype(a)).out_type,
            )
            return rounded((u.value * a.value).sum(-1, keepdim=True), e, t)
        p = selector.gated_sum(dims(u)[1], self.num_heads, itype(u), itype(a))
        call = CoreCall("gated_sum", p, {}, exponents, sum(exponents))
        z = apply_core(call, lambda: (u.value * a.value).sum(-1, keepdim=True), [u.value, a.value])
        return quant_tensor(z, sum(exponents), p.out_type, self.training)

    def mean(self, x: IntQuantTensor, frames: Tensor) -> IntQuantTensor:
        tokens, channels = dims(x)[1:]
        e = exponent(x)

        def smooth() -> Tensor:
            valid = inside(tokens, frames).to(x.value.dtype)
            count = (frames[:, :1] - 1).clamp(min=1)
            mean = ((x.value * valid[..., None])[:, 1:].sum(1) / count)[:, None].expand_as(x.value)
            local, wide = (t.unflatten(-1, (self.num_heads, -1)) for t in (x.value, mean))
            return torch.cat([local, wide], -1).flatten(2)

        if is_smooth():
            return rounded(smooth(), e, itype(x), frames)
        p, constants = selector.token_mean(tokens, channels, self.num_heads, itype(x))
        call = CoreCall("token_mean", p, constants, (e,), e, frames=True)
        y = apply_core(call, smooth, [x.value], frames)
        return quant_tensor(y, e, itype(x), self.training)

    def select(
        self, x: IntQuantTensor, z: IntQuantTensor, frames: Tensor
    ) -> tuple[IntQuantTensor, Tensor]:
        tokens, channels = dims(x)[1:]
        t, zt, ez = itype(x), itype(z), exponent(z)
        gain = 4 / self.num_heads
        p, constants = selector.token_select(tokens, channels, t, zt, ez, gain, self.topk)
        call = CoreCall("token_select", p, constants, (exponent(x), ez), exponent(x), True, True)
        exact_z = z.value
        if self.training and self.noise > 0:  # Gumbel noise of a two-way choice is logistic
            u = torch.rand_like(exact_z).clamp(1e-4, 1 - 1e-4)
            noisy = exact_z + self.noise * self.temperature * (u.log() - (1 - u).log()).detach()
            limit = 2.0**ez * zt.max
            exact_z = (noisy * 2.0**-ez).detach().round() * 2.0**ez + (exact_z - exact_z.detach())
            exact_z = exact_z.clamp(-limit, limit)
        y, state = apply_core(
            call, lambda: self.surrogate(x, exact_z, frames, gain), [x.value, exact_z], frames
        )
        return quant_tensor(y, exponent(x), t, self.training), state

    def surrogate(self, x: IntQuantTensor, z: Tensor, frames: Tensor, gain: float) -> Tensor:
        """Differentiable twin of token_select; also sets ``alive``."""
        stream = Stream(x.value, frames[:, 0].long(), frames[:, 1] > 0)
        keep, part = decide(stream, Stream(z.detach(), stream.length, stream.package), self.topk)
        patch = self.patches(stream)
        soft = torch.sigmoid((z - self.boundary(z, keep & patch, ~keep & patch)) / self.temperature)
        through = 1 + soft - soft.detach()  # 1 with the gradient of the keep probability
        weight = torch.sigmoid(gain * z) * part[..., None]
        package = (weight * x.value).sum(1) / weight.sum(1).clamp(min=1e-6)
        self.alive = ((keep[..., None] + soft - soft.detach()) * patch[..., None]).sum((1, 2))
        weighted = Stream(x.value * through, stream.length, stream.package)
        tokens = min(z.shape[1], self.topk + 2) if self.topk else z.shape[1]
        return compact(weighted, keep, part, package).data[:, :tokens]

    @staticmethod
    def patches(x: Stream) -> Tensor:
        """bool ``[B, T]``: neither the class token nor a package token."""
        token = torch.arange(x.data.shape[1])
        incoming = x.package[:, None] & (token == x.length[:, None] - 1)
        return x.valid() & (token > 0) & ~incoming

    def boundary(self, z: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
        """Score ``[B, 1, 1]`` between kept and dropped patches, bool ``[B, T]`` each: 0, or with
        ``topk`` the middle between the smallest kept and the largest dropped score."""
        if not self.topk:
            return torch.zeros(len(z), 1, 1)
        score = z.detach()[..., 0]
        low = score.masked_fill(~kept, math.inf).amin(1)
        high = score.masked_fill(~dropped, -math.inf).amax(1)
        return ((low + high) / 2).nan_to_num(posinf=0.0, neginf=0.0)[:, None, None]


class PatchEmbed(nn.Module):
    """Linear projection of flattened patches with 8-bit weights."""

    def __init__(self, patch_dim: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_dim = patch_dim
        self.proj = QuantLinear(patch_dim, embed_dim, 8)

    def forward(self, x: IntQuantTensor) -> Tensor:
        return self.proj(x)


class QuantVisionTransformer(nn.Module):
    """Patches ``[B, T, patch_dim]`` (multiples of the pixel step) -> logits ``[B, 1, classes]``.

    ``stages`` after a forward pass holds the frames ``[B, 2]`` behind every selector.
    """

    def __init__(
        self,
        recipe: Recipe,
        num_patches: int,
        patch_dim: int,
        num_classes: int,
        levels: int,
        pruned: bool,
    ) -> None:
        super().__init__()
        m, q = recipe.model, recipe.quant
        self.pruned, self.recipe, self.levels = pruned, recipe, levels
        self.num_patches = num_patches
        self.pixels = pixels(levels)
        self.patch_embed = PatchEmbed(patch_dim, m.embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, m.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + 1, m.embed_dim))
        self.residual = act(q.residual_bits, percentile=99.999)
        self.blocks = nn.ModuleList(Block(recipe, i) for i in range(m.depth))
        self.selectors = nn.ModuleDict(selectors(recipe, num_patches) if pruned else {})
        trace(self.selectors, self.blocks)
        self.norm = QuantLayerNorm(m.embed_dim, q.selector_bits)
        self.head = QuantLinear(m.embed_dim, num_classes, q.selector_bits)
        self.stages: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.residual(self.patch_embed(self.pixels(x)))
        y, frames = self.embed(y)
        self.stages = []
        t = Tokens(y)
        blocks: list[Any] = list(self.blocks)
        for i, block in enumerate(blocks):
            selector = self.selectors[str(i)] if str(i) in self.selectors else None
            if isinstance(selector, TokenStage):
                t = selector(replace(t, x=y), blocks[i - 1].attn.trace)
                y = t.x
                frames = torch.tensor([[float(y.value.shape[1]), float(t.package)]]).to(frames)
                frames = frames.expand(len(y.value), -1)
                self.stages.append(frames)
            elif selector is not None:
                y, frames = selector(y, frames)
                self.stages.append(frames)
            y = block(y, frames, self.residual)
        return self.head(self.norm(self.first(y)))

    def first(self, x: IntQuantTensor) -> IntQuantTensor:
        """The class token alone, by the ``first_token`` core."""
        if is_smooth():
            return quant_tensor(x.value[:, :1], exponent(x), itype(x), True)
        tokens, channels = dims(x)[1:]
        p = FirstTokenParams(max_tokens=tokens, channels=channels, simd=1, in_type=itype(x))
        call = CoreCall("first_token", p, {}, (exponent(x),), exponent(x))
        y = apply_core(call, lambda: x.value[:, :1], [x.value])
        return quant_tensor(y, exponent(x), itype(x), self.training)

    def embed(self, x: IntQuantTensor) -> tuple[IntQuantTensor, Tensor]:
        """Class token and position embedding by the ``pos_embed`` core."""
        e, t = exponent(x), itype(x)
        pos = torch.cat([self.cls_token + self.pos_embed[:, :1], self.pos_embed[:, 1:]], 1)
        if is_smooth():
            y = nn.functional.pad(x.value, (0, 0, 1, 0)) + round_to_grid(pos, e, t)
            full = torch.tensor([[float(y.shape[1]), 0.0]]).to(y).expand(len(y), -1)
            return rounded(y, e, t), full
        p = PosEmbedParams(
            max_tokens=self.num_patches,
            channels=dims(x)[2],
            simd=1,
            in_type=t,
            pos_type=t,
            out_type=t,
        )
        table = (pos[0].detach() * 2.0**-e).round().long().clamp(t.min, t.max)
        call = CoreCall("pos_embed", p, {"pos": table}, (e,), e, makes_frames=True)
        y, frames = apply_core(
            call, lambda: torch.nn.functional.pad(x.value, (0, 0, 1, 0)) + pos, [x.value]
        )
        return quant_tensor(y, e, t, self.training), frames

    def token_selectors(self) -> list[Any]:
        """The selectors, TokenSelector or TokenStage, in the order of their blocks."""
        return list(self.selectors.values())

    def matrices(self) -> dict[str, QuantLinear]:
        """Every QuantLinear by module name."""
        return {n: m for n, m in self.named_modules() if isinstance(m, QuantLinear)}


def selectors(recipe: Recipe, num_patches: int) -> dict[str, nn.Module]:
    """{block: selector in front of it} of a recipe, quantised."""
    m, bits, s = recipe.model, recipe.quant.selector_bits, recipe.selector
    if s.method != "heatvit":
        return dict(stages(recipe, num_patches, bits))
    topk = s.topk or (0,) * len(s.blocks)
    pairs = zip(s.blocks, topk, strict=True)
    return {str(b): TokenSelector(m.embed_dim, m.num_heads, bits, k) for b, k in pairs}


def image_input(patches: Tensor, levels: int) -> Tensor:
    """Integer patches as the network's float input: multiples of the pixel step."""
    return patches.float() * input_scale(levels)
