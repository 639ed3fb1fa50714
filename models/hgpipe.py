# SPDX-License-Identifier: Apache-2.0
"""The published integer DeiT-Tiny of HG-PIPE as a Graph.

HG-PIPE (Guo et al., ICCAD'24, MIT licence) is a DeiT-Tiny of 3-bit weights and activations with
integer tables; every value of it has a place in a core. What is written differently means the same:

* Its class token replaces patch 0, so that patch has no influence: the graph takes the other 195.
* It floors where a core rounds half up: biases are less by half a step of the output.
* Its tables of the same layer in different blocks divide their range differently; here all are as
  fine as the finest, and repeat entries.
* A value of its residual stream has 14 bits here; it never says how many it has.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sievit.models.imported import FormatError, Imported, align_blocks
from sievit.quant.cores.attention import AttentionParams
from sievit.quant.cores.first_token import FirstTokenParams
from sievit.quant.cores.layernorm import LayernormParams
from sievit.quant.cores.lookup_table import LookupTableParams
from sievit.quant.cores.nm_matmul import NmMatmulParams, accumulator_type
from sievit.quant.cores.pos_embed import PosEmbedParams
from sievit.quant.cores.residual_add import ResidualAddParams
from sievit.quant.graph import Graph, Node
from sievit.quant.itype import IntType
from sievit.quant.params import Port, Stream

HEADS, PIXEL, RESIDUAL = 3, IntType(8, True), IntType(14, True)


def load(path: Path) -> Imported:
    """Read ``hgpipe_deit_tiny_a3w3.npz``. Raises FormatError if it is no such file."""
    try:
        with np.load(path) as file:
            arrays = {k: torch.from_numpy(file[k].astype(np.int64)) for k in file.files}
    except FileNotFoundError:
        raise FormatError(f"{path}: no such file; give the path of the .npz") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: no archive of arrays (.npz): {error}") from error
    try:
        return _Reader(arrays).run()
    except KeyError as error:
        raise FormatError(f"{path}: no array {error}: not a model of HG-PIPE") from error


def _type(x: Tensor, signed: bool = True) -> IntType:
    """Narrowest type of all values."""
    return IntType.fitting(min(-1, int(x.min())) if signed else 0, int(x.max()))


class _Reader:
    def __init__(self, arrays: dict[str, Tensor]) -> None:
        self.arrays = arrays
        self.nodes: list[Node] = []
        self.types: dict[str, IntType] = {}
        self.tokens = 0

    def run(self) -> Imported:
        a = self.arrays
        patches = a["patch_embed_input"][1:]
        port = Port("s_axis", patches.shape[1], 1, PIXEL)
        self.types[Graph.INPUT], self.tokens = PIXEL, len(patches)
        x = self.embed()
        published = {x: a["patch_embed_output"]}
        for i in range(sum(k.startswith("mlp_") and k.endswith("_output") for k in a)):
            x = self.attention(f"blocks_{i}", f"attn_{i}", x)
            published[x] = a[f"attn_{i}_output"]
            x = self.mlp(f"blocks_{i}", f"mlp_{i}", x)
            published[x] = a[f"mlp_{i}_output"]
        channels = self.channels(x)
        params = FirstTokenParams(
            max_tokens=self.tokens, channels=channels, simd=1, in_type=RESIDUAL
        )
        x, self.tokens = self.add("first_token", "first_token", params, {}, x), 1
        x = self.norm("norm", "head_lnq", x)
        x = self.linear("head", "head_matmul", x)
        published[x] = a["network_output"][None]
        nodes = align_blocks(self.nodes)
        graph = Graph("hgpipe_deit_tiny", port, len(patches), 0, nodes, {})
        graph.check()
        return Imported(
            graph, Stream.full(patches[None]), {k: v[None] for k, v in published.items()}
        )

    def add(
        self, name: str, core: str, params: object, constants: dict[str, Tensor], *inputs: str
    ) -> str:
        node = Node(name, core, params, constants, inputs)  # type: ignore[arg-type]
        self.nodes.append(node)
        self.types[name] = node.params.output().itype
        return name

    def channels(self, edge: str) -> int:
        return next(n for n in self.nodes if n.name == edge).params.output().channels

    def scalars(self, name: str) -> list[int]:
        return [int(v) for v in self.arrays[f"{name}_scalars"]]

    # -- layers ----------------------------------------------------------------------------------
    def embed(self) -> str:
        (shift,) = self.scalars("patch_embed")[:1]
        x = self.linear("patch_embed_proj", "patch_embed_matmul", Graph.INPUT, bias=False)
        pos = self.arrays["patch_embed_matmul_bias"].clone()
        pos[0] = self.arrays["patch_embed_cls"]
        params = PosEmbedParams(
            max_tokens=self.tokens, channels=pos.shape[1], simd=1, in_type=self.types[x],
            pos_type=_type(pos), out_type=RESIDUAL, shift=shift, half_up=1,
        )  # fmt: skip
        self.tokens += 1
        return self.add("pos_embed", "pos_embed", params, {"pos": pos}, x)

    def linear(self, name: str, source: str, x: str, table: str = "", bias: bool = True) -> str:
        """The accumulator itself, or what a table gives for it."""
        weight = self.arrays[f"{source}_weight"]
        rows, columns = weight.shape
        b = self.arrays[f"{source}_bias"] if bias else torch.zeros(rows, dtype=torch.int64)
        constants, more = {"weight": weight}, dict[str, Any]()
        if table:
            offset, shift, values = self.table(table)
            b = b + offset
            constants["table"] = values
            more = {"out_type": _type(values, bool(values.min() < 0))}
            more |= {"entries": len(values), "table_shift": shift}
        acc = accumulator_type(weight, b, self.types[x])
        more |= {"mid_type": acc} if table else {"out_type": acc}
        constants["bias"] = b
        params = NmMatmulParams(
            max_tokens=self.tokens, in_channels=columns, out_channels=rows, n=1, m=1, simd=1, pe=1,
            in_type=self.types[x], weight_type=_type(weight), bias_type=_type(b), acc_type=acc,
            shift=0, **more,
        )  # fmt: skip
        return self.add(name, "nm_matmul", params, constants, x)

    def table(self, name: str) -> tuple[int, int, Tensor]:
        """(offset, shift, entries) of a table, so fine that the shift is that of all blocks."""
        offset, shift, bound = self.scalars(name)
        pattern = re.sub(r"\d+", r"\\d+", name) + "_scalars"
        peers = [self.arrays[k].tolist() for k in self.arrays if re.fullmatch(pattern, k)]
        least = min(s for _, s, _ in peers)
        count = max((b + 1) << (s - least) for _, s, b in peers)
        index = torch.arange(count) >> (shift - least)
        return offset, least, self.arrays[f"{name}_table_m"][index.clamp(max=bound)]

    def norm(self, name: str, source: str, x: str) -> str:
        mult, mean_shift, offset, table_shift, bound, shift, bits = self.scalars(source)
        rsqrt = self.arrays[f"{source}_rsqrt_table_m"][: bound + 1]
        scale = self.arrays[f"{source}_lnw_m"]
        bias = self.arrays[f"{source}_lnb_m"] - (1 << (shift - 1))
        params = LayernormParams(
            max_tokens=self.tokens, channels=len(scale), simd=1, in_type=self.types[x],
            out_type=IntType(bits, True), mean_mult=mult, mean_shift=mean_shift, entries=bound + 1,
            table_offset=offset, table_shift=table_shift, rsqrt_type=_type(rsqrt, False),
            norm_shift=0, scale_type=_type(scale), bias_type=_type(bias), shift=shift, half_up=1,
        )  # fmt: skip
        return self.add(
            name, "layernorm", params, {"rsqrt": rsqrt, "scale": scale, "bias": bias}, x
        )

    def attention(self, block: str, source: str, x: str) -> str:
        y = self.norm(f"{block}_norm1", f"{source}_lnq", x)
        q, k, v = (
            self.linear(f"{block}_attn_{c}", f"{source}_gen_{c}_matmul", y, f"{source}_{c}_q")
            for c in "qkv"
        )
        (exp_offset, exp_shift, exp_bound, near_offset, near_shift, bound, near_half, prob_shift,
         far_offset, far_shift, far_bound, far_half, far_prob_shift, bits) = self.scalars(
            f"{source}_softmaxq"
        )  # fmt: skip
        halves = [1 << (prob_shift - 1), 1 << (far_prob_shift - 1)]
        if bound != far_bound or [near_half, far_half] != halves:
            raise FormatError(f"{source}_softmaxq: unequal segments, or no rounding half up")
        table = f"{source}_softmaxq_recip_scaled_table_m"
        segments = [self.arrays[f"{table}_{name}"][: bound + 1] for name in ("one", "two")]
        constants = {
            "exp": self.arrays[f"{source}_softmaxq_exp_opp_table_m"][: exp_bound + 1],
            "recip": torch.cat(segments),
        }
        prob = IntType(bits, False)
        most = self.tokens * prob.max * max(-self.types[v].min, self.types[v].max)
        params = AttentionParams(
            max_tokens=self.tokens, channels=self.channels(q), heads=HEADS, n=4, m=4, simd=1,
            q_type=self.types[q], k_type=self.types[k], v_type=self.types[v],
            exp_offset=exp_offset, exp_shift=exp_shift, exp_entries=exp_bound + 1,
            exp_type=_type(constants["exp"], False), recip_type=_type(constants["recip"], False),
            recip_entries=bound + 1, near_offset=near_offset, near_shift=near_shift,
            far_offset=far_offset, far_shift=far_shift, prob_shift=prob_shift,
            far_prob_shift=far_prob_shift - prob_shift, prob_type=prob,
            out_type=IntType.fitting(-most, most), shift=0, half_up=1,
        )  # fmt: skip
        y = self.add(f"{block}_attn_attention", "attention", params, constants, q, k, v)
        offset, shift, bound = self.scalars(f"{source}_a_q")
        values = self.arrays[f"{source}_a_q_table_m"][: bound + 1]
        quant = LookupTableParams(
            max_tokens=self.tokens, channels=self.channels(y), simd=1, in_type=self.types[y],
            out_type=_type(values), offset=offset, shift=shift, entries=bound + 1,
        )  # fmt: skip
        y = self.add(f"{block}_attn_quant", "lookup_table", quant, {"table": values}, y)
        y = self.linear(f"{block}_attn_proj", f"{source}_gen_o_matmul", y)
        return self.residual(f"{block}_add", source, x, y)

    def mlp(self, block: str, source: str, x: str) -> str:
        y = self.norm(f"{block}_norm2", f"{source}_lnq", x)
        y = self.linear(f"{block}_mlp_fc1", f"{source}_matmul1", y, f"{source}_geluq")
        y = self.linear(f"{block}_mlp_fc2", f"{source}_matmul2", y)
        return self.residual(f"{block}_add_1", source, x, y)

    def residual(self, name: str, source: str, x: str, y: str) -> str:
        mult, shift = self.scalars(source)
        params = ResidualAddParams(
            max_tokens=self.tokens, channels=self.channels(x), simd=1, a_type=self.types[x],
            b_type=self.types[y], out_type=RESIDUAL, a_mult=mult, a_mult_shift=shift, half_up=1,
        )  # fmt: skip
        return self.add(name, "residual_add", params, {}, x, y)
