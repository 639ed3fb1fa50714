# SPDX-License-Identifier: Apache-2.0
"""A recipe: everything that defines a trained model, as one TOML file of ``models/zoo``."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from sievit.quant.errors import SievitError

ZOO = Path(__file__).parent / "zoo"


class RecipeError(SievitError, ValueError):
    """A recipe that cannot be used; the message names the key and the remedy."""


@dataclass(frozen=True)
class DataRecipe:
    """Training data."""

    #: loader of models/data.py: digits, cifar10, cifar100, folder, jpeg
    source: str = "digits"
    #: side of a square patch in pixels
    patch_size: int = 2
    #: augmentation (models/augment.py): largest shift in pixels, largest rotation in degrees,
    #: mirror images
    shift: float = 0.0
    rotate: float = 0.0
    flip: bool = False
    #: random crop: whole pixels that the picture is padded with on every side
    crop: int = 0
    #: RandAugment: operations per picture, and their magnitude, 0..10
    randaugment: int = 0
    magnitude: float = 9.0
    #: random erasing: probability
    erase: float = 0.0
    #: pixel value behind the edges of a moved picture
    fill: int = 0


@dataclass(frozen=True)
class ModelRecipe:
    """Geometry, in timm's words."""

    embed_dim: int = 48
    depth: int = 4
    num_heads: int = 3
    mlp_ratio: float = 2.0


@dataclass(frozen=True)
class QuantRecipe:
    """Bit widths. All scales are powers of two."""

    weight_bits: int = 4
    #: inputs of the block matrices
    act_bits: int = 6
    #: selector and head activations
    selector_bits: int = 8
    #: residual stream
    residual_bits: int = 12


@dataclass(frozen=True)
class SparsityRecipe:
    """N:M patterns; keys are module names or shell patterns, the last match wins."""

    #: weights, e.g. { "blocks.*" = "2:4", "blocks.0.attn.q" = "1:4" }
    weights: dict[str, str] = field(default_factory=dict)
    #: attention rows, e.g. { "blocks.*.attn" = "2:4" }
    attention: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SelectorRecipe:
    """Token selectors, each in front of a block (0-based)."""

    blocks: tuple[int, ...] = ()
    #: target share of patch tokens alive behind each selector, whose number varies by image
    keep: tuple[float, ...] = ()
    #: or: patch tokens alive behind each selector, the same for every image
    topk: tuple[int, ...] = ()
    #: one of models/methods.py; others than heatvit take topk, and have no hardware
    method: str = "heatvit"


@dataclass(frozen=True)
class TrainRecipe:
    """Three phases: float dense, QAT dense, QAT pruned. Each is AdamW with a cosine schedule."""

    batch_size: int = 128
    weight_decay: float = 0.05
    float_epochs: int = 100
    float_lr: float = 2e-3
    qat_epochs: int = 40
    qat_lr: float = 5e-4
    pruned_epochs: int = 80
    pruned_lr: float = 1e-3
    #: share of the pruned phase in which N falls from M to its value; masks are fixed afterwards
    ramp: float = 0.4
    label_smoothing: float = 0.1
    #: alpha of mixup and of cutmix; a batch takes one of those that are not 0
    mixup: float = 0.0
    cutmix: float = 0.0
    #: largest norm of the gradient; 0: not clipped
    clip: float = 1.0
    #: decay of the moving average of the weights, which is what is tested and kept; 0: none
    ema: float = 0.0
    #: the float network computes in bfloat16 where the device can
    amp: bool = False
    #: share of a QAT phase, at its end, whose forward passes compute in the cores' integers;
    #: before, they compute the smooth counterparts, rounded to the same grid, which is several
    #: times faster
    exact: float = 1.0
    #: epochs from one test to the next
    test_every: int = 1
    #: weight of the distillation loss (KL to the float model), 0..1
    distill: float = 0.5
    #: weight of the keep-ratio loss
    ratio: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """One model of the zoo."""

    name: str
    title: str = ""
    data: DataRecipe = DataRecipe()
    model: ModelRecipe = ModelRecipe()
    quant: QuantRecipe = QuantRecipe()
    sparsity: SparsityRecipe = SparsityRecipe()
    selector: SelectorRecipe = SelectorRecipe()
    train: TrainRecipe = TrainRecipe()

    def __post_init__(self) -> None:
        m, s = self.model, self.selector
        if m.embed_dim % m.num_heads:
            raise RecipeError(f"{self.name}: model.num_heads must divide model.embed_dim")
        if s.keep and s.topk:
            raise RecipeError(f"{self.name}: give selector.keep or selector.topk, not both")
        if s.method != "heatvit" and s.keep:
            raise RecipeError(f"{self.name}: selector.keep is HeatViT's; {s.method} takes topk")
        if len(s.blocks) != len(s.topk or s.keep):
            which = "topk" if s.topk else "keep"
            raise RecipeError(f"{self.name}: selector.blocks and selector.{which} differ in length")
        if any(k < 1 for k in s.topk) or list(s.topk) != sorted(set(s.topk), reverse=True):
            raise RecipeError(f"{self.name}: selector.topk must fall from selector to selector")
        if any(not 0 <= b < m.depth for b in s.blocks) or list(s.blocks) != sorted(set(s.blocks)):
            raise RecipeError(f"{self.name}: selector.blocks must ascend within 0..{m.depth - 1}")
        for text in (*self.sparsity.weights.values(), *self.sparsity.attention.values()):
            parse_nm(text)

    def weight_nm(self, module: str) -> tuple[int, int]:
        """(n, m) of a weight matrix; (1, 1) is dense."""
        n, m = _match(self.sparsity.weights, module)
        return (1, 1) if n == m else (n, m)

    def attention_nm(self, module: str) -> tuple[int, int]:
        """(n, m) of the attention rows; n = m is dense, m keys at a time."""
        return _match(self.sparsity.attention, module)


def parse_nm(text: str) -> tuple[int, int]:
    """``"2:4"`` -> (2, 4). Raises RecipeError for anything but 1 <= N <= M <= 32."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]) <= 32:
        raise RecipeError(f"{text!r} is not an N:M pattern; write for example 2:4")
    return int(match[1]), int(match[2])


def _match(patterns: dict[str, str], module: str) -> tuple[int, int]:
    found = "4:4"
    for pattern, text in patterns.items():
        if fnmatchcase(module, pattern):
            found = text
    return parse_nm(found)


def names() -> list[str]:
    """Recipes of the zoo."""
    return sorted(p.stem for p in ZOO.glob("*.toml"))


def load(name: str) -> Recipe:
    """A recipe by zoo name or by path of a TOML file.

    Raises RecipeError for an unknown recipe, an unknown key or a value of the wrong kind.
    """
    path = Path(name) if name.endswith(".toml") else ZOO / f"{name}.toml"
    if not path.is_file():
        raise RecipeError(f"no recipe {name!r}; known: {', '.join(names())}, or give a .toml file")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: {error}") from error
    return _build(Recipe, {"name": path.stem, **values}, path.name)


def _build(cls: type[Any], values: dict[str, Any], where: str) -> Any:
    known = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise RecipeError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    out: dict[str, Any] = {}
    for key, value in values.items():
        default = known[key].default
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise RecipeError(f"{where}: {key} must be a table")
            value = _build(type(default), value, f"{where} [{key}]")
        elif isinstance(default, tuple):
            value = tuple(value) if isinstance(value, list) else value
        elif isinstance(default, float) and isinstance(value, int):
            value = float(value)
        if default is not dataclasses.MISSING and type(value) is not type(default):
            raise RecipeError(f"{where}: {key} must be {type(default).__name__}, not {value!r}")
        out[key] = value
    return cls(**out)
