# SPDX-License-Identifier: Apache-2.0
"""Training in three phases: float dense, QAT dense, QAT pruned. Interruptible; resumes exactly.

Devices and processes are Lightning Fabric's: its launcher starts the processes of a machine, or
finds itself started (``fabric run``, ``torchrun``, a cluster's). Every process draws the same
batches and computes its share of each.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sievit.models.augment import augment, mix
from sievit.models.data import DataError, Dataset, patchify
from sievit.models.pruning import sparsify
from sievit.models.quantizers import (
    QuantLinear,
    collecting,
    load_statistics,
    smooth_forward,
    statistics,
)
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


@torch.no_grad()
def outputs(
    model: nn.Module, patches: Tensor, levels: int, batch: int = 512
) -> tuple[Tensor, list[Tensor]]:
    """Eval-mode logits float ``[N, classes]`` of integer patches, and the frames float ``[N, 2]``
    behind every selector."""
    model.eval()
    y, stages = [], []
    for part in patches.split(batch):
        y.append(model(image_input(part, levels)).flatten(1))
        stages.append(model.stages if isinstance(model, QuantVisionTransformer) else [])
    return torch.cat(y), [torch.cat(frames) for frames in zip(*stages, strict=True)]


def logits(model: nn.Module, patches: Tensor, levels: int, batch: int = 512) -> Tensor:
    """Eval-mode logits float ``[N, classes]`` of integer patches."""
    return outputs(model, patches, levels, batch)[0]


def kept(stages: list[Tensor]) -> list[Tensor]:
    """Patch tokens alive behind every selector, float64 ``[N]`` each, of the frames there."""
    return [(s[:, 0] - s[:, 1] - 1).double() for s in stages]


def accuracy(y: Tensor, labels: Tensor) -> float:
    """Top-1 in percent; ties go to the lower class."""
    return 100 * (y.argmax(1) == labels).double().mean().item()


class OutOfTime(SievitError):  # noqa: N818
    """The wall-clock limit of a training run has passed; the same command goes on."""


class Average:
    """Exponential moving average of the trained parameters of a network.

    The decay rises over the first steps as ``(1 + step) / (10 + step)``, as in timm's ModelEmaV2.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay, self.step = parameters, decay, 0
        self.values: list[Tensor] = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(self.values, list(self.parameters), self.step)
        self.step += 1

    @contextmanager
    def swapped(self, model: nn.Module) -> Iterator[None]:
        """The network with averaged weights, held to its zeros."""
        live = [p.detach().clone() for p in self.parameters]
        self._set(self.values, model)
        try:
            yield
        finally:
            self._set(live, model)

    @torch.no_grad()
    def _set(self, values: list[Tensor], model: nn.Module) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
        for layer in model.modules():
            if isinstance(layer, QuantLinear):
                layer.project()

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        for value, saved in zip(self.values, state["values"], strict=True):
            value.copy_(saved)


def launch(accelerator: str = "cpu", devices: int = 1, nodes: int = 1) -> Fabric:
    """A Fabric whose processes run; default: this one, on the CPU.

    float32 products are exact where a network is quantised: no factor has more than 8 bits, so
    TensorFloat-32 (11 bits) may multiply them.
    """
    strategy = "ddp" if devices * nodes > 1 else "auto"
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, strategy=strategy)
    fabric.launch()
    if fabric.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    return fabric


class Trainer:
    """Runs the phases of a recipe and keeps everything that a resumed run needs.

    ``folder/state.pt`` is written after every epoch, atomically, by the first process.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        folder: Path,
        console: Console,
        fabric: Fabric | None = None,
        given: dict[str, dict[str, Any]] | None = None,
        limit: float = math.inf,
    ) -> None:
        """``fabric``: launched; default: the CPU alone. ``given``: phases that are trained already.
        ``limit``: seconds from now after which an epoch is the last one (OutOfTime)."""
        self.recipe, self.data, self.folder, self.console = recipe, data, folder, console
        self.fabric = fabric or launch()
        self.device = self.fabric.device
        self.end = time.monotonic() + limit
        self.geometry = geometry(recipe, data)
        self.images = data.train_images.to(self.device)
        self.labels = data.train_labels.to(self.device)
        own = slice(self.fabric.global_rank, None, self.fabric.world_size)
        self.test = patchify(data.test_images, recipe.data.patch_size)[own].to(self.device)
        self.test_labels = data.test_labels[own].to(self.device)
        self.done: dict[str, dict[str, Any]] = dict(given or {})
        self.resume: dict[str, Any] | None = None
        #: state of torch's random numbers at the end of the last finished phase
        self.torch_rng: Any = None
        folder.mkdir(parents=True, exist_ok=True)
        state = folder / "state.pt"
        if state.exists():
            saved = torch.load(state, weights_only=True, map_location="cpu")
            if saved["recipe"] == repr(dataclasses.replace(recipe, title="")):
                self.done |= saved["done"]
                self.resume = saved["phase"]
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
        if self.fabric.is_global_zero:
            state = {
                "recipe": repr(dataclasses.replace(self.recipe, title="")),
                "done": self.done,
                "phase": phase,
                "torch_rng": self.torch_rng,
            }
            write_atomically(self.folder / "state.pt", state)
        self.fabric.barrier()

    def run(self, phases: tuple[str, ...] = PHASES) -> dict[str, dict[str, Any]]:
        """Train what is missing of ``phases``. Returns {phase: {state, accuracy}}, on the CPU.

        Raises OutOfTime if the limit has passed before the end; the state is saved.
        """
        from torch.utils.tensorboard import SummaryWriter

        torch.manual_seed(self.recipe.train.seed)
        if self.torch_rng is not None:
            set_rng_state(self.torch_rng)
        first = self.fabric.is_global_zero
        writer = SummaryWriter(str(self.folder / "tensorboard")) if first else nullcontext()
        with writer as log, on(self.device):
            for name in phases:
                if name not in self.done:
                    if self.late():
                        raise OutOfTime(f"time is up before {name}")
                    self.phase(name, log)
        return self.done

    def late(self) -> bool:
        """The limit has passed, by the first process's clock."""
        return bool(self.fabric.broadcast(time.monotonic() > self.end))

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
        model = self.start(name).to(self.device)
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
            fused=self.device.type == "cuda" or None,
        )
        steps = -(-len(self.data.train_labels) // t.batch_size)
        warm = max(1, total // 20) * steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i: _cosine(i, warm, total * steps)
        )
        rng = torch.Generator("cpu").manual_seed(t.seed + PHASES.index(name))
        average = Average(free, t.ema) if t.ema else None
        teacher = None
        if name != "float":
            teacher = build_model(self.recipe, self.geometry, "float").eval().to(self.device)
            teacher.load_state_dict(self.done["float"]["state"])
        first = 0
        if self.resume and self.resume["name"] == name:
            model.load_state_dict(self.resume["model"])
            load_statistics(model, self.resume["statistics"])
            optimizer.load_state_dict(self.resume["optimizer"])
            schedule.load_state_dict(self.resume["schedule"])
            if average:
                average.load_state_dict(self.resume["average"])
            rng.set_state(self.resume["rng"])
            set_rng_state(self.resume["torch_rng"])
            first = self.resume["epoch"]
        self.resume = None
        network = self.fabric.setup_module(model)
        columns = (
            TextColumn("{task.description:<11}"),
            BarColumn(30),
            TextColumn("{task.completed}/{task.total} epochs"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        top1, note = math.nan, ""
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(name, total=total, completed=first, note="")
            for epoch in range(first, total):
                share = epoch / total
                losses = self.epoch(network, teacher, optimizer, schedule, rng, share, average)
                progress.update(task, advance=1)
                found: dict[str, float] = {}
                if not (epoch + 1) % t.test_every or epoch + 1 == total:
                    with average.swapped(model) if average else nullcontext():
                        found, note = self.measure(model)
                    top1 = found["test_top1"]
                    note = f"loss {losses['loss']:.3f} {note}"
                    progress.update(task, note=note)
                if log:
                    for key, value in {**losses, **found}.items():
                        log.add_scalar(f"{name}/{key}", value, epoch)
                self.save(
                    {
                        "name": name,
                        "epoch": epoch + 1,
                        "model": model.state_dict(),
                        "statistics": statistics(model),
                        "optimizer": optimizer.state_dict(),
                        "schedule": schedule.state_dict(),
                        "average": average.state_dict() if average else None,
                        "rng": rng.get_state(),
                        "torch_rng": get_rng_state(),
                    }
                )
                if epoch + 1 < total and self.late():
                    progress.stop()
                    raise OutOfTime(f"time is up after {name} epoch {epoch + 1} of {total}")
            if not self.console.is_terminal:
                self.console.print(f"{name}: {total} epochs, {note}")
        with average.swapped(model) if average else nullcontext():
            if math.isnan(top1):  # interrupted behind the last epoch
                top1 = self.measure(model)[0]["test_top1"]
            state = {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}
        self.done[name] = {"state": state, "accuracy": top1}
        self.torch_rng = get_rng_state()
        self.save(None)

    def measure(self, model: nn.Module) -> tuple[dict[str, float], str]:
        """Top-1 on the test split, patches kept behind each selector; and both as text."""
        y, stages = outputs(model, self.test, self.data.levels)
        counts = [
            (y.argmax(1) == self.test_labels).double().sum(),
            *(k.sum() for k in kept(stages)),
        ]
        total = self.fabric.all_reduce(torch.stack(counts), reduce_op="sum")
        assert isinstance(total, Tensor)
        right, *alive = (total / len(self.data.test_labels)).tolist()
        found = {"test_top1": 100 * right, **{f"kept_{i}": k for i, k in enumerate(alive)}}
        note = f"test {100 * right:.2f} %"
        return found, note + (" kept " + " ".join(f"{k:.1f}" for k in alive) if alive else "")

    def batches(self, rng: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Augmented patches int64 ``[B, T, patch_dim]`` and labels int64 ``[B]``, or class
        probabilities float ``[B, classes]``: whole batches, the same in every process."""
        r = self.recipe
        t = r.train
        order = torch.randperm(len(self.labels), generator=rng, device="cpu")
        for index in order.split(t.batch_size):
            here = index.to(self.device)
            labels = self.labels[here]
            images = augment(self.images[here], r.data, self.data.levels, rng)
            if t.mixup or t.cutmix:
                classes = self.geometry.num_classes
                images, labels = mix(images, labels, classes, t.mixup, t.cutmix, rng)
            yield patchify(images, r.data.patch_size), labels

    def epoch(
        self,
        network: nn.Module,
        teacher: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        schedule: Any,
        rng: torch.Generator,
        share: float,
        average: Average | None = None,
    ) -> dict[str, float]:
        """One pass over the training split; mean losses by name."""
        t = self.recipe.train
        model = getattr(network, "module", network)
        network.train()
        layers: dict[str, QuantLinear] = {}
        keep: tuple[float, ...] = ()
        mode: Any = nullcontext()
        if isinstance(model, QuantVisionTransformer):
            layers = model.matrices()
            if model.pruned:
                keep = self.recipe.selector.keep
                if share <= t.ramp + max(0.05, 1 / t.pruned_epochs):
                    last = round(share * t.pruned_epochs) == t.pruned_epochs - 1
                    sparsify(layers, 1.0 if last or not t.ramp else share / t.ramp)
                for selector in model.token_selectors():
                    selector.noise = max(0.0, 1 - share / 0.7)
            if share < 1 - t.exact:
                mode = smooth_forward()
        rank, world = self.fabric.global_rank, self.fabric.world_size
        half = torch.autocast(self.device.type, torch.bfloat16, enabled=t.amp)
        sums: dict[str, Tensor] = {}
        with mode:
            for whole, targets in self.batches(rng):
                patches, labels = whole[rank::world], targets[rank::world]
                weight = len(labels) * world / len(targets)  # this process's part of the mean
                if not len(labels):  # fewer pictures than processes: join in, count for nothing
                    patches, labels = whole[:1], targets[:1]
                x = image_input(patches, self.data.levels)
                open_scales: list[Any] = collecting(model) if world > 1 else []
                with half if teacher is None else nullcontext():
                    y = network(x).flatten(1).float()
                parts = {"ce": cross_entropy(y, labels, label_smoothing=t.label_smoothing)}
                if teacher is not None:
                    with torch.no_grad(), half:
                        target = softmax(teacher(x).float(), -1)
                    parts["distill"] = kl_div(log_softmax(y, -1), target, reduction="batchmean")
                if keep and isinstance(model, QuantVisionTransformer):
                    shares = torch.stack([s.alive for s in model.token_selectors()]) / x.shape[1]
                    parts["ratio"] = ratio_loss(shares, torch.tensor(keep))
                d = t.distill if teacher is not None else 0.0
                weights = {"ce": 1 - d, "distill": d, "ratio": t.ratio}
                loss = torch.stack([weights[k] * v for k, v in parts.items()]).sum()
                optimizer.zero_grad()
                self.fabric.backward(loss * weight if world > 1 else loss)
                trained = [p for group in optimizer.param_groups for p in group["params"]]
                if t.clip:
                    nn.utils.clip_grad_norm_(trained, t.clip)
                optimizer.step()
                schedule.step()
                for layer in layers.values():
                    layer.project()
                with torch.no_grad():  # every process saw its share: the first one's scales count
                    for scale in open_scales:
                        for tensor in (scale.buffer, scale.value):
                            tensor.copy_(self.fabric.broadcast(tensor.detach()))
                if average:
                    average.update()
                for key, value in {**parts, "loss": loss}.items():
                    part = value.detach().double() * (weight * len(targets) / world)
                    sums[key] = sums[key] + part if key in sums else part
        if not sums:
            return {}
        values = self.fabric.all_reduce(torch.stack(list(sums.values())), reduce_op="sum")
        assert isinstance(values, Tensor)
        return dict(zip(sums, (values / len(self.labels)).tolist(), strict=True))


def ratio_loss(shares: Tensor, keep: Tensor) -> Tensor:
    """Squared distance of the mean share alive from its target, plus half that of every image.

    The first term sets the compute; the second keeps a selector from deciding image by image, all
    or nothing, instead of token by token. ``shares``: ``[stages, B]``, ``keep``: ``[stages]``.
    """
    mean = (shares.mean(1) - keep).square().sum()
    each = (shares - keep[:, None]).square().mean(1).sum()
    return mean + 0.5 * each


def on(device: torch.device) -> Any:
    """New tensors lie on the device; nothing changes on the CPU."""
    return nullcontext() if device.type == "cpu" else device


def get_rng_state() -> Tensor | list[Tensor]:
    """Of torch's random numbers on the CPU, and on the GPU if one is in use."""
    cpu = torch.get_rng_state()
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [cpu, torch.cuda.get_rng_state()] if used else cpu


def set_rng_state(state: Tensor | list[Tensor]) -> None:
    """Back to a state of ``get_rng_state``; that of a GPU is left out where there is none."""
    states = state if isinstance(state, list) else [state]
    torch.set_rng_state(states[0].cpu())
    if len(states) > 1 and torch.cuda.is_available():
        torch.cuda.set_rng_state(states[1].cpu())


def _cosine(step: int, warm: int, total: int) -> float:
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def write_atomically(path: Path, value: Any) -> None:
    """Write through a temporary file, so that an interruption leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".part")
    torch.save(value, temporary)
    os.replace(temporary, path)


def save_checkpoint(path: Path, recipe: Recipe, done: dict[str, dict[str, Any]]) -> None:
    """The trained networks and their accuracy in one file."""
    write_atomically(path, {"recipe": recipe.name, "phases": done})


def load_checkpoint(
    path: Path, recipe: Recipe, g: Geometry, phases: tuple[str, ...] = PHASES
) -> dict[str, nn.Module]:
    """{phase: network in eval mode}.

    Raises CheckpointError if the file is missing, damaged, or does not fit the recipe.
    """
    remedy = f"train it: sievit train {recipe.name}"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}; {remedy}")
    try:
        saved = torch.load(path, weights_only=True)
        found = saved["phases"]
    except Exception as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}); {remedy}") from error
    models = {}
    for name in phases:
        model = build_model(recipe, g, name)
        try:
            model.load_state_dict(found[name]["state"])
        except (KeyError, RuntimeError) as error:
            first = str(error).splitlines()[-1].strip()
            raise CheckpointError(
                f"{path} does not fit recipe {recipe.name}: {first}; {remedy}"
            ) from error
        models[name] = model.eval()
    return models
