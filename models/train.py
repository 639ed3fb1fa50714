# SPDX-License-Identifier: Apache-2.0
"""Training in three phases: float dense, QAT dense, QAT pruned. Interruptible; resumes exactly."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import (
    affine_grid,
    cross_entropy,
    grid_sample,
    kl_div,
    log_softmax,
    softmax,
)

from sievit.models.data import DataError, Dataset, patchify
from sievit.models.pruning import sparsify
from sievit.models.quantizers import QuantLinear, load_statistics, statistics
from sievit.models.qvit import QuantVisionTransformer, image_input
from sievit.models.recipe import Recipe, RecipeError
from sievit.models.vit import VisionTransformer
from sievit.quant.errors import SievitError

PHASES = ("float", "qat_dense", "qat_pruned")


class CheckpointError(SievitError):
    """A checkpoint that is missing, damaged or of another recipe."""


@dataclass
class Geometry:
    """What a data set and a recipe say about the network's ends."""

    num_patches: int
    patch_dim: int
    num_classes: int
    levels: int
    grid: tuple[int, int]


def geometry(recipe: Recipe, data: Dataset) -> Geometry:
    """Raises DataError if the images do not divide into patches."""
    try:
        patches = patchify(data.test_images[:1], recipe.data.patch_size)
    except ValueError as error:
        raise DataError(f"{error}; change data.patch_size or resize the pictures") from error
    _, _, height, width = data.test_images.shape
    size = recipe.data.patch_size
    return Geometry(
        patches.shape[1],
        patches.shape[2],
        len(data.classes),
        data.levels,
        (height // size, width // size),
    )


def build_model(recipe: Recipe, g: Geometry, phase: str) -> nn.Module:
    """An untrained network of a phase."""
    if phase == "float":
        m = recipe.model
        return VisionTransformer(
            g.num_patches,
            g.patch_dim,
            g.num_classes,
            m.embed_dim,
            m.depth,
            m.num_heads,
            m.mlp_ratio,
        )
    topk = recipe.selector.topk
    if topk and topk[0] >= g.num_patches:
        raise RecipeError(
            f"{recipe.name}: selector.topk keeps {topk[0]} of {g.num_patches} patches; take fewer"
        )
    pruned = phase == "qat_pruned"
    model = QuantVisionTransformer(
        recipe, g.num_patches, g.patch_dim, g.num_classes, g.levels, pruned
    )
    if pruned:
        for name, layer in model.matrices().items():
            layer.nm = recipe.weight_nm(name)
    return model


def augment(images: Tensor, recipe: Recipe, rng: torch.Generator) -> Tensor:
    """Random shift, rotation and mirror of uint8 ``[B, C, H, W]``; integers again, same range."""
    r = recipe.data
    batch, _, height, _ = images.shape
    angle = (torch.rand(batch, generator=rng) * 2 - 1) * r.rotate * torch.pi / 180
    shift = (torch.rand(batch, 2, generator=rng) * 2 - 1) * 2 * r.shift / height
    mirror = 1 - 2 * (torch.rand(batch, generator=rng) < 0.5).float() * r.flip
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1]], 1)
    grid = affine_grid(theta.reshape(batch, 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images.float(), grid, align_corners=False).round().to(images.dtype)


@torch.no_grad()
def logits(model: nn.Module, patches: Tensor, levels: int, batch: int = 512) -> Tensor:
    """Eval-mode logits float ``[N, classes]`` of integer patches."""
    model.eval()
    return torch.cat([model(image_input(p, levels)).flatten(1) for p in patches.split(batch)])


def accuracy(y: Tensor, labels: Tensor) -> float:
    """Top-1 in percent; ties go to the lower class."""
    return 100 * (y.argmax(1) == labels).double().mean().item()


@torch.no_grad()
def kept_tokens(model: QuantVisionTransformer, patches: Tensor) -> list[Tensor]:
    """Patch tokens alive behind every selector, int64 ``[N]`` each."""
    model.eval()
    model(image_input(patches, model.levels))
    return [(s[:, 0] - s[:, 1] - 1).long() for s in model.stages]


class Trainer:
    """Runs the phases of a recipe and keeps everything that a resumed run needs.

    ``folder/state.pt`` is written after every epoch, atomically.
    """

    def __init__(self, recipe: Recipe, data: Dataset, folder: Path, console: Console) -> None:
        self.recipe, self.data, self.folder, self.console = recipe, data, folder, console
        self.geometry = geometry(recipe, data)
        self.test = patchify(data.test_images, recipe.data.patch_size)
        self.done: dict[str, dict[str, Any]] = {}
        self.resume: dict[str, Any] | None = None
        #: state of torch's random numbers at the end of the last finished phase
        self.torch_rng: Tensor | None = None
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / "state.pt"
        if state.exists():
            saved = torch.load(state, weights_only=True)
            if saved["recipe"] == repr(dataclasses.replace(recipe, title="")):
                self.done, self.resume = saved["done"], saved["phase"]
                self.torch_rng = saved.get("torch_rng")
                where = (
                    f", {self.resume['name']} epoch {self.resume['epoch']}" if self.resume else ""
                )
                console.print(
                    f"resuming from {state}: finished {list(self.done) or 'nothing'}{where}"
                )
            else:
                console.print(f"{state} belongs to another recipe: starting afresh")

    def save(self, phase: dict[str, Any] | None) -> None:
        write_atomically(
            self.folder / "state.pt",
            {
                "recipe": repr(dataclasses.replace(self.recipe, title="")),
                "done": self.done,
                "phase": phase,
                "torch_rng": self.torch_rng,
            },
        )

    def run(self) -> dict[str, dict[str, Any]]:
        """Train what is missing. Returns {phase: {state, accuracy}}."""
        from torch.utils.tensorboard import SummaryWriter

        torch.manual_seed(self.recipe.train.seed)
        if self.torch_rng is not None:
            torch.set_rng_state(self.torch_rng)
        with SummaryWriter(str(self.folder / "tensorboard")) as log:
            for name in PHASES:
                if name not in self.done:
                    self.phase(name, log)
        return self.done

    def start(self, name: str) -> nn.Module:
        """The network of a phase with the weights that it begins with."""
        model = build_model(self.recipe, self.geometry, name)
        before = {"qat_dense": "float", "qat_pruned": "qat_dense"}.get(name)
        if before:
            model.load_state_dict(self.done[before]["state"], strict=False)
        return model

    def phase(self, name: str, log: Any) -> None:
        t = self.recipe.train
        epochs = {"float": t.float_epochs, "qat_dense": t.qat_epochs, "qat_pruned": t.pruned_epochs}
        rates = {"float": t.float_lr, "qat_dense": t.qat_lr, "qat_pruned": t.pruned_lr}
        total, rate = epochs[name], rates[name]
        model = self.start(name)
        for parameter_name, parameter in model.named_parameters():
            if "scaling_impl" in parameter_name:  # statistics: once collected, they stay
                parameter.requires_grad_(False)
        free = [p for p in model.parameters() if p.requires_grad]
        decay = [p for p in free if p.ndim >= 2]
        rest = [p for p in free if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": t.weight_decay},
                {"params": rest, "weight_decay": 0},
            ],
            lr=rate,
        )
        steps = -(-len(self.data.train_labels) // t.batch_size)
        warm = max(1, total // 20) * steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i: _cosine(i, warm, total * steps)
        )
        rng = torch.Generator().manual_seed(t.seed + PHASES.index(name))
        teacher = None
        if name != "float":
            teacher = build_model(self.recipe, self.geometry, "float").eval()
            teacher.load_state_dict(self.done["float"]["state"])
        first = 0
        if self.resume and self.resume["name"] == name:
            model.load_state_dict(self.resume["model"])
            load_statistics(model, self.resume["statistics"])
            optimizer.load_state_dict(self.resume["optimizer"])
            schedule.load_state_dict(self.resume["schedule"])
            rng.set_state(self.resume["rng"])
            torch.set_rng_state(self.resume["torch_rng"])
            first = self.resume["epoch"]
        self.resume = None
        columns = (
            TextColumn("{task.description:<11}"),
            BarColumn(30),
            TextColumn("{task.completed}/{task.total} epochs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=total, completed=first, note="")
            for epoch in range(first, total):
                share = epoch / total
                losses = self.epoch(model, teacher, optimizer, schedule, rng, share)
                top1 = accuracy(logits(model, self.test, self.data.levels), self.data.test_labels)
                note = f"loss {losses['loss']:.3f} test {top1:.2f} %"
                for key, value in {**losses, "test_top1": top1}.items():
                    log.add_scalar(f"{name}/{key}", value, epoch)
                if isinstance(model, QuantVisionTransformer) and model.pruned:
                    kept = kept_tokens(model, self.test)
                    for i, k in enumerate(kept):
                        log.add_scalar(f"{name}/kept_{i}", k.double().mean(), epoch)
                    note += " kept " + " ".join(f"{k.double().mean():.1f}" for k in kept)
                progress.update(task, advance=1, note=note)
                self.save(
                    {
                        "name": name,
                        "epoch": epoch + 1,
                        "model": model.state_dict(),
                        "statistics": statistics(model),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "rng": rng.get_state(),
                        "torch_rng": torch.get_rng_state(),
                    }
                )
            if not self.console.is_terminal:
                self.console.print(f"{name}: {total} epochs, {note}")
        self.done[name] = {"state": model.state_dict(), "accuracy": top1}
        self.torch_rng = torch.get_rng_state()
        self.save(None)

    def batches(self, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data.train_labels), generator=rng)
        for index in order.split(self.recipe.train.batch_size):
            images = augment(self.data.train_images[index], self.recipe, rng)
            yield patchify(images, self.recipe.data.patch_size), self.data.train_labels[index]

    def epoch(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        rng: torch.Generator,
        share: float,
    ) -> dict[str, float]:
        """One pass over the training split; mean losses by name."""
        t = self.recipe.train
        model.train()
        layers: dict[str, QuantLinear] = {}
        keep: tuple[float, ...] = ()
        if isinstance(model, QuantVisionTransformer):
            layers = model.matrices()
            if model.pruned:
                keep = self.recipe.selector.keep
                if share <= t.ramp + max(0.05, 1 / t.pruned_epochs):
                    last = round(share * t.pruned_epochs) == t.pruned_epochs - 1
                    sparsify(layers, 1.0 if last or not t.ramp else share / t.ramp)
                for selector in model.token_selectors():
                    selector.noise = max(0.0, 1 - share / 0.7)
        sums: dict[str, float] = {}
        count = 0
        for patches, labels in self.batches(rng):
            x = image_input(patches, self.data.levels)
            y = model(x).flatten(1)
            parts = {"ce": cross_entropy(y, labels, label_smoothing=t.label_smoothing)}
            if teacher is not None:
                with torch.no_grad():
                    target = softmax(teacher(x), -1)
                parts["distill"] = kl_div(log_softmax(y, -1), target, reduction="batchmean")
            if keep and isinstance(model, QuantVisionTransformer):
                shares = torch.stack([s.alive for s in model.token_selectors()]) / x.shape[1]
                parts["ratio"] = ratio_loss(shares, torch.tensor(keep))
            d = t.distill if teacher is not None else 0.0
            weights = {"ce": 1 - d, "distill": d, "ratio": t.ratio}
            loss = torch.stack([weights[k] * v for k, v in parts.items()]).sum()
            optimizer.zero_grad()
            loss.backward()
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            for layer in layers.values():
                layer.project()
            for key, value in {**parts, "loss": loss}.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach()) * len(labels)
            count += len(labels)
        return {k: v / count for k, v in sums.items()}


def ratio_loss(shares: Tensor, keep: Tensor) -> Tensor:
    """Squared distance of the mean share alive from its target, plus half that of every image.

    The first term sets the compute; the second keeps a selector from deciding image by image, all
    or nothing, instead of token by token. ``shares``: ``[stages, B]``, ``keep``: ``[stages]``.
    """
    mean = (shares.mean(1) - keep).square().sum()
    each = (shares - keep[:, None]).square().mean(1).sum()
    return mean + 0.5 * each


def _cosine(step: int, warm: int, total: int) -> float:
    import math

    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def write_atomically(path: Path, value: Any) -> None:
    """Write through a temporary file, so that an interruption leaves the old file."""
    temporary = path.with_suffix(path.suffix + ".part")
    torch.save(value, temporary)
    os.replace(temporary, path)


def save_checkpoint(path: Path, recipe: Recipe, done: dict[str, dict[str, Any]]) -> None:
    """The three trained networks and their accuracy in one file."""
    write_atomically(path, {"recipe": recipe.name, "phases": done})


def load_checkpoint(path: Path, recipe: Recipe, g: Geometry) -> dict[str, nn.Module]:
    """{phase: network in eval mode}.

    Raises CheckpointError if the file is missing, damaged, or does not fit the recipe.
    """
    remedy = f"train it: sievit train {recipe.name}"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; {remedy}")
    try:
        saved = torch.load(path, weights_only=True)
        phases = saved["phases"]
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); {remedy}") from error
    models = {}
    for name in PHASES:
        model = build_model(recipe, g, name)
        try:
            model.load_state_dict(phases[name]["state"])
        except (KeyError, RuntimeError) as error:
            first = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"{path} does not fit recipe {recipe.name}: {first}; {remedy}"
            ) from error
        models[name] = model.eval()
    return models
