# SPDX-License-Identifier: Apache-2.0
"""Pruned variants of a network that came as integers: they show cycles, not accuracy.

* N:M weights: of every M consecutive inputs of an output the N largest magnitudes stay, ties to
  the lower index; in every matrix whose inputs M divides, patch embedding and head included.
  Nothing is trained after it.
* N:M attention rows.
* Token selectors as HeatViT's, in front of a quarter, a half and three quarters of the blocks (of
  DeiT's twelve: blocks 4, 7 and 10). Their weights are random, and top-k fixes how many tokens
  stay: real selector cores decide which, by scores that mean nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sievit.models import selector
from sievit.models.imported import Imported, align_blocks
from sievit.models.pruning import nm_mask
from sievit.quant.cores.attention import AttentionParams
from sievit.quant.cores.nm_matmul import NmMatmulParams, accumulator_type
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.errors import SievitError
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import CoreParams, most_tokens

#: bits of a selector's weights and of the many features of a head, of the few values per head
SELECTOR_BITS, HEAD_BITS = 4, 8
#: root mean square of the GELU of a normal variable
GELU_RMS = 0.65
SEED = 0


class VariantError(SievitError):
    """A network that a variant cannot be made of: what stands in the way, and the remedy."""


@dataclass(frozen=True)
class Variant:
    """What is pruned.

    Attributes:
        weights: (n, m) of the matrices; (1, 1) is dense.
        attention: (n, m) of the attention rows; None leaves them as they are.
        keep: percent of the tokens, class token included, alive behind every selector. A package
            token comes on top.
    """

    weights: tuple[int, int] = (1, 1)
    attention: tuple[int, int] | None = None
    keep: tuple[int, ...] = ()


#: tokens alive behind the three selectors
KEEP = (70, 50, 35)

VARIANTS = {
    "dense": Variant(),
    "dense_pruned": Variant(keep=KEEP),
    "2_4": Variant((2, 4), (2, 4)),
    "2_4_pruned": Variant((2, 4), (2, 4), KEEP),
    "4_16": Variant((4, 16), (2, 16)),
    "4_16_pruned": Variant((4, 16), (2, 16), KEEP),
}


def make(model: Imported, name: str, variant: Variant | None = None) -> Imported:
    """The variant of that name; ``variant`` overrides what ``VARIANTS`` says of it.

    Published values stay where nothing before them was changed. Raises VariantError.
    """
    if variant is None:
        if name not in VARIANTS:
            raise VariantError(f"no variant {name!r}; known: {', '.join(VARIANTS)}")
        variant = VARIANTS[name]
    graph, changed = _Maker(model.graph, variant).run()
    graph.name = title(model, name)
    published = {k: v for k, v in model.published.items() if k not in changed}
    return Imported(graph, model.images, published)


def title(model: Imported, name: str) -> str:
    """Name of the network that a variant makes of a model."""
    return f"{model.graph.name.removeprefix('hgpipe_')}_{name}"


def alive(tokens: int, percent: int) -> int:
    """Tokens alive behind a selector, class token included: the share, rounded up."""
    return -(-tokens * percent // 100)


class _Maker:
    def __init__(self, graph: Graph, variant: Variant) -> None:
        self.graph, self.variant = graph, variant
        self.nodes: list[Node] = []
        #: most tokens and type of every new edge
        self.tokens = {Graph.INPUT: graph.input_tokens}
        self.types = {Graph.INPUT: graph.input.itype}
        #: edges of other values than before
        self.changed: set[str] = set()
        self.full = 0

    def run(self) -> tuple[Graph, set[str]]:
        """The new graph and the edges that carry other values than in the old one."""
        stages, renamed = self.stages(), dict[str, str]()
        for node in self.graph.nodes:
            if node.name in stages:
                (x,) = node.inputs
                renamed[x] = self.selector(node.name.split("_")[1], x, stages[node.name])
            self.take(replace(node, inputs=tuple(renamed.get(e, e) for e in node.inputs)))
        g = self.graph
        nodes = align_blocks(self.nodes)
        out = Graph(g.name, g.input, g.input_tokens, g.input_exponent, nodes, dict(g.meta))
        out.check()
        return out, self.changed

    def stages(self) -> dict[str, int]:
        """Percent of tokens alive by the node that a selector comes in front of."""
        keep = self.variant.keep
        depth = sum(n.core == "attention" for n in self.graph.nodes)
        if depth <= len(keep):
            raise VariantError(
                f"{self.graph.name}: {depth} blocks are too few for {len(keep)} selectors; "
                "take a variant that is not pruned"
            )
        return {
            f"blocks_{(i + 1) * depth // (len(keep) + 1)}_norm1": share
            for i, share in enumerate(keep)
        }

    # -- nodes of the network --------------------------------------------------------------------
    def add(self, node: Node) -> str:
        tokens, p = self.tokens[node.inputs[0]], node.params
        most = most_tokens(p, tokens)
        self.nodes.append(node)
        self.tokens[node.name], self.types[node.name] = most, p.output().itype
        return node.name

    def take(self, old: Node) -> None:
        """The node with the pruning, and with the tokens and types of its new inputs."""
        types = [self.types[e] for e in old.inputs]
        p: CoreParams = replace(old.params, max_tokens=self.tokens[old.inputs[0]])
        constants = old.constants
        if isinstance(p, NmMatmulParams):
            p, constants = self.matrix(old.name, p, constants, types[0])
        elif isinstance(p, AttentionParams):
            p = self.rows(p, types)
        elif isinstance(p, ResidualAddParams):
            p = replace(p, a_type=types[0], b_type=types[1])
        else:
            p = replace(p, in_type=types[0])  # type: ignore[call-arg]
        pruned = any(
            getattr(p, k, None) != getattr(old.params, k, None) for k in ("n", "m")
        ) or not all(torch.equal(v, old.constants[k]) for k, v in constants.items())
        if pruned or self.changed & set(old.inputs):
            self.changed.add(old.name)
        self.add(replace(old, params=p, constants=constants))
        if old.core == "pos_embed":
            self.full = self.tokens[old.name]

    def matrix(
        self, name: str, p: NmMatmulParams, constants: dict[str, Tensor], x: IntType
    ) -> tuple[NmMatmulParams, dict[str, Tensor]]:
        """N:M by magnitude; the accumulator gets the type that the remaining weights need."""
        weight, (n, m) = constants["weight"], self.variant.weights
        fits = p.group_inputs % m == 0
        if not fits and name.startswith("blocks_"):
            raise VariantError(
                f"{name}: {m} does not divide its {p.group_inputs} inputs; "
                f"take a variant of another pattern than {n}:{m}"
            )
        if fits and m > 1:
            weight = weight * nm_mask(weight, n, m)
            p = replace(p, n=n, m=m, simd=m, weight_type=_type(weight))
        acc = accumulator_type(weight, constants["bias"], x)
        if p.entries:
            p = replace(p, in_type=x, acc_type=acc, mid_type=acc)
        else:
            p = replace(p, in_type=x, acc_type=acc, out_type=acc)
        return p, {**constants, "weight": weight}

    def rows(self, p: AttentionParams, types: list[IntType]) -> AttentionParams:
        """N:M rows; the output gets the type of the largest sum of survivors."""
        n, m = self.variant.attention or (p.n, p.m)
        q, k, v = types
        survivors = min(p.max_tokens, -(-p.max_tokens // m) * n)
        most = survivors * p.prob_type.max * max(-v.min, v.max)
        out = IntType.fitting(-most, most)
        return replace(p, n=n, m=m, q_type=q, k_type=k, v_type=v, out_type=out)

    # -- selector --------------------------------------------------------------------------------
    def selector(self, block: str, x: str, percent: int) -> str:
        """Emit the selector of ``qvit.TokenSelector`` on edge ``x``; returns its output edge."""
        stem, tokens, t = f"selectors_{block}", self.tokens[x], self.types[x]
        channels = next(n for n in self.nodes if n.name == x).params.output().channels
        heads = next(
            n.params.heads for n in self.graph.nodes if isinstance(n.params, AttentionParams)
        )
        topk = alive(self.full, percent) - 1
        if topk < 1:
            raise VariantError(
                f"{stem}: {percent} % of {self.full} tokens are the class token alone; "
                "take a variant that is not pruned"
            )
        rng = torch.Generator().manual_seed(SEED + int(block))

        def layer(
            name: str, y: str, rows: int, groups: int = 1, bits: int = HEAD_BITS, rms: float = 1,
            function: selector.Function | None = None, weight: Tensor | None = None,
        ) -> str:  # fmt: skip
            """A matrix whose sums leave with ``bits`` that span -4..4, or a function of them."""
            columns = next(n for n in self.nodes if n.name == y).params.output().channels
            shape, high = (rows, columns // groups), (1 << (SELECTOR_BITS - 1)) - 1
            if weight is None:
                weight = torch.randint(-high, high + 1, shape, generator=rng)
            bias, edge, mid = torch.zeros(rows).long(), self.types[y], IntType(bits, True)
            # the sums have the variance 1 if the inputs, which span -4..4 too, have the given rms
            deviation = rms * math.sqrt(shape[1] * float((weight * weight).double().mean()))
            values, out, _ = selector.table(function, mid, 3 - bits) if function else (bias, mid, 0)
            p = NmMatmulParams(
                max_tokens=tokens, in_channels=columns, out_channels=rows, groups=groups,
                n=1, m=1, simd=1, pe=1, in_type=edge, weight_type=_type(weight),
                bias_type=_type(bias), acc_type=accumulator_type(weight, bias, edge),
                mid_type=mid, out_type=out, shift=round(math.log2(deviation)) + edge.bits - bits,
                entries=len(values) if function else 0, table_offset=-mid.min,
            )  # fmt: skip
            constants = {"weight": weight, "bias": bias} | ({"table": values} if function else {})
            return self.add(Node(f"{stem}_{name}", "nm_matmul", p, constants, (y,)))

        affine = torch.ones(channels), torch.zeros(channels)
        norm, constants, _ = selector.layernorm(tokens, t, SELECTOR_BITS, *affine)
        y = self.add(Node(f"{stem}_norm", "layernorm", norm, constants, (x,)))
        half, quarter = max(1, channels // heads // 2), max(1, channels // heads // 4)
        few, gelu = SELECTOR_BITS, selector.GELU
        u = layer("local", y, heads * half, heads, few, function=gelu)
        mean, constants = selector.token_mean(tokens, heads * half, heads, self.types[u])
        u = self.add(Node(f"{stem}_token_mean", "token_mean", mean, constants, (u,)))
        u = layer("fc1", u, heads * half, heads, few, GELU_RMS, gelu)
        u = layer("fc2", u, heads * quarter, heads, few, GELU_RMS, gelu)
        u = layer("fc3", u, heads, heads, rms=GELU_RMS, function=selector.TWO_WAY)
        lanes = torch.ones(heads, channels // heads, dtype=torch.int64)
        a = layer("lanes", y, heads, heads, weight=lanes)
        a = layer("gate1", a, heads, function=gelu)
        a = layer("gate2", a, heads, rms=GELU_RMS, function=selector.SIGMOID)
        total = selector.gated_sum(tokens, heads, self.types[u], self.types[a])
        z = self.add(Node(f"{stem}_gated_sum", "gated_sum", total, {}, (u, a)))
        select, constants = selector.token_select(
            tokens, channels, t, self.types[z], -15, 4 / heads, topk
        )
        made = self.add(Node(f"{stem}_token_select", "token_select", select, constants, (x, z)))
        self.changed.add(made)
        return made


def _type(x: Tensor) -> IntType:
    """Narrowest signed type of all values."""
    return IntType.fitting(min(-1, int(x.min())), int(x.max()))
