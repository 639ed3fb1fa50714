# SPDX-License-Identifier: Apache-2.0
"""A Vision Transformer as an hls4ml user would bring it: Brevitas and torch alone, nothing of
sievit."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import brevitas.nn as qnn
import hls4ml
import torch
from brevitas.export import export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFixedPoint,
    Int8WeightPerTensorFixedPoint,
    Uint8ActPerTensorFixedPoint,
)
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model
from torch import Tensor, nn

TOKENS, DIM, CLASSES = 7, 12, 5


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    return qnn.QuantLinear(
        inputs, outputs, bias, weight_quant=Int8WeightPerTensorFixedPoint, weight_bit_width=4
    )


def act(bits: int = 8) -> nn.Module:
    return qnn.QuantIdentity(act_quant=Int8ActPerTensorFixedPoint, bit_width=bits)


class Attention(nn.Module):
    """Heads of their own matrices, or one matrix for all as in timm."""

    def __init__(self, dim: int, heads: int, packed: bool) -> None:
        super().__init__()
        self.heads, self.packed = heads, packed
        self.qkv = linear(dim, 3 * dim)
        self.q, self.k, self.v = (linear(dim, dim) for _ in range(3))
        self.q_act, self.k_act, self.v_act = (act() for _ in range(3))
        self.score_act, self.out_act = act(), act()
        self.prob_act = qnn.QuantIdentity(act_quant=Uint8ActPerTensorFixedPoint)
        self.proj = linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        d = c // self.heads
        if self.packed:
            qkv = self.qkv(x).reshape(b, n, 3, self.heads, d).permute(2, 0, 3, 1, 4)
            q, k, v = self.q_act(qkv[0]), self.k_act(qkv[1]), self.v_act(qkv[2])
            score = self.score_act((q * d**-0.5) @ k.transpose(-2, -1))
        else:
            q, k, v = (
                a(m(x).reshape(b, n, self.heads, d).transpose(1, 2))
                for m, a in ((self.q, self.q_act), (self.k, self.k_act), (self.v, self.v_act))
            )
            score = self.score_act(q @ k.transpose(-2, -1) / d**0.5)
        y = self.prob_act(score.softmax(-1)) @ v
        return self.proj(self.out_act(y.transpose(1, 2).reshape(b, n, c)))


class VisionTransformer(nn.Module):
    """Tokens ``[B, 7, 12]`` -> logits ``[B, 5]``: two blocks, one with GELU, one with ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.pos_act = act(), act(10)
        self.pos = nn.Parameter(torch.randn(1, TOKENS, DIM) * 0.3)
        self.blocks = nn.ModuleList()
        for packed in (True, False):
            block = nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(DIM),
                    "norm1_act": act(6),
                    "attn": Attention(DIM, 3 if packed else 2, packed),
                    "res1": act(10),
                    "norm2": nn.LayerNorm(DIM),
                    "norm2_act": act(6),
                    "fc1": linear(DIM, 2 * DIM),
                    "mid": act() if packed else nn.Identity(),
                    "curve": nn.GELU() if packed else nn.ReLU(),
                    "curve_act": act(),
                    "fc2": linear(2 * DIM, DIM),
                    "res2": act(10),
                }
            )
            for name in ("norm1", "norm2"):
                norm = block[name]
                assert isinstance(norm, nn.LayerNorm)
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias, std=0.3)
            self.blocks.append(block)
        self.norm, self.head_act, self.head = nn.LayerNorm(DIM), act(), linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pos_act(self.input(x) + self.pos)
        for b in self.blocks:
            assert isinstance(b, nn.ModuleDict)
            x = b["res1"](x + b["attn"](b["norm1_act"](b["norm1"](x))))
            y = b["curve_act"](b["curve"](b["mid"](b["fc1"](b["norm2_act"](b["norm2"](x))))))
            x = b["res2"](x + b["fc2"](y))
        return self.head(self.head_act(self.norm(x))[:, 0])


def trained(seed: int) -> VisionTransformer:
    """Some steps of training: scales and weights as a user would have them."""
    torch.manual_seed(seed)
    model = VisionTransformer()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(12):
        loss = nn.functional.cross_entropy(
            model(2 * torch.randn(16, TOKENS, DIM)), torch.randint(0, CLASSES, (16,))
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def export(model: nn.Module, path: Path, example: Tensor) -> ModelWrapper:
    """QONNX as hls4ml's documentation asks for it: exported, then cleaned up."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model(example)
        export_qonnx(model, args=example, export_path=str(path), dynamo=False, opset_version=17)
        return cleanup_model(ModelWrapper(str(path)))


def convert(model: ModelWrapper, folder: Path, part: str) -> Any:
    """hls4ml's model, by its ordinary calls."""
    config = hls4ml.utils.config_from_onnx_model(
        model, granularity="name", backend="Vitis", default_precision="fixed<48,16>"
    )
    return hls4ml.converters.convert_from_onnx_model(
        model,
        output_dir=str(folder),
        backend="Vitis",
        io_type="io_stream",
        hls_config=config,
        part=part,
    )
