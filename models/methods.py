# SPDX-License-Identifier: Apache-2.0
"""Known ways of reducing tokens between blocks, as scorer, policy and reducer.

A scorer says what each token is worth, the policy which tokens stay, the reducer what becomes of
the others. A method is one entry of ``METHODS``. They share conventions, so that they can be
compared, and computed by hardware that sees one image at a time: a result depends on its own image
alone; inference draws no random numbers; tokens keep their raster order, a package token comes
last; of equal scores the lower index wins; the class token stays. The number of tokens behind a
stage is the same for every image.

Each works on float tokens and, between the quantisers of ``qvit.py``, on tokens that are integers
times a power of two: sums and similarities are then computed in double, where sums are exact, and a
new token is rounded half to even to its stream's grid. HeatViT's own selector, with its
data-dependent number of tokens and its cores, is ``qvit.TokenSelector``; here is its float twin of
fixed top-k.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from brevitas.quant_tensor import IntQuantTensor
from torch import Tensor, nn

from sievit.models.quantizers import (
    QuantLinear,
    act,
    exponent,
    itype,
    quant_tensor,
    round_to_grid,
)
from sievit.models.recipe import Recipe, RecipeError


@dataclass(frozen=True)
class Trace:
    """What the attention in front of a stage leaves for its scorer.

    Attributes:
        cls: float ``[B, T]``, attention of the class token to every token, mean over the heads. The
            row is dense where attention is N:M sparse, too.
        keys: float ``[B, T, C]``, heads one after the other.
        heads: their number.
    """

    cls: Tensor
    keys: Tensor
    heads: int


@dataclass(frozen=True)
class Tokens:
    """Tokens between two blocks.

    Attributes:
        x: ``[B, T, C]``, float or quantised; class token first.
        package: the last token is a package token.
        size: float ``[B, T]``, patches that each token stands for; None: one each.
    """

    x: Any
    package: bool = False
    size: Tensor | None = None

    @property
    def value(self) -> Tensor:
        return self.x.value if isinstance(self.x, IntQuantTensor) else self.x

    def wrap(self, value: Tensor) -> Any:
        """Tokens of these values in the scale and type of ``x``; rounded, if it has them."""
        if not isinstance(self.x, IntQuantTensor):
            return value.to(self.x.dtype)
        e, t = exponent(self.x), itype(self.x)
        rounded = round_to_grid(value, e, t).to(self.x.value.dtype)
        return quant_tensor(rounded, e, t, self.x.training)

    def candidates(self) -> Tensor:
        """bool ``[T]``: neither the class token nor a package token."""
        token = torch.arange(self.value.shape[1], device=self.value.device)
        return (token > 0) & (token < len(token) - self.package)


class Score(NamedTuple):
    """float ``[B, T]``, higher is kept; and int64 ``[B, T]``, with whom a dropped token merges."""

    value: Tensor
    partner: Tensor | None = None


class Scorer(nn.Module):
    """What each token is worth: ``(tokens, trace) -> Score``."""

    #: has weights: gradients reach them through the probability of keeping a token
    learned = False
    #: reads the trace
    traced = False

    def macs(self, tokens: int, dim: int) -> int:
        """Multiplications beside those of its QuantLinears."""
        return 0


# -- scorers -------------------------------------------------------------------------------------
class ClsAttention(Scorer):
    """Attention of the class token in the block before (FasterVLM, Zhang et al., 2024; EViT, Liang
    et al., ICLR'22)."""

    traced = True

    def forward(self, t: Tokens, trace: Trace | None) -> Score:
        assert trace is not None
        return Score(trace.cls)


class FixedRandom(Scorer):
    """A random order of the places, drawn once: the same for every image."""

    order: Tensor

    def __init__(self, tokens: int, seed: int) -> None:
        super().__init__()
        rng = torch.Generator("cpu").manual_seed(seed)
        order = torch.randperm(tokens, generator=rng, device="cpu").float()
        self.register_buffer("order", order, persistent=False)

    def forward(self, t: Tokens, trace: Trace | None) -> Score:
        return Score(self.order.expand(len(t.value), -1))


class Redundancy(Scorer):
    """Minus the cosine to the most similar token of the other half (ToMe, Bolya et al., ICLR'23).

    Tokens of even places, but the class token, merge into those of odd places, which stay. The
    metric is the mean of the heads' keys. ToMe's proportional attention, a bias of log(size), is
    left out: the attention core adds none.
    """

    traced = True

    def forward(self, t: Tokens, trace: Trace | None) -> Score:
        assert trace is not None
        x = t.value
        wide = torch.float64 if isinstance(t.x, IntQuantTensor) else torch.float32
        metric = trace.keys.detach().to(wide).unflatten(-1, (trace.heads, -1)).sum(2)
        norm = metric.square().sum(-1).sqrt().clamp(min=1e-12)
        a, b = metric[:, 2::2], metric[:, 1::2]
        dots = (a @ b.transpose(1, 2)) / norm[:, 2::2, None] / norm[:, None, 1::2]
        best, at = dots.max(-1)
        score = torch.full(x.shape[:2], math.inf, dtype=wide, device=x.device)
        score[:, 2::2] = -best
        partner = torch.zeros(x.shape[:2], dtype=torch.int64, device=x.device)
        partner[:, 2::2] = 2 * at + 1
        return Score(score, partner)

    def macs(self, tokens: int, dim: int) -> int:
        even, odd = (tokens - 1) // 2, tokens // 2
        return even * odd * dim  # at most: with keys of one head it is a head's share


class MlpScore(Scorer):
    """DynamicViT's predictor (Rao et al., NeurIPS'21): LN, Linear(d, d), GELU; the first half of
    the features beside the mean of the second half over the patches; d/2, d/4, GELU each; the
    difference of the two logits, which orders tokens as their probabilities do."""

    learned = True

    def __init__(self, dim: int, bits: int) -> None:
        from sievit.models.qvit import QuantLayerNorm, gelu

        super().__init__()
        self.bits = bits
        sizes = [(dim, dim), (dim, dim // 2), (dim // 2, dim // 4), (dim // 4, 1)]
        self.norm: nn.Module = QuantLayerNorm(dim, bits) if bits else nn.LayerNorm(dim)
        self.linear = nn.ModuleList(
            QuantLinear(i, o, bits) if bits else nn.Linear(i, o) for i, o in sizes
        )
        self.act = nn.ModuleList(act(bits) if bits else nn.Identity() for _ in sizes)
        self.gelu = nn.ModuleList(gelu() if bits else nn.GELU() for _ in sizes[:-1])

    def forward(self, t: Tokens, trace: Trace | None) -> Score:
        y = self.gelu[0](self.act[0](self.linear[0](self.norm(t.x))))
        y = self.pooled(y, t.candidates())
        for i in (1, 2):
            y = self.gelu[i](self.act[i](self.linear[i](y)))
        return Score(Tokens(self.act[3](self.linear[3](y))).value[..., 0])

    @staticmethod
    def pooled(y: Any, patches: Tensor) -> Any:
        t = Tokens(y)
        local, wide = t.value.chunk(2, -1)
        mean = (wide.double() * patches[:, None]).sum(1, keepdim=True) / patches.sum()
        return t.wrap(torch.cat([local.double(), mean.expand(local.shape)], -1))


class GatedHeads(Scorer):
    """Float twin of HeatViT's score (``qvit.TokenSelector``), for top-k."""

    learned = True

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        head = dim // heads
        half, quarter = max(1, head // 2), max(1, head // 4)
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        sizes = [(head, half), (2 * half, half), (half, quarter), (quarter, 1)]
        self.weight = nn.ParameterList(
            torch.empty(heads, i, o).uniform_(-(i**-0.5), i**-0.5) for i, o in sizes
        )
        self.bias = nn.ParameterList(torch.zeros(heads, 1, o) for _, o in sizes)
        self.gate = nn.Sequential(nn.Linear(heads, heads), nn.GELU(), nn.Linear(heads, heads))

    def forward(self, t: Tokens, trace: Trace | None) -> Score:
        y = self.norm(t.value).unflatten(-1, (self.heads, -1))
        u = nn.functional.gelu(self._layer(0, y.transpose(1, 2)))
        patches = t.candidates().clone()
        patches[-1] = True  # a package token counts
        mean = (u * patches[:, None]).sum(2, keepdim=True) / patches.sum()
        u = torch.cat([u, mean.expand_as(u)], -1)
        for i in (1, 2):
            u = nn.functional.gelu(self._layer(i, u))
        score = torch.tanh(self._layer(3, u)[..., 0] / 2)
        gate = torch.sigmoid(self.gate(y.mean(-1))).transpose(1, 2)
        return Score((score * gate).sum(1))

    def _layer(self, i: int, x: Tensor) -> Tensor:
        return x @ self.weight[i] + self.bias[i]


# -- policy --------------------------------------------------------------------------------------
class TopK(nn.Module):
    """The ``k`` candidates of the largest scores, of equal ones the first."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def forward(self, score: Tensor, candidates: Tensor) -> Tensor:
        """bool ``[B, T]``, the class token among the kept."""
        low = torch.where(candidates, score, -math.inf)
        order = low.sort(dim=1, descending=True, stable=True).indices
        keep = torch.zeros_like(candidates).expand(score.shape).clone()
        keep.scatter_(1, order[:, : self.k], True)
        return (keep & candidates) | (torch.arange(score.shape[1], device=score.device) == 0)


# -- reducers ------------------------------------------------------------------------------------
class Gather(nn.Module):
    """Dropped tokens are gone."""

    def forward(self, t: Tokens, keep: Tensor, score: Score, kept: int) -> Tokens:
        index = _raster(keep, kept)
        return replace(t, x=t.wrap(_pick(t.value, index)), package=False)


class GatherPlusOne(nn.Module):
    """Dropped tokens, and a package token that came, become one package token: their mean, weighted
    by ``weight`` of the score; plain if all weights are 0."""

    def __init__(self, weight: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, t: Tokens, keep: Tensor, score: Score, kept: int) -> Tokens:
        x = t.value
        w = self.weight(score.value).to(x.dtype) * ~keep
        none = w.sum(1, keepdim=True) <= 0
        w = torch.where(none, (~keep).to(x.dtype), w).double()
        package = (w[..., None] * x.double()).sum(1, keepdim=True) / w.sum(1)[:, None, None]
        picked = _pick(x, _raster(keep, kept)).double()
        return replace(t, x=t.wrap(torch.cat([picked, package], 1)), package=True)


class Merge(nn.Module):
    """A dropped token joins its partner: their mean, weighted by the patches they stand for."""

    def forward(self, t: Tokens, keep: Tensor, score: Score, kept: int) -> Tokens:
        assert score.partner is not None
        x = t.value.double()
        size = torch.ones_like(x[..., 0]) if t.size is None else t.size.double()
        own = torch.arange(x.shape[1], device=x.device).expand(keep.shape)
        target = torch.where(keep, own, score.partner)
        total = torch.zeros_like(size).scatter_add(1, target, size)
        wide = target[..., None].expand(x.shape)
        mean = torch.zeros_like(x).scatter_add(1, wide, x * size[..., None])
        mean = mean / total.clamp(min=1)[..., None]
        index = _raster(keep, kept)
        return replace(t, x=t.wrap(_pick(mean, index)), size=total.gather(1, index).float())


def _raster(keep: Tensor, kept: int) -> Tensor:
    """int64 ``[B, kept]``: places of the kept tokens, ascending."""
    return (~keep).long().sort(dim=1, stable=True).indices[:, :kept]


def _pick(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))


# -- a stage -------------------------------------------------------------------------------------
class TokenStage(nn.Module):
    """Scorer, policy and reducer in front of a block.

    In training, a learned scorer gets its gradient from ``sigmoid((z - boundary) / temperature)``,
    the probability of keeping a token whose score is z, the boundary lying between the smallest
    kept and the largest dropped score; and logistic noise of the strength ``noise`` on its scores.
    The same is done in ``qvit.TokenSelector``.
    """

    def __init__(self, scorer: Scorer, policy: TopK, reducer: nn.Module) -> None:
        super().__init__()
        self.scorer, self.policy, self.reducer = scorer, policy, reducer
        self.temperature, self.noise = 0.5, 0.0

    def forward(self, t: Tokens, trace: Trace | None) -> Tokens:
        score = self.scorer(t, trace)
        z = score.value
        if self.scorer.learned and self.training and self.noise > 0:
            u = torch.rand_like(z).clamp(1e-4, 1 - 1e-4)
            z = z + self.noise * self.temperature * (u.log() - (1 - u).log())
        candidates = t.candidates()
        keep = self.policy(z.detach(), candidates)
        if self.scorer.learned and torch.is_grad_enabled():
            t = self._with_gradient(t, z, keep, candidates)
        return self.reducer(t, keep, score, self.policy.k + 1)

    def _with_gradient(self, t: Tokens, z: Tensor, keep: Tensor, candidates: Tensor) -> Tokens:
        low = z.detach().masked_fill(~(keep & candidates), math.inf).amin(1)
        high = z.detach().masked_fill(~(~keep & candidates), -math.inf).amax(1)
        boundary = ((low + high) / 2).nan_to_num(posinf=0.0, neginf=0.0)[:, None]
        soft = torch.sigmoid((z - boundary) / self.temperature) * candidates
        value = t.value + t.value.detach() * (soft - soft.detach())[..., None]
        if isinstance(t.x, IntQuantTensor):
            x = t.x
            return replace(t, x=quant_tensor(value, exponent(x), itype(x), x.training))
        return replace(t, x=value)


# -- methods -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Method:
    """A way to reduce tokens: how its parts are made."""

    title: str
    #: (tokens in front of the stage, bits of quantised layers or 0, recipe, number of the stage)
    scorer: Callable[[int, int, Recipe, int], Scorer]
    reducer: Callable[[Recipe], nn.Module]
    #: at most every other token can go in one stage
    halves: bool = False


#: selector.method of a recipe; without HeatViT's quantised selector, which is qvit.TokenSelector
METHODS: dict[str, Method] = {
    "heatvit": Method(
        "HeatViT: multi-head MLP, package token",
        lambda n, bits, r, i: GatedHeads(r.model.embed_dim, r.model.num_heads),
        lambda r: GatherPlusOne(lambda z: torch.sigmoid(4 / r.model.num_heads * z)),
    ),
    "dynamicvit": Method(
        "DynamicViT: MLP, top-k",
        lambda n, bits, r, i: MlpScore(r.model.embed_dim, bits),
        lambda r: Gather(),
    ),
    "cls_topk": Method(
        "[CLS] attention, top-k (FasterVLM)",
        lambda n, bits, r, i: ClsAttention(),
        lambda r: Gather(),
    ),
    "evit": Method(
        "EViT: [CLS] attention, top-k, fused token",
        lambda n, bits, r, i: ClsAttention(),
        lambda r: GatherPlusOne(lambda z: z),
    ),
    "tome": Method(
        "ToMe: merging",
        lambda n, bits, r, i: Redundancy(),
        lambda r: Merge(),
        halves=True,
    ),
    "random": Method(
        "random drop",
        lambda n, bits, r, i: FixedRandom(n, r.train.seed + i),
        lambda r: Gather(),
    ),
}


def stages(recipe: Recipe, num_patches: int, bits: int = 0) -> dict[str, TokenStage]:
    """{block: stage in front of it} of a recipe; scorers quantised with ``bits``, or float.

    Raises RecipeError for a method that there is not, or that cannot do what the recipe asks.
    """
    s = recipe.selector
    if s.method not in METHODS:
        raise RecipeError(f"{recipe.name}: no method {s.method!r}; known: {', '.join(METHODS)}")
    method = METHODS[s.method]
    out: dict[str, TokenStage] = {}
    before = num_patches
    for i, (block, k) in enumerate(zip(s.blocks, s.topk, strict=True)):
        package = isinstance(method.reducer(recipe), GatherPlusOne) and i > 0
        scorer = method.scorer(1 + before + package, bits, recipe, i)
        if scorer.traced and block == 0:
            raise RecipeError(
                f"{recipe.name}: {s.method} reads the attention of the block before; "
                "selector.blocks must begin behind 0"
            )
        if method.halves and k < before - before // 2:
            raise RecipeError(
                f"{recipe.name}: {s.method} merges every other token at most; "
                f"selector.topk must be at least {before - before // 2} behind {before}"
            )
        out[str(block)] = TokenStage(scorer, TopK(k), method.reducer(recipe))
        before = k
    return out
