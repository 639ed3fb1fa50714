# SPDX-License-Identifier: Apache-2.0
"""Token reduction: scorers, policy and reducers against definitions written out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from sievit.models import methods as m
from sievit.models import recipe as recipes
from sievit.models.macs import executed
from sievit.models.quantizers import quant_tensor
from sievit.models.qvit import QuantVisionTransformer, survivors
from sievit.models.recipe import Recipe, RecipeError, SelectorRecipe
from sievit.models.train import Geometry, build_model
from sievit.models.vit import VisionTransformer
from sievit.quant.cores import attention
from sievit.quant.itype import IntType

GEOMETRY = Geometry(16, 4, 10, 16, (4, 4))
BASE = Recipe(
    "small",
    model=recipes.ModelRecipe(embed_dim=16, depth=3, num_heads=2, mlp_ratio=1.0),
    sparsity=recipes.SparsityRecipe({"blocks.*": "2:4"}, {"blocks.*.attn": "2:4"}),
)
NAMES = sorted(m.METHODS)
STATIC = [name for name in NAMES if name != "heatvit"]


def recipe(
    method: str, blocks: tuple[int, ...] = (1, 2), topk: tuple[int, ...] = (11, 7)
) -> Recipe:
    return dataclasses.replace(BASE, selector=SelectorRecipe(blocks, topk=topk, method=method))


def network(method: str) -> QuantVisionTransformer:
    """Of random weights, its scales collected."""
    torch.manual_seed(3)
    model = build_model(recipe(method), GEOMETRY, "qat_pruned")
    assert isinstance(model, QuantVisionTransformer)
    model.train()
    for part in model.modules():
        if hasattr(part, "collect_stats_steps"):
            part.collect_stats_steps = 2
    with torch.no_grad():
        for _ in range(4):
            model(torch.randint(0, 17, (8, 16, 4)) / 16)
    return model.eval()


# -- definitions, one image at a time, in Python's numbers -----------------------------------------
def rank(score: list[float], k: int) -> list[int]:
    """Places of the k largest of all but the first, in raster order."""
    order = sorted(range(1, len(score)), key=lambda i: (-score[i], i))[:k]
    return [0, *sorted(order)]


def merged(
    x: list[list[float]], keys: list[list[float]], heads: int, size: list[float], kept: int
) -> Any:
    """ToMe on one image: (tokens, sizes)."""
    count, head = len(x), len(keys[0]) // heads
    metric = [[sum(k[h * head + d] for h in range(heads)) for d in range(head)] for k in keys]

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / math.sqrt(sum(p * p for p in a)) / math.sqrt(sum(q * q for q in b))

    best = {}
    for i in range(2, count, 2):
        found = [(cosine(metric[i], metric[j]), -j) for j in range(1, count, 2)]
        best[i] = max(found)
    # the most similar go first; of equal ones the one of the higher place
    order = sorted(best, key=lambda i: (-best[i][0], -i))
    gone = set(order[: count - 1 - kept])
    groups = {i: [i] for i in range(count) if i not in gone}
    for i in gone:
        groups[-best[i][1]].append(i)
    tokens, sizes = [], []
    for _, members in sorted(groups.items()):
        total = sum(size[i] for i in members)
        tokens.append([sum(size[i] * x[i][c] for i in members) / total for c in range(len(x[0]))])
        sizes.append(total)
    return tokens, sizes


# -- slots ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("package", [False, True])
def test_top_k_against_a_sort(package: bool, rng: torch.Generator) -> None:
    """Few levels, so that the k-th score mostly has equals."""
    score = torch.randint(0, 4, (50, 12), generator=rng).float()
    t = m.Tokens(torch.zeros(50, 12, 1), package)
    for k in (1, 5, 10):
        keep = m.TopK(k)(score, t.candidates())
        for row, kept in zip(score.tolist(), keep.tolist(), strict=True):
            want = rank(row[: 12 - package], k)
            assert [i for i in range(12) if kept[i]] == want


def test_gather_keeps_raster_order(rng: torch.Generator) -> None:
    x = torch.randn(30, 9, 4, generator=rng)
    score = torch.randn(30, 9, generator=rng)
    stage = m.TokenStage(Given(score), m.TopK(5), m.Gather())
    got = stage(m.Tokens(x), None)
    for i in range(30):
        assert torch.equal(got.x[i], x[i, rank(score[i].tolist(), 5)])


class Given(m.Scorer):
    """Scores from outside."""

    def __init__(self, score: Tensor, partner: Tensor | None = None) -> None:
        super().__init__()
        self.given = m.Score(score, partner)

    def forward(self, t: m.Tokens, trace: m.Trace | None) -> m.Score:
        return self.given


@pytest.mark.parametrize("package", [False, True])
def test_package_is_the_weighted_mean_of_the_rest(package: bool, rng: torch.Generator) -> None:
    x = torch.randint(-20, 21, (30, 9, 4), generator=rng).double()
    score = torch.randint(0, 5, (30, 9), generator=rng).double()
    score[0] = 0  # no weight at all: the plain mean
    stage = m.TokenStage(Given(score), m.TopK(4), m.GatherPlusOne(lambda z: z))
    got = stage(m.Tokens(x, package), None)
    assert got.package
    for i in range(30):
        kept = rank(score[i, : 9 - package].tolist(), 4)
        rest = [j for j in range(9) if j not in kept]
        w = [float(score[i, j]) for j in rest]
        w = w if sum(w) else [1.0] * len(rest)
        for c in range(4):
            mean = sum(a * float(x[i, j, c]) for a, j in zip(w, rest, strict=True)) / sum(w)
            assert float(got.x[i, -1, c]) == pytest.approx(mean, abs=1e-12)
        assert torch.equal(got.x[i, :-1], x[i, kept])


def test_merging_against_its_definition(rng: torch.Generator) -> None:
    """Twice, so that sizes count. Metrics, the sums of both heads' keys, are few, so that
    similarities repeat, and of whole lengths: no sqrt rounds, which torch may do in its own way."""
    metrics = [(3, 4), (4, 3), (-3, 4), (4, -3), (6, 8), (5, 12), (-12, 5), (0, 7), (2, 0)]
    t = m.Tokens(torch.randn(20, 13, 6, generator=rng).double())
    for kept in (9, 6):
        count = t.value.shape[1]
        metric = torch.tensor(metrics)[torch.randint(9, (20, count), generator=rng)]
        one = torch.randint(-5, 6, (20, count, 2), generator=rng)
        keys = torch.cat([one, metric - one], -1).double()
        trace = m.Trace(torch.zeros(20, count), keys, 2)
        t64 = m.TokenStage(Exact(), m.TopK(kept), m.Merge())
        size = torch.ones(20, count) if t.size is None else t.size
        got = t64(t, trace)
        for i in range(20):
            x, s = merged(t.value[i].tolist(), keys[i].tolist(), 2, size[i].tolist(), kept)
            assert got.size is not None and got.size[i].tolist() == s
            assert torch.allclose(got.x[i], torch.tensor(x, dtype=torch.float64))
        t = got
    assert t.size is not None and bool((t.size.sum(1) == 13).all())


class Exact(m.Redundancy):
    """In double, as between quantisers."""

    def forward(self, t: m.Tokens, trace: m.Trace | None) -> m.Score:
        ints = quant_tensor(t.value, 0, IntType(8, True), False)
        return super().forward(dataclasses.replace(t, x=ints), trace)


def test_a_fixed_order_is_random_but_fixed() -> None:
    one, two = m.FixedRandom(17, 5), m.FixedRandom(17, 6)
    assert not torch.equal(one.order, two.order)
    assert torch.equal(one.order, m.FixedRandom(17, 5).order)
    assert sorted(one.order.tolist()) == list(range(17))


def test_class_attention_is_the_softmax_row(rng: torch.Generator) -> None:
    torch.manual_seed(1)
    model = VisionTransformer(16, 4, 10, 16, 2, 2, 1.0, m.stages(recipe("evit", (1,), (7,)), 16))
    block = model.blocks[0].attn
    x = torch.randn(5, 17, 16, generator=rng)
    block(x)
    q, k = (f(x).unflatten(-1, (2, 8)) for f in (block.q, block.k))
    for i in range(5):
        rows = [(q[i, 0, h] @ k[i, :, h].T / 8**0.5).softmax(-1) for h in range(2)]
        assert torch.allclose(block.trace.cls[i], (rows[0] + rows[1]) / 2, atol=1e-6)


def test_predictor_against_its_formula(rng: torch.Generator) -> None:
    torch.manual_seed(2)
    scorer = m.MlpScore(8, 0)
    x = torch.randn(3, 6, 8, generator=rng)
    got = scorer(m.Tokens(x), None).value
    norm = torch.nn.functional.layer_norm(x, (8,))
    u = torch.nn.functional.gelu(scorer.linear[0](norm))
    for b in range(3):
        mean = u[b, 1:, 4:].mean(0)  # without the class token
        for i in range(6):
            y = torch.cat([u[b, i, :4], mean])
            for layer in scorer.linear[1:3]:
                y = torch.nn.functional.gelu(layer(y))
            assert float(got[b, i]) == pytest.approx(float(scorer.linear[3](y).detach()), abs=1e-5)


def test_nm_survivors_in_float_are_those_of_the_core(rng: torch.Generator) -> None:
    score = torch.randint(-3, 4, (6, 2, 11, 11), generator=rng)
    frames = torch.tensor([[11.0, 0], [11, 1], [1, 0], [7, 0], [8, 1], [4, 0]])
    for nm in ((2, 4), (1, 4), (2, 16), (4, 4)):
        valid = (torch.arange(11) < frames[:, :1])[:, None, None].expand(score.shape)
        want = attention.survivors(score, valid, *nm)
        assert torch.equal(survivors(score.float(), frames, nm), want)


# -- networks ------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", NAMES)
def test_float_networks_keep_what_they_must(method: str, rng: torch.Generator) -> None:
    torch.manual_seed(4)
    model = VisionTransformer(16, 4, 10, 16, 3, 2, 1.0, m.stages(recipe(method), 16))
    x = torch.rand(6, 16, 4, generator=rng)
    seen: list[int] = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    y = model(x)
    one = method in ("evit", "heatvit")
    assert seen == [17, 12 + one, 8 + one] and y.shape == (6, 10)
    y.sum().backward()
    learned = [p for s in model.selectors.values() for p in s.parameters()]
    assert all(p.grad is not None and bool(p.grad.any()) for p in learned if p.ndim > 1)
    with torch.no_grad():  # an image alone; float sums may differ in order
        assert torch.allclose(torch.cat([model(v[None]) for v in x]), y, atol=1e-5)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("method", STATIC)
def test_quantised_networks(method: str, rng: torch.Generator) -> None:
    """Bit for bit: images are independent, evaluation repeats, tokens lie on the grid."""
    model = network(method)
    x = torch.randint(0, 17, (6, 16, 4), generator=rng) / 16
    with torch.no_grad():
        whole = model(x)
        assert torch.equal(model(x), whole)
        assert torch.equal(torch.cat([model(v[None]) for v in x]), whole)
    package = float(method == "evit")
    assert [s.tolist()[0] for s in model.stages] == [
        [12 + package, package],
        [8 + package, package],
    ]
    model.train()
    model(x).sum().backward()
    learned = [
        p for s in model.selectors.values() for n, p in s.named_parameters() if "linear" in n
    ]
    assert all(p.grad is not None for p in learned)


def test_executed_multiplications(rng: torch.Generator) -> None:
    """Counted by hand for one image."""
    model = network("random")
    for layer in model.matrices().values():
        if layer.nm[1] > 1:
            layer.mask.copy_(torch.arange(layer.mask.shape[1]).expand(layer.mask.shape) % 4 < 2)
    with torch.no_grad():
        model(torch.randint(0, 17, (2, 16, 4), generator=rng) / 16)
    want = 16 * 4 * 16 + 16 * 10  # patches, head
    for tokens in (17, 12, 8):
        want += tokens * 6 * 16 * 16 // 2  # q, k, v, proj, fc1, fc2 at 2:4
        kept = sum(min(2, tokens - start) for start in range(0, tokens, 4))
        want += tokens * 16 * (tokens + kept)
    assert executed(model, model.stages).tolist() == [want, want]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (recipe("magic"), "no method 'magic'; known: heatvit, "),
        (recipe("evit", (0, 1)), "must begin behind 0"),
        (recipe("tome", (1, 2), (7, 5)), "at least 8 behind 16"),
    ],
)
def test_wrong_recipes_are_refused(change: Recipe, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        m.stages(change, 16)


def test_shares_are_for_heatvit_alone() -> None:
    with pytest.raises(RecipeError, match=r"selector\.keep is HeatViT's; evit takes topk"):
        dataclasses.replace(BASE, selector=SelectorRecipe((1,), (0.5,), method="evit"))
