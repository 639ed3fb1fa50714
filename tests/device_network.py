# SPDX-License-Identifier: Apache-2.0
"""A small network in the shape of a classifier: a frame of tokens comes, a token of logits goes."""

from __future__ import annotations

import torch

from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import CoreParams, Port, load_core

T10 = IntType(10, True)
TOKENS = 5


def network(seed: int = 5) -> Graph:
    """Three beats of 20 bits per token; every logit depends on all tokens."""
    rng = torch.Generator().manual_seed(seed)
    nodes: list[Node] = []

    def add(name: str, core: str, inputs: tuple[str, ...], **fields: object) -> None:
        params: CoreParams = load_core(core).params(max_tokens=TOKENS, **fields)
        constants, _ = load_core(core).stimuli(rng, params, 2)
        nodes.append(Node(name, core, params, constants, inputs))

    add("embed", "nm_matmul", ("input",), in_channels=6, out_channels=8, m=1, n=1, simd=2, pe=4,
        in_type=T10, out_type=T10, shift=5)  # fmt: skip
    add("mean", "token_mean", ("embed",), channels=8, groups=2, simd=4, in_type=T10)
    add("first", "first_token", ("mean",), channels=16, simd=4, in_type=T10)
    add("logits", "nm_matmul", ("first",), in_channels=16, out_channels=10, m=1, n=1, simd=4, pe=2,
        in_type=T10, out_type=IntType(11, True), shift=4)  # fmt: skip
    graph = Graph("device_net", Port("s_axis", 6, 2, T10), TOKENS, 0, nodes)
    graph.check()
    return graph


def checked(seed: int = 5) -> Graph:
    """One attention core, which stops the simulation where it runs without having been reset."""
    core = load_core("attention")
    params = core.params(max_tokens=4)
    constants, _ = core.stimuli(torch.Generator().manual_seed(seed), params, 2)
    ports = params.inputs()
    nodes = [Node("attention", "attention", params, constants, ("input",) * len(ports))]
    port = Port("s_axis", ports[0].channels, ports[0].lanes, ports[0].itype)
    graph = Graph("checked_net", port, 4, 0, nodes)
    graph.check()
    return graph


def smallest(bits: int = 8) -> Graph:
    """A table of one channel: frames and results of one beat."""
    core = load_core("lookup_table")
    t = IntType(bits, False)
    params = core.params(channels=1, simd=1, max_tokens=1, in_type=t, out_type=t)
    constants, _ = core.stimuli(torch.Generator().manual_seed(bits), params, 2)
    nodes = [Node("table", "lookup_table", params, constants, ("input",))]
    return Graph("smallest_net", Port("s_axis", 1, 1, t), 1, 0, nodes)
